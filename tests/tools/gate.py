"""Turns a server into one that can be cut off and let back, on a port that stays the same."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Gate:
    """Forwards connections while open. Closing breaks those that are there and refuses new ones; freezing keeps them.

    With `tls` it speaks TLS to its clients, and none to the server.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        parts = urlsplit(url)
        self._behind = (parts.hostname or "", parts.port or 0)
        self._scheme = parts.scheme
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where the server is to be reached through the gate."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Keep and accept connections, and forward nothing, as a server that is held still."""
        self._is_flowing.clear()

    def thaw(self) -> None:
        """Forward everything again."""
        self._is_flowing.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._behind)
        except ConnectionError:
            writer.close()
            return
        ends = [(reader, there_writer), (there_reader, writer)]
        pipes = [asyncio.create_task(_pipe(*pair, self._is_flowing)) for pair in ends]
        self._tasks.update(pipes)
        await asyncio.wait(pipes)
        self._tasks.difference_update(pipes)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_flowing: asyncio.Event) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                await is_flowing.wait()
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def gate_before(url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Gate]:
    """An open gate before the server at `url`."""
    gate = Gate(url, tls)
    await gate.open()
    try:
        yield gate
    finally:
        await gate.close()
