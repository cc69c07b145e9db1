"""Turns answers into a server that gives them in Redis's protocol, where no real one can be made to."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

OK = b"+OK\r\n"


def bulk(text: str) -> bytes:
    """A string as Redis answers it."""
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


class ScriptedRedis:
    """Answers each command by its name, else with OK, and remembers the names."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves."""
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            self.asked.append(words[0].upper())
            writer.write(self.answers.get(words[0].upper(), OK))
        writer.close()


@asynccontextmanager
async def scripted_redis(**answers: bytes) -> AsyncIterator[ScriptedRedis]:
    """A running one, which says that its data has one partition unless `answers` differ."""
    scripted = ScriptedRedis(
        {"GET": bulk("1"), "EXISTS": b":0\r\n", "INFO": bulk("redis_version:7.4.0\r\n"), **answers}
    )
    async with await asyncio.start_server(scripted.serve, "127.0.0.1") as server:
        scripted.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield scripted
