"""Client of the history service: the only module of identity that calls another service."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

import grpc
from footfall.history.v1.history_service_pb2 import LiveVisit, StreamLiveVisitsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall_servicekit.channel import open_channel
from footfall_servicekit.tls import ClientTls

_STREAM_TIMEOUT_S: Final = 3_600.0


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

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
