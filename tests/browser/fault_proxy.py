"""A reverse proxy with the faults of networks: 503, reset connections, responses lost after storing."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from tests.browser.website import serving

RETRY_AFTER_S = 1


class Fault(Enum):
    """A fault of a beacon."""

    NONE = "none"
    UNAVAILABLE = "503"
    RESET = "reset"
    LOST_ANSWER = "answer lost"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    raw_head: bytes


@dataclass(slots=True)
class FaultProxy:
    """The proxy; set `fault` while it runs. Everything but beacons always passes."""

    forward: Callable[[Request], Awaitable[bytes]]
    fault: Fault = Fault.NONE
    beacons: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of all beacons, with and without a fault."""
    port: int = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def sent(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every event on the wire so far, as often as it was sent."""
        events = [event for beacon in self.beacons for event in beacon["events"]]
        return [event for event in events if name in {None, event["eventName"]}]

    def events(self) -> list[dict[str, Any]]:
        """Every event that was sent, once, by its time."""
        return sorted({event["eventID"]: event for event in self.sent()}.values(), key=lambda event: event["timestamp"])

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        request = await _read_request(reader)
        is_beacon = request.target.endswith("/beacon") and request.method == "POST"
        fault = self.fault if is_beacon else Fault.NONE
        if is_beacon:
            self.beacons.append(json.loads(request.body))
        answer = await self._answer(request, fault)
        if answer is None:
            _reset(writer)
            return
        writer.write(answer)
        await writer.drain()

    async def _answer(self, request: Request, fault: Fault) -> bytes | None:
        if fault is Fault.RESET:
            return None
        if fault is Fault.UNAVAILABLE:
            return unavailable(request.headers.get("origin", "*"))
        answer = await self.forward(request)
        return None if fault is Fault.LOST_ANSWER else answer


@asynccontextmanager
async def running_fault_proxy(forward: Callable[[Request], Awaitable[bytes]]) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port."""
    proxy = FaultProxy(forward)
    async with serving(proxy.handle) as proxy.port:
        yield proxy


def to_gateway(url: str) -> Callable[[Request], Awaitable[bytes]]:
    """Forwarding to a real gateway."""
    address = urlsplit(url)

    async def forward(request: Request) -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(request.raw_head + b"connection: close\r\n\r\n" + request.body)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()

    return forward


def unavailable(origin: str) -> bytes:
    """The 503 of an overloaded gateway."""
    return (
        f"HTTP/1.1 503 Service Unavailable\r\nretry-after: {RETRY_AFTER_S}\r\ncontent-length: 0\r\n"
        f"access-control-allow-origin: {origin}\r\naccess-control-expose-headers: retry-after\r\n"
        "connection: close\r\n\r\n"
    ).encode()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n"))[:-2]
    lines = head.decode("latin-1").splitlines()
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    kept = b"\r\n".join(line.encode("latin-1") for line in lines if not line.lower().startswith("connection:"))
    return Request(method, target, headers, body, kept.rstrip(b"\r\n") + b"\r\n")


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
