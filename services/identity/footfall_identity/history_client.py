"""Client of the history service: the only module of identity that calls another service."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from footfall.history.v1.history_service_pb2 import ExplainVisitRequest, LiveVisit, StreamLiveVisitsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.history.v1.visit_pb2 import Visit
from footfall.identity.v1.identity_service_pb2 import GetVisitorRequest
from footfall_servicekit.channel import forwarded, open_channel, remaining
from footfall_servicekit.errors import RequestError, details_of
from footfall_servicekit.tls import ClientTls

_STREAM_TIMEOUT_S: Final = 3_600.0
_QUERY_TIMEOUT_S: Final = 5.0
_RETRY_MS: Final = 1_000


class HistoryUnavailableError(Exception):
    """History does not answer, or not completely. The text is the gRPC status."""


class HistoryClient:
    """The history service. Create it in the running event loop."""

    def __init__(self, target: str, tls: ClientTls | None = None) -> None:
        self._channel = open_channel(target, tls)
        self._stub = HistoryServiceStub(self._channel)

    async def live_visits(self, partitions: Iterable[int]) -> AsyncIterator[list[LiveVisit]]:
        """Yield what history knows of the live visits of these partitions. Raises HistoryUnavailableError."""
        request = StreamLiveVisitsRequest(partitions=partitions)
        try:
            async for response in self._stub.StreamLiveVisits(request, timeout=_STREAM_TIMEOUT_S):
                yield [*response.visits]
        except grpc.aio.AioRpcError as error:
            raise HistoryUnavailableError(error.code().name) from error

    async def visit_at(self, request: GetVisitorRequest, context: "grpc.aio.ServicerContext[Any, Any]") -> Visit | None:
        """Return what history says of a visit at a moment; None: it does not know the visit.

        Raises RequestError: INVALID_ARGUMENT for a time, UNAVAILABLE when history does not answer.
        """
        asked = ExplainVisitRequest(visit_id=request.visit_id, page_size=1, sites=request.sites)
        if request.HasField("as_of_time"):
            asked.as_of_time.CopyFrom(request.as_of_time)
        if request.HasField("known_at_time"):
            asked.known_at_time.CopyFrom(request.known_at_time)
        try:
            timeout_s = remaining(context, _QUERY_TIMEOUT_S)
            return (await self._stub.ExplainVisit(asked, timeout=timeout_s, metadata=forwarded())).visit
        except grpc.aio.AioRpcError as error:
            details = details_of(error)
            if details.code is grpc.StatusCode.NOT_FOUND:
                return None
            if details.violations:
                raise RequestError.invalid_fields(details.violations) from error
            message = "the history service does not answer; try again"
            raise RequestError.unavailable(message, _RETRY_MS, repeats=False) from error

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
