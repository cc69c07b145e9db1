"""The client for asyncio: calls are awaited, and streams are asynchronous iterators."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import grpc
from footfall.history.v1.history_service_pb2 import StreamEventsRequest, StreamEventsResponse
from footfall.identity.v1.identity_service_pb2 import WatchVisitorsRequest, WatchVisitorsResponse

from footfall_client.connection import OPTIONS
from footfall_client.errors import FootfallError, NotFoundError, error_of
from footfall_client.events import EventStream
from footfall_client.paging import AnyRequest, AnyResponse, next_request
from footfall_client.resumption import Item, Message, Request, Resumption
from footfall_client.services import Options, Services
from footfall_client.visitors import LiveChange, LiveVisitors, VisitorWatch

if TYPE_CHECKING:  # types that exist for type checkers only
    from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceAsyncStub
    from footfall.history.v1.history_service_pb2_grpc import HistoryServiceAsyncStub
    from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceAsyncStub


async def _nothing() -> AsyncIterator[Any]:
    nothing: tuple[Any, ...] = ()
    for one in nothing:
        yield one


class AsyncFootfall(Services):
    """As `Footfall`, for asyncio. Open it while the event loop runs, once in the life of a process."""

    identity: "IdentityServiceAsyncStub"
    history: "HistoryServiceAsyncStub"
    collector: "CollectorServiceAsyncStub"
    _channels: list[grpc.aio.Channel]

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._is_closed = asyncio.Event()
        self._streams: set[grpc.aio.UnaryStreamCall[Any, Any]] = set()

    def _open(self, target: str) -> grpc.aio.Channel:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(target, OPTIONS)
        else:
            channel = grpc.aio.secure_channel(target, self._credentials, OPTIONS)
        self._channels.append(channel)
        return cast("grpc.aio.Channel", _Channel(channel, self._deadline_s))

    async def close(self) -> None:
        """End all calls and connections. Iterators of streams end, also those that other tasks read."""
        self._is_closed.set()
        for stream in self._streams:  # a channel finds only those of its calls that a task awaits directly
            stream.cancel()
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def pages(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[AnyRequest, AnyResponse]", request: AnyRequest
    ) -> AsyncIterator[AnyResponse]:
        """As `Footfall.pages`."""
        following: AnyRequest | None = request
        while following is not None:
            page = await method(following)
            yield page
            following = next_request(following, page)

    def live_visitors(self, request: WatchVisitorsRequest | None = None) -> AsyncIterator[LiveChange]:
        """As `Footfall.live_visitors`."""
        return self._resumed(self.identity.WatchVisitors, LiveVisitors(request or WatchVisitorsRequest()))

    def watch_visitors(self, request: WatchVisitorsRequest | None = None) -> AsyncIterator[WatchVisitorsResponse]:
        """As `Footfall.watch_visitors`."""
        return self._resumed(self.identity.WatchVisitors, VisitorWatch(request or WatchVisitorsRequest()))

    def stream_events(
        self, request: StreamEventsRequest | None = None, *, remembered: int = 20_000
    ) -> AsyncIterator[StreamEventsResponse]:
        """As `Footfall.stream_events`."""
        stream = EventStream(request or StreamEventsRequest(), remembered)
        return self._resumed(self.history.StreamEvents, stream, lambda: self._missed(stream))

    async def _missed(self, stream: EventStream) -> AsyncIterator[StreamEventsResponse]:
        if (request := stream.missed()) is not None:
            with suppress(NotFoundError):  # no event of the visit is stored
                async for page in self.pages(self.history.ListEvents, request):
                    for message in stream.listed(page):
                        yield message
            stream.has_listed()

    async def _resumed(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[Request, Message]",
        stream: Resumption[Request, Message, Item],
        missed: Callable[[], AsyncIterator[Item]] = _nothing,
    ) -> AsyncIterator[Item]:
        """What `stream` makes of the messages, and what `missed` gives after each."""
        while not self._is_closed.is_set():
            error = None
            try:
                call = method(stream.request())
                self._streams.add(call)
                try:
                    async for message in call:
                        for item in stream.received(message):
                            yield item
                        async for item in missed():
                            yield item
                finally:
                    self._streams.discard(call)
                    call.cancel()
            except FootfallError as raised:
                error = raised
            except (asyncio.CancelledError, grpc.aio.UsageError):  # closing the channel ends a call like this
                task = asyncio.current_task()
                if not self._is_closed.is_set() or (task is not None and task.cancelling()):
                    raise
            if not self._is_closed.is_set():
                pause_s = stream.ended(error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_closed.wait(), pause_s)


class _Channel:
    """A channel with the methods that stubs use."""

    def __init__(self, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._channel: Any = channel
        self._deadline_s = deadline_s

    def unary_unary(self, *arguments: Any, **options: Any) -> "Callable[..., _Unary]":
        method = self._channel.unary_unary(*arguments, **options)

        def call(request: Any, *, timeout: float | None = None, **about: Any) -> _Unary:
            return _Unary(method(request, timeout=self._deadline_s if timeout is None else timeout, **about))

        return call

    def unary_stream(self, *arguments: Any, **options: Any) -> "Callable[..., _Stream]":
        method = self._channel.unary_stream(*arguments, **options)
        return lambda *request, **about: _Stream(method(*request, **about))


class _Call:
    """A call with the errors of Footfall; all else is of gRPC."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Unary(_Call):
    """A call with one answer."""

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.RpcError as error:
            raise error_of(error) from error


class _Stream(_Call):
    """A call whose answers are a stream."""

    def __aiter__(self) -> Self:
        self._messages = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        return await self._translated(anext(self._messages))

    async def read(self) -> Any:
        return await self._translated(self._call.read())

    async def _translated(self, answer: Any) -> Any:
        try:
            return await answer
        except grpc.RpcError as error:
            raise error_of(error) from error
