"""Calls to collector, identity and history, and the Problems that their errors become. Only this module uses gRPC."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from footfall.collector.v1.collector_service_pb2 import CollectRequest, CollectResponse
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2 import CreateVisitCodeRequest, CreateVisitCodeResponse
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded, open_channel
from footfall_servicekit.errors import ErrorDetails, details_of
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.health import reason_in
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_gateway.auth import EVERYBODY, Principal
from footfall_gateway.problem import Problem
from footfall_gateway.settings import GatewaySettings

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_RETRY_S = 2
"""Retry-After for clients when a service does not say when to try again."""

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 412,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_EXPLAINED_REASONS = {"INDEX_BEING_BUILT", "LIMIT_REACHED", "LOG_FULL", "LOG_UNAVAILABLE"}
"""Reasons of 503 whose text from the service says more than that it is not available."""
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
        self.collector = CollectorServiceStub(self._channels["collector"])
        self._collect = self.collector.Collect
        self.identity = IdentityServiceStub(self._channels["identity"])
        self.history = HistoryServiceStub(self._channels["history"])
        self._query_s = settings.query_timeout_ms / 1000
        self._live_query_s = settings.live_query_timeout_ms / 1000
        self._collect_s = settings.collect_timeout_ms / 1000
        self._failed_collects = FailureLog("collect failed", "service")
        self._failed_queries = FailureLog("a service failed", "request")

    async def collect(self, request: CollectRequest) -> CollectResponse:
        """Store a batch. Raises Problem 503 when it is not certain that all of it is stored."""
        try:
            response = await self._collect(request, timeout=self._collect_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            details = details_of(error)
            self._failed_collects.failed("collector", code=details.code.name, reason=details.reason)
            raise _log_unavailable(_retry_s(details)) from error
        except asyncio.CancelledError:  # the channel has been closed: nothing else cancels this call
            raise _log_unavailable(_RETRY_S) from None
        self._failed_collects.worked("collector")
        return response

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        principal: Principal,
        parameters: Mapping[str, str] = _NO_PARAMETERS,
        *,
        is_live: bool = False,
    ) -> Answer:
        """Call a method of `identity`, `history` or `collector`, limited to the sites that the HTTP client may see.

        Raises the Problem that corresponds to the error, and 403 for a method that a client with a limit of sites may
        not call. `parameters` has the HTTP names of fields of the request that are not their names in camel case.
        `is_live`: the shorter time limit of live queries applies.
        """
        _limit(request, principal)
        timeout_s = self._live_query_s if is_live else self._query_s
        try:
            answer = await method(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            raise self._problem_of(request, error, parameters) from error
        self._failed_queries.worked(_name_of(request))
        return answer

    async def create_visit_code(self, visit_id: str, site: str) -> CreateVisitCodeResponse:
        """The code of a visit that was seen on a site, or on any if it is empty. Raises Problem."""
        request = CreateVisitCodeRequest(visit_id=visit_id, sites=[site] if site else [])
        parameters = {"visit_id": "visitID"}
        return await self.ask(self.identity.CreateVisitCode, request, EVERYBODY, parameters, is_live=True)

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
                self._failed_queries.worked(_name_of(request))
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._problem_of(request, error, parameters) from error
        finally:
            call.cancel()  # the reader has left early

    def _problem_of(self, request: Any, error: grpc.aio.AioRpcError, parameters: Mapping[str, str]) -> Problem:
        details = details_of(error)
        if _status_of(details) >= 500:
            self._failed_queries.failed(_name_of(request), code=details.code.name, reason=details.reason)
        return _problem(details, parameters)

    async def why_not_serving(self, names: Sequence[str]) -> dict[str, str]:
        """By service (`collector`, `identity`, `history`), why it does not serve; empty: it serves."""
        reasons = await asyncio.gather(*(_why_not_serving(self._health[name]) for name in names))
        return dict(zip(names, reasons, strict=True))

    async def close(self) -> None:
        """Close the channels. Calls in flight end with an error."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def _limit(request: Any, principal: Principal) -> None:
    """Limit a request to the sites that the client may see. Raises Problem 403 when the request cannot be limited."""
    if principal.sites:
        if "sites" not in request.DESCRIPTOR.fields_by_name:
            principal.require_all_sites()
        request.sites[:] = sorted(principal.sites)


def _name_of(request: Any) -> str:
    name: str = request.DESCRIPTOR.full_name
    return name


async def _why_not_serving(health: health_pb2_grpc.HealthStub) -> str:
    call = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return f"it does not answer ({error.code().name})"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return reason_in(await call.trailing_metadata()) or "it does not serve"


def _status_of(details: ErrorDetails) -> int:
    return _STATUS.get(details.code, 500)


def _problem(details: ErrorDetails, parameters: Mapping[str, str]) -> Problem:
    status = _status_of(details)
    match status:
        case 400 if details.violations:
            broken = [f"{parameters.get(field) or http_name(field)}: {rule}" for field, rule in details.violations]
            return Problem(400, "; ".join(broken))
        case 404:
            # The same text as for a resource that this client may not see: see history_api/lookup.py.
            return Problem(404, f"no such {(details.resource_type or 'resource').lower()}")
        case 409 | 412 | 400:
            # Only the text of a RequestError is meant for clients.
            return Problem(status, details.message if details.reason else "refused")
        case 501:
            return Problem(501, "this version of the service does not have the method")
        case 503 if details.reason == "TOO_MANY_WRONG_CODES":
            return Problem(429, details.message, retry_s=_retry_s(details))
        case 503:
            text = "the identity or history service is not available; try again"
            if details.reason in _EXPLAINED_REASONS:
                text = details.message
            return Problem(503, text, retry_s=_retry_s(details))
        case 504:
            return Problem(504, "the identity or history service did not answer in time; try again")
        case _:
            return Problem(500, "internal error")


def http_name(field: str) -> str:
    """The HTTP name of a field: `contact.email_addresses` is `emailAddresses`; `page_*` keep their names."""
    name = field.rpartition(".")[2]
    if name.startswith("page_"):
        return name
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _log_unavailable(retry_s: int) -> Problem:
    return Problem(503, "the event log is not available; try again", retry_s=retry_s)


def _retry_s(details: ErrorDetails) -> int:
    return max(1, math.ceil(details.retry_ms / 1000)) if details.retry_ms is not None else _RETRY_S
