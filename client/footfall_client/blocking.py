"""The client for threads: calls block, and streams are iterators."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack, cast

import grpc
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2 import StreamEventsRequest, StreamEventsResponse
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2 import WatchVisitorsRequest, WatchVisitorsResponse
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from footfall_client.connection import OPTIONS
from footfall_client.errors import FootfallError, NotFoundError, error_of
from footfall_client.events import EventStream
from footfall_client.paging import AnyRequest, AnyResponse, next_request
from footfall_client.resumption import Item, Message, Request, Resumption
from footfall_client.services import Options, Services
from footfall_client.visitors import LiveChange, LiveVisitors, VisitorWatch


def _nothing() -> Iterator[Any]:
    return iter(())


class Footfall(Services):
    """The services of Footfall, each with one channel. Threads may share it. Open it once in the life of a process."""

    identity: IdentityServiceStub
    history: HistoryServiceStub
    collector: CollectorServiceStub
    _channels: list[grpc.Channel]

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._is_closed = threading.Event()

    def _open(self, target: str) -> grpc.Channel:
        if self._credentials is None:
            channel = grpc.insecure_channel(target, OPTIONS)
        else:
            channel = grpc.secure_channel(target, self._credentials, OPTIONS)
        self._channels.append(channel)
        return cast("grpc.Channel", _Channel(channel, self._deadline_s))

    def close(self) -> None:
        """End all calls and connections. Iterators of streams end, also those that other threads read."""
        self._is_closed.set()
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def pages(
        self, method: "grpc.UnaryUnaryMultiCallable[AnyRequest, AnyResponse]", request: AnyRequest
    ) -> Iterator[AnyResponse]:
        """All pages of a list, such as `pages(footfall.history.ListEvents, ListEventsRequest(visit_id=visit_id))`.

        Raises FootfallError.
        """
        following: AnyRequest | None = request
        while following is not None:
            page = method(following)
            yield page
            following = next_request(following, page)

    def live_visitors(self, request: WatchVisitorsRequest | None = None) -> Iterator[LiveChange]:
        """The visitors on the website, then each change, without a gap and without repeats, until the client is closed.

        `request` has the filters; its `resume_token` and `list_first` are ignored. The iterator outlives restarts of
        the service and lost connections. When changes were lost meanwhile, it gives the differences of a new list.

        Raises FootfallError when calling again does not help: `InvalidRequestError`, `NotAllowedError`.
        """
        return self._resumed(self.identity.WatchVisitors, LiveVisitors(request or WatchVisitorsRequest()))

    def watch_visitors(self, request: WatchVisitorsRequest | None = None) -> Iterator[WatchVisitorsResponse]:
        """Changes of visitors from now on, or after `resume_token`, in order, until the client is closed.

        Each message has a `resume_token`: a caller who stores it with what follows from the change handles each change
        once, also over restarts of its own. When changes were lost, or with `list_first`, the visitors on the website
        come as messages with `VISITOR_CHANGE_LISTED` and without a token.

        Raises FootfallError when calling again does not help: `InvalidRequestError`, `NotAllowedError`.
        """
        return self._resumed(self.identity.WatchVisitors, VisitorWatch(request or WatchVisitorsRequest()))

    def stream_events(
        self, request: StreamEventsRequest | None = None, *, remembered: int = 20_000
    ) -> Iterator[StreamEventsResponse]:
        """Events as they arrive, from now on or after `resume_token`, until the client is closed.

        An event is given once, unless more than `remembered` others came between. When the log no longer has what
        follows the position, a stream of one visit lists the events of the visit, which have no `resume_token`.

        Raises FootfallError when calling again does not help: `InvalidRequestError`, `NotAllowedError`, and without
        `visit_id` PositionLostError.
        """
        stream = EventStream(request or StreamEventsRequest(), remembered)
        return self._resumed(self.history.StreamEvents, stream, lambda: self._missed(stream))

    def _missed(self, stream: EventStream) -> Iterator[StreamEventsResponse]:
        if (request := stream.missed()) is not None:
            with suppress(NotFoundError):  # no event of the visit is stored
                for page in self.pages(self.history.ListEvents, request):
                    yield from stream.listed(page)
            stream.has_listed()

    def _resumed(
        self,
        method: "grpc.UnaryStreamMultiCallable[Request, Message]",
        stream: Resumption[Request, Message, Item],
        missed: Callable[[], Iterator[Item]] = _nothing,
    ) -> Iterator[Item]:
        """What `stream` makes of the messages, and what `missed` gives after each."""
        while not self._is_closed.is_set():
            error = None
            try:
                call = method(stream.request())
                try:
                    for message in call:
                        yield from stream.received(message)
                        yield from missed()
                finally:
                    call.cancel()
            except FootfallError as raised:
                error = raised
            except ValueError:  # the channel was closed before the call
                if not self._is_closed.is_set():
                    raise
            if not self._is_closed.is_set():
                self._is_closed.wait(stream.ended(error))


class _Channel:
    """A channel with the methods that stubs use."""

    def __init__(self, channel: grpc.Channel, deadline_s: float) -> None:
        self._channel: Any = channel
        self._deadline_s = deadline_s

    def unary_unary(self, *arguments: Any, **options: Any) -> "_Unary":
        return _Unary(self._channel.unary_unary(*arguments, **options), self._deadline_s)

    def unary_stream(self, *arguments: Any, **options: Any) -> "Callable[..., _Stream]":
        method = self._channel.unary_stream(*arguments, **options)
        return lambda *request, **about: _Stream(method(*request, **about))


class _Unary:
    """A unary method. `future` is that of gRPC, with the errors of gRPC."""

    def __init__(self, method: Any, deadline_s: float) -> None:
        self._method = method
        self._deadline_s = deadline_s
        self.future = method.future

    def __call__(self, request: Any, timeout: float | None = None, *more: Any, **about: Any) -> Any:
        return self.with_call(request, timeout, *more, **about)[0]

    def with_call(self, request: Any, timeout: float | None = None, *more: Any, **about: Any) -> Any:
        deadline_s = self._deadline_s if timeout is None else timeout
        try:
            return self._method.with_call(request, deadline_s, *more, **about)
        except grpc.RpcError as error:
            raise error_of(error) from error


class _Stream:
    """A call whose answers are a stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
