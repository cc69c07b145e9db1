"""Calls to collector, identity and history, and the Problems that their errors become. Only this module uses gRPC."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import structlog
from footfall.collector.v1.collector_service_pb2 import CollectRequest, CollectResponse
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded, open_channel
from footfall_servicekit.errors import ErrorDetails, details_of
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_gateway.auth import Principal
from footfall_gateway.problem import Problem
from footfall_gateway.settings import GatewaySettings

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_RETRY_S = 2
"""Retry-After for clients when a service does not say when to try again."""

_log = structlog.get_logger()

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_NO_PARAMETERS: Mapping[str, str] = {}


class Backends:
    """The three services, with one channel each. Create it in the running event loop, and close it last."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._channels = {
            "collector": open_channel(settings.collector_target, settings.client_tls),
            "identity": open_channel(settings.identity_target, settings.client_tls),
            "history": open_channel(settings.history_target, settings.client_tls),
        }
        self._health = {name: health_pb2_grpc.HealthStub(channel) for name, channel in self._channels.items()}
        self._collect = CollectorServiceStub(self._channels["collector"]).Collect
        self.identity = IdentityServiceStub(self._channels["identity"])
        self.history = HistoryServiceStub(self._channels["history"])
        self._query_s = settings.query_timeout_ms / 1000
        self._collect_s = settings.collect_timeout_ms / 1000

    async def collect(self, request: CollectRequest) -> CollectResponse:
        """Store a batch. Raises Problem 503 when it is not certain that all of it is stored."""
        try:
            return await self._collect(request, timeout=self._collect_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            details = details_of(error)
            _log.warning("collect failed", code=details.code.name, reason=details.reason)
            raise _log_unavailable(_retry_s(details)) from error
        except asyncio.CancelledError:  # the channel has been closed: nothing else cancels this call
            raise _log_unavailable(_RETRY_S) from None

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        principal: Principal,
        parameters: Mapping[str, str] = _NO_PARAMETERS,
    ) -> Answer:
        """Call a method of `identity` or `history`, limited to the sites that the HTTP client may see.

        Raises the Problem that corresponds to the error, and 403 for a method that a client with a limit of sites may
        not call. `parameters` has the HTTP names of fields of the request that are not their names in camel case.
        """
        _limit(request, principal)
        try:
            return await method(request, timeout=self._query_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            raise _problem(details_of(error), parameters) from error

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Answer],
        request: Request,
        principal: Principal,
        parameters: Mapping[str, str] = _NO_PARAMETERS,
        *,
        is_endless: bool = False,
    ) -> AsyncGenerator[Answer, None]:
        """Call a streaming method. Unless it is endless it may last as long as a query. Raises as `ask` does."""
        _limit(request, principal)
        call = method(request, timeout=None if is_endless else self._query_s, metadata=forwarded())
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise _problem(details_of(error), parameters) from error
        finally:
            call.cancel()  # the reader has left early

    async def serving(self, names: Sequence[str]) -> dict[str, bool]:
        """Whether each of these services is healthy: `collector`, `identity` or `history`."""
        answers = await asyncio.gather(*(_is_serving(self._health[name]) for name in names))
        return dict(zip(names, answers, strict=True))

    async def close(self) -> None:
        """Close the channels. Calls in flight end with an error."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def _limit(request: Any, principal: Principal) -> None:
    """Limit a request to the sites that the client may see. Raises Problem 403 when the request cannot be limited."""
    if principal.sites:
        if "sites" not in request.DESCRIPTOR.fields_by_name:
            principal.require_all_sites()
        request.sites[:] = sorted(principal.sites)


async def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _problem(details: ErrorDetails, parameters: Mapping[str, str]) -> Problem:
    status = _STATUS.get(details.code, 500)
    if status >= 500:
        _log.warning("a service failed", code=details.code.name, reason=details.reason)
    match status:
        case 400 if details.violations:
            broken = [f"{parameters.get(field) or _camel(field)}: {rule}" for field, rule in details.violations]
            return Problem(400, "; ".join(broken))
        case 404:
            # The same text as for a resource that this client may not see: see history_api/lookup.py.
            return Problem(404, f"no such {(details.resource_type or 'resource').lower()}")
        case 409 | 400:
            # Only the text of a RequestError is meant for clients.
            return Problem(status, details.message if details.reason else "refused")
        case 501:
            return Problem(501, "this version of the service does not have the method")
        case 503:
            return Problem(
                503, "the identity or history service is not available; try again", retry_s=_retry_s(details)
            )
        case 504:
            return Problem(504, "the identity or history service did not answer in time; try again")
        case _:
            return Problem(500, "internal error")


def _camel(field: str) -> str:
    """The HTTP name of a field: `contact.email_addresses` is `emailAddresses`; `page_*` keep their names."""
    name = field.rpartition(".")[2]
    if name.startswith("page_"):
        return name
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _log_unavailable(retry_s: int) -> Problem:
    return Problem(503, "the event log is not available; try again", retry_s=retry_s)


def _retry_s(details: ErrorDetails) -> int:
    return max(1, math.ceil(details.retry_ms / 1000)) if details.retry_ms is not None else _RETRY_S
