"""A receiver of webhooks that can fail, hang, stop and start again, and keeps what it has accepted."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

SECRET = "whsec_" + base64.b64encode(b"a secret of at least 24 bytes").decode()
HANG = 0
"""In place of a status: no answer."""


class Request(NamedTuple):
    """A request that was accepted."""

    headers: dict[str, str]
    body: bytes

    def messages(self) -> list[dict[str, Any]]:
        """Its CloudEvents."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]


class Receiver:
    """Answers with the status that `answer` gives for a request; 204 by default."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], int] = lambda _: 204
        self.accepted: list[Request] = []
        self.attempts = 0
        self.headers: Iterable[str] = ()
        """Further header lines of answers."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address, the same after a restart."""
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All CloudEvents that were accepted, in the order of their arrival."""
        return [message for request in self.accepted for message in request.messages()]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those of events. The erasures of other tests go out to all outlets."""
        return [message for message in self.messages if message["type"] == "footfall.event"]

    async def start(self) -> None:
        """Listen, after a stop on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and cut off all connections."""
        if self._server:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            while await self._respond(reader, writer):
                pass
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        with suppress(asyncio.IncompleteReadError, OSError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            request = Request(headers, await reader.readexactly(int(headers["content-length"])))
            self.attempts += 1
            status = self.answer(request)
            if status == HANG:
                await asyncio.sleep(3_600)
            if 200 <= status < 300:
                assert is_signed(request, SECRET)
                self.accepted.append(request)
            more = "".join(f"{line}\r\n" for line in self.headers)
            writer.write(f"HTTP/1.1 {status} Any\r\ncontent-length: 0\r\n{more}\r\n".encode())
            await writer.drain()
            return True
        return False


def is_signed(request: Request, secret: str) -> bool:
    """Whether a request has a signature of this secret, by the rules of Standard Webhooks."""
    message_id, at_s = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{at_s}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in request.headers["webhook-signature"].split()
