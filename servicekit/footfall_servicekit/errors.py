"""Errors of calls: google.rpc.Status with details, written by a server and read by a caller.

Service code raises `RequestError`; the interceptor sends it. A caller reads the other side with `details_of`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Self

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships none

DOMAIN = "footfall"
DETAILS_KEY = "grpc-status-details-bin"

_DO_NOT_REPEAT = ("grpc-retry-pushback-ms", "-1")  # gRPC's own: the retry policy of the caller ends here
_MOST_VIOLATIONS = 20  # a status travels in a header, which must stay below 8 KiB


class RequestError(Exception):
    """A call ends with a status other than OK, for a reason that its caller should know.

    `message` goes to the caller and to the log, so it must not quote personal data. `reason` is one UPPER_SNAKE word
    for programs.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, *details: Message, **metadata: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.repeats = True
        """Whether the caller's gRPC may repeat the call by itself, which its retry policy does for UNAVAILABLE."""
        self.details = (error_details_pb2.ErrorInfo(domain=DOMAIN, reason=reason, metadata=metadata), *details)

    @classmethod
    def invalid(cls, field: str, rule: str) -> Self:
        """INVALID_ARGUMENT: `field` (a path such as `page_size`) breaks `rule`."""
        return cls.invalid_fields([(field, rule)])

    @classmethod
    def invalid_fields(cls, violations: Iterable[tuple[str, str]]) -> Self:
        """INVALID_ARGUMENT: fields break rules; `BadRequest` lists the first 20 of them."""
        listed = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=rule)
            for field, rule in islice(violations, _MOST_VIOLATIONS)
        ]
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in listed)
        bad_request = error_details_pb2.BadRequest(field_violations=listed)
        return cls(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", message, bad_request)

    @classmethod
    def not_found(cls, resource_type: str, name: str) -> Self:
        """NOT_FOUND: no such resource; `ResourceInfo` names it, and the message does not."""
        info = error_details_pb2.ResourceInfo(resource_type=resource_type, resource_name=name)
        return cls(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", f"no such {resource_type}", info)

    @classmethod
    def failed_precondition(cls, reason: str, message: str) -> Self:
        """FAILED_PRECONDITION: the call fails again until the state of the resource changes."""
        return cls(grpc.StatusCode.FAILED_PRECONDITION, reason, message)

    @classmethod
    def aborted(cls, reason: str, message: str) -> Self:
        """ABORTED: a concurrent change came first; read the resource again, and decide again."""
        return cls(grpc.StatusCode.ABORTED, reason, message)

    @classmethod
    def exhausted(cls, message: str, retry_ms: int, reason: str = "LIMIT_REACHED") -> Self:
        """RESOURCE_EXHAUSTED: a limit is reached; try again after the time in `RetryInfo`."""
        return cls(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message, _retry_info(retry_ms))

    @classmethod
    def unavailable(
        cls, message: str, retry_ms: int, reason: str = "DEPENDENCY_UNAVAILABLE", *, repeats: bool = True
    ) -> Self:
        """UNAVAILABLE: a store or service that is needed does not answer; try again after the time in `RetryInfo`.

        `repeats` is false when the call has already waited: repeating it would multiply the time that its caller waits.
        """
        error = cls(grpc.StatusCode.UNAVAILABLE, reason, message, _retry_info(retry_ms))
        error.repeats = repeats
        return error

    @classmethod
    def permission_denied(cls, message: str, reason: str = "NOT_ALLOWED") -> Self:
        """PERMISSION_DENIED: the caller may not do this."""
        return cls(grpc.StatusCode.PERMISSION_DENIED, reason, message)

    @classmethod
    def unimplemented(cls, method: str) -> Self:
        """UNIMPLEMENTED: the contract has the method, and this server does not serve it."""
        return cls(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", f"{method} is not served here")

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The google.rpc.Status as metadata, where gRPC clients look for it."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        details: tuple[str, str | bytes] = (DETAILS_KEY, status.SerializeToString())
        return (details,) if self.repeats else (details, _DO_NOT_REPEAT)


def _retry_info(retry_ms: int) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(retry_ms)
    return info


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """Code, message and details of a failed call. Without a RequestError, as when a connection is lost, no details."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    resource_type: str | None = None
    retry_ms: int | None = None


def details_of(error: grpc.aio.AioRpcError) -> ErrorDetails:
    """The details of a failed call. Details that cannot be parsed are ignored."""
    info, bad, resource, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.ResourceInfo(),
        error_details_pb2.RetryInfo(),
    )
    raw = next((value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY), b"")
    found: set[str] = set()
    try:
        status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"")
        for detail in status.details:
            found |= {known.DESCRIPTOR.name for known in (info, bad, resource, retry) if detail.Unpack(known)}
    except DecodeError:
        found.clear()
    return ErrorDetails(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        violations=tuple((violation.field, violation.description) for violation in bad.field_violations),
        resource_type=resource.resource_type or None,
        retry_ms=retry.retry_delay.ToMilliseconds() if "RetryInfo" in found else None,
    )
