"""Server-sent events, merged from several endless streams. An event's id has the position in each stream."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from footfall_gateway.problem import Problem

ID_SEPARATOR: Final = "~"
"""Separates the positions in an id. No position contains it."""

STREAM_RETRY: Final = b"retry: 2000\n"
"""Milliseconds until EventSource reconnects."""

STREAM_HEADERS: Final = {"content-type": "text/event-stream", "x-accel-buffering": "no"}  # nginx would buffer it


class Source:
    """One of the merged streams: its position, and its next response. It reads one response ahead, not more."""

    def __init__(self, responses: AsyncGenerator[Any, None], message: Callable[[Any], bytes]) -> None:
        """The responses have a `resume_token`; `message` makes the `event` and `data` lines of a response."""
        self.position = ""
        self._responses = responses
        self._message = message
        self._read()

    def _read(self) -> None:
        self.next = asyncio.ensure_future(anext(self._responses, None))

    def take(self) -> bytes:
        """The message of the response that has arrived; empty when the response has only a position.

        Raises:
            Problem: the stream has ended.

        """
        response = self.next.result()
        if response is None:
            raise Problem(503, "a service is stopping; try again")
        self.position = response.resume_token
        self._read()
        return self._message(response)

    async def close(self) -> None:
        """End the call."""
        self.next.cancel()
        await asyncio.gather(self.next, return_exceptions=True)
        await self._responses.aclose()


class Stream:
    """The stream of one client. It ends with a source, when `stopping` is set, or when `is_allowed` returns False.

    It ends too when `is_allowed` raises a Problem, which the client gets when it reconnects.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        is_allowed: Callable[[], Awaitable[bool]],
        stopping: asyncio.Event,
        heartbeat_s: float,
    ) -> None:
        self._sources = sources
        self._is_allowed = is_allowed
        self._stopping = stopping
        self._stop = asyncio.ensure_future(stopping.wait())
        self._heartbeat_s = heartbeat_s
        self._first = b""

    async def start(self, limit_s: float) -> None:
        """Wait until every source has reported its first position.

        Raises:
            Problem: a source refuses, or takes too long. Of several refusals, the one with the lowest status: faults of
                the request come before failures of a service, and a malformed id (400) before an expired one (409).

        """
        done, waiting = await asyncio.wait([source.next for source in self._sources], timeout=limit_s)
        if errors := [error for answer in done if (error := answer.exception())]:
            raise min(errors, key=_status)
        if waiting:
            raise Problem(504, "a service did not answer in time; try again")
        self._first = b"".join([source.take() for source in self._sources])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The text of the stream. While the client does not read, the sources wait."""
        loop = asyncio.get_running_loop()
        yield STREAM_RETRY + self._first + self._id()
        sent_s = loop.time()
        with suppress(Problem):  # logged where it was raised; the client gets it when it reconnects
            while not self._stopping.is_set():
                reading = [source.next for source in self._sources]
                silence_s = max(0.0, sent_s + self._heartbeat_s - loop.time())
                await asyncio.wait((*reading, self._stop), timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
                if not await self._is_allowed():  # before a message is sent that arrived meanwhile
                    return
                for source in self._sources:
                    if source.next.done() and (message := source.take()):
                        yield message + self._id()
                        sent_s = loop.time()
                if loop.time() - sent_s >= self._heartbeat_s:
                    yield b":\n" + self._id()
                    sent_s = loop.time()

    def _id(self) -> bytes:
        """The end of an event. Without a message it still updates the client's Last-Event-ID."""
        return f"id: {ID_SEPARATOR.join(source.position for source in self._sources)}\n\n".encode()

    async def close(self) -> None:
        """End the calls."""
        self._stop.cancel()
        await asyncio.gather(*(source.close() for source in self._sources))


def _status(error: BaseException) -> int:
    return error.status if isinstance(error, Problem) else 500


class EventStreamResponse(StreamingResponse):
    """A response that is a stream. It calls `close` at the end, also when the client has disconnected."""

    def __init__(self, stream: Stream, close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(stream.chunks(), headers=STREAM_HEADERS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; for HEAD only the headers, because the body is endless."""
        try:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body"})
            else:
                await super().__call__(scope, receive, send)
        finally:
            await self._close()
