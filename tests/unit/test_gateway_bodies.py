"""The reader of bodies: all bodies together are bounded."""

import asyncio
import gzip
from typing import Any

import pytest
from footfall_gateway.http.bodies import MAX_BODY, BodyReader, ClientGoneError, unpack
from footfall_gateway.problem import Problem


class Arriving:
    """A body whose parts arrive when a test sends them."""

    def __init__(self, *parts: bytes) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for part in parts:
            self._messages.put_nowait({"type": "http.request", "body": part, "more_body": True})

    async def receive(self) -> dict[str, Any]:
        message = await self._messages.get()
        self._messages.task_done()
        return message

    def end(self) -> None:
        self._messages.put_nowait({"type": "http.request", "body": b""})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def begun(self, bodies: BodyReader) -> "asyncio.Task[bytes]":
        """A task that reads it, and has read the parts that have arrived."""
        task = asyncio.create_task(bodies.read(self.receive))
        await self._messages.join()
        return task


@pytest.mark.parametrize("leaves", [True, False])
async def test_bodies_beyond_the_limit_are_refused_until_others_are_complete(leaves: bool) -> None:
    bodies = BodyReader(timeout_s=10, max_bytes=1_000)
    first, second = Arriving(b"1" * 300, b"1" * 300), Arriving(b"2" * 300, b"2" * 300)
    reading = await first.begun(bodies)
    with pytest.raises(Problem) as refused:
        await bodies.read(second.receive)
    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1", "connection": "close"})
    if leaves:
        first.leave()
        with pytest.raises(ClientGoneError):
            await reading
    else:
        first.end()
        assert await reading == b"1" * 600
    again = Arriving(b"3" * 1_000)
    again.end()
    assert await bodies.read(again.receive) == b"3" * 1_000


def test_a_body_is_unpacked_up_to_its_limits() -> None:
    text = bytes(range(256)) * 40
    packed = gzip.compress(text)
    assert unpack("gzip", packed, max_ratio=100) == unpack("", text, max_ratio=1) == text
    ratio = len(text) // len(packed)
    assert unpack("GZip", packed, max_ratio=ratio + 1) == text
    for body, most, status in (
        (packed, ratio, 413),
        (gzip.compress(b" " * (MAX_BODY + 1)), 1_000_000, 413),
        (packed[:-1], 100, 400),
        (packed + packed, 100, 400),
        (packed + b"x", 100, 400),
        (packed[:20] + b"x" + packed[21:], 100, 400),
        (b"", 100, 400),
    ):
        with pytest.raises(Problem) as refused:
            unpack("gzip", body, most)
        assert refused.value.status == status
    assert len(unpack("gzip", gzip.compress(b" " * MAX_BODY), 1_000_000)) == MAX_BODY
