"""Turns an error of gRPC into an exception whose class says what to do, from the details in google.rpc.Status."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships none


class Violation(NamedTuple):
    """A field of a request, as a path such as `contact.email_addresses[0]`, and the rule that it breaks."""

    field: str
    rule: str


class FootfallError(Exception):
    """A call has failed. The error of gRPC is its `__cause__`. This class itself: a fault, or a status of no subclass.

    - `code`: the status.
    - `reason`: of google.rpc.ErrorInfo, such as `ETAG_MISMATCH`; empty if no service of Footfall has answered.
    - `message`: what is wrong.
    - `violations`: of google.rpc.BadRequest, up to 20.
    - `resource_type`: of google.rpc.ResourceInfo; empty without one.
    - `retry_after_s`: of google.rpc.RetryInfo, the least time to wait before a repetition, in seconds.
    - `request_id`: the log lines of the call have it; empty if no service has answered.
    """

    is_lasting = False
    """The same call fails again."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        *,
        violations: tuple[Violation, ...] = (),
        resource_type: str = "",
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.violations = violations
        self.resource_type = resource_type
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class InvalidRequestError(FootfallError):
    """The request breaks rules: correct the fields in `violations`. Also a message that is too large."""

    is_lasting = True


class NotFoundError(FootfallError):
    """The resource, or the parent of a list, does not exist, or not on the websites in `sites`."""

    is_lasting = True


class NotAllowedError(FootfallError):
    """The certificate or token does not permit the call, or the service does not have the method."""

    is_lasting = True


class ConflictError(FootfallError):
    """The resource has changed since it was read: read it again, and decide again what to write."""

    is_lasting = True


class PreconditionError(FootfallError):
    """What is stored does not permit the call; `reason` says what."""

    is_lasting = True


class PositionLostError(FootfallError):
    """What follows the token of a stream is no longer kept: list again, and stream without the token."""


class LimitError(FootfallError):
    """A limit is reached. Try again after `retry_after_s`."""


class UnavailableError(FootfallError):
    """No connection, or a store or a service does not answer. Try again after `retry_after_s`, if it is given."""


class DeadlineError(FootfallError):
    """The call has taken too long. It may have had its effect."""


_BY_CODE: Final[Mapping[grpc.StatusCode, type[FootfallError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowedError,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowedError,
    grpc.StatusCode.UNIMPLEMENTED: NotAllowedError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}
_BY_REASON: Final[Mapping[str, type[FootfallError]]] = {
    "MESSAGE_TOO_LARGE": InvalidRequestError,
    "RESUME_TOKEN_EXPIRED": PositionLostError,
}


def error_of(error: grpc.RpcError) -> FootfallError:
    """What an error of gRPC says. Details that cannot be parsed are left out."""
    pairs = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    metadata = dict(iter(pairs))  # as pairs also where it is a mapping, in grpc.aio
    info, bad, resource, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.ResourceInfo(),
        error_details_pb2.RetryInfo(),
    )
    details = metadata.get("grpc-status-details-bin", b"")
    has_retry = False
    try:
        for detail in status_pb2.Status.FromString(details).details if isinstance(details, bytes) else ():
            has_retry |= detail.Is(retry.DESCRIPTOR)
            for known in (info, bad, resource, retry):
                detail.Unpack(known)
    except DecodeError:
        has_retry = False
    found = _BY_REASON.get(info.reason) or _BY_CODE.get(error.code(), FootfallError)
    return found(
        error.code(),
        error.details() or "",
        info.reason,
        violations=tuple(Violation(one.field, one.description) for one in bad.field_violations),
        resource_type=resource.resource_type,
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1_000 if has_retry else None,
        request_id=str(metadata.get("x-request-id", "")),
    )
