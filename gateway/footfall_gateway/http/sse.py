"""Turns several endless streams of answers into one of server-sent events, whose ids say where each of them stands."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from footfall_gateway.problem import Problem

ID_SEPARATOR: Final = "~"
"""Stands between the positions of an id; in none of them."""

STREAM_RETRY: Final = b"retry: 2000\n"
"""How long EventSource waits before it comes again, in milliseconds."""

STREAM_HEADERS: Final = {"content-type": "text/event-stream", "x-accel-buffering": "no"}  # nginx would hold it back


class Source:
    """One of the streams: where it stands, and its next answer. No more than that one is ever waiting here."""

    def __init__(self, answers: AsyncGenerator[Any, None], message: Callable[[Any], bytes]) -> None:
        """Take a stream whose answers tell their `resume_token`; `message` makes `event` and `data` of them."""
        self.position = ""
        self._answers = answers
        self._message = message
        self._read()

    def _read(self) -> None:
        self.next = asyncio.ensure_future(anext(self._answers, None))

    def take(self) -> bytes:
        """The message of the answer that has come; empty when it only tells where the stream stands.

        Raises:
            Problem: the stream has ended.

        """
        answer = self.next.result()
        if answer is None:
            raise Problem(503, "a service that knows the answer stops")
        self.position = answer.resume_token
        self._read()
        return self._message(answer)

    async def close(self) -> None:
        """End the call."""
        self.next.cancel()
        await asyncio.gather(self.next, return_exceptions=True)
        await self._answers.aclose()


class Stream:
    """What one client is sent: until a source ends, `stopping` is set or the client `is_allowed` no more."""

    def __init__(
        self, sources: Sequence[Source], *, is_allowed: Callable[[], bool], stopping: asyncio.Event, heartbeat_s: float
    ) -> None:
        self._sources = sources
        self._is_allowed = is_allowed
        self._stopping = stopping
        self._stop = asyncio.ensure_future(stopping.wait())
        self._heartbeat_s = heartbeat_s
        self._first = b""

    async def start(self, limit_s: float) -> None:
        """Wait until every source has said where it begins.

        Raises:
            Problem: a source refuses or takes too long. Of several refusals it is the one of the lowest status,
                whichever came first: what is wrong with the request counts before what is wrong here, and an id that
                is none (400) before one that is too old (409), because with one half that is none it was never given.

        """
        done, waiting = await asyncio.wait([source.next for source in self._sources], timeout=limit_s)
        if errors := [error for answer in done if (error := answer.exception())]:
            raise min(errors, key=_status)
        if waiting:
            raise Problem(504, "a service that knows the answer took too long")
        self._first = b"".join([source.take() for source in self._sources])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The text of the stream. Whoever waits before taking the next block lets the sources wait too."""
        loop = asyncio.get_running_loop()
        yield STREAM_RETRY + self._first + self._id()
        sent_s = loop.time()
        while not self._stopping.is_set():
            reading = [source.next for source in self._sources]
            silence_s = max(0.0, sent_s + self._heartbeat_s - loop.time())
            await asyncio.wait((*reading, self._stop), timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_allowed():  # before anything is told that came meanwhile
                return
            for source in self._sources:
                if source.next.done():
                    try:
                        message = source.take()
                    except Problem:  # logged where it was raised; the client comes again, and hears then
                        return
                    if message:
                        yield message + self._id()
                        sent_s = loop.time()
            if loop.time() - sent_s >= self._heartbeat_s:
                yield b":\n" + self._id()
                sent_s = loop.time()

    def _id(self) -> bytes:
        """The end of a block. Without a message it still moves the Last-Event-ID."""
        return f"id: {ID_SEPARATOR.join(source.position for source in self._sources)}\n\n".encode()

    async def close(self) -> None:
        """End the calls."""
        self._stop.cancel()
        await asyncio.gather(*(source.close() for source in self._sources))


def _status(error: BaseException) -> int:
    return error.status if isinstance(error, Problem) else 500


class EventStreamResponse(StreamingResponse):
    """The answer that is a stream. However it ends, it calls `close`; also when the client has left."""

    def __init__(self, stream: Stream, close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(stream.chunks(), headers=STREAM_HEADERS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; for HEAD the head alone, because the body has no end."""
        try:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body"})
            else:
                await super().__call__(scope, receive, send)
        finally:
            await self._close()
