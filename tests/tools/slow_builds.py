"""A MongoDB-wire server on which commands can be made slow or refused, as its test command `failCommand` does."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient

from tests.tools.stores import running_mongo


@contextmanager
def mongo_with_test_commands(folder: Path) -> Iterator[str]:
    """Such a server with its data in `folder`; gives its URL."""
    with running_mongo(folder, "--enable-test-commands") as url:
        yield url


@asynccontextmanager
async def slow_builds(url: str, milliseconds: int, *, after: int = 0, count: int | None = None) -> AsyncIterator[None]:
    """After the next `after` of them, `count` commands `createIndexes`, or all, take so long. Others do not wait."""
    limit = {} if count is None else {"times": count}
    async with _fail_command(url, {"skip": after} | limit, blockConnection=True, blockTimeMS=milliseconds):
        yield


@asynccontextmanager
async def refused_builds(url: str, code: int, count: int) -> AsyncIterator[None]:
    """The next `count` times `createIndexes` fails with this code."""
    async with _fail_command(url, {"times": count}, errorCode=code):
        yield


@asynccontextmanager
async def _fail_command(url: str, mode: dict[str, int], **data: Any) -> AsyncIterator[None]:
    async with AsyncMongoClient[Any](url) as client:
        fail_point = {"configureFailPoint": "failCommand", "data": {"failCommands": ["createIndexes"]} | data}
        await client.admin.command(fail_point | {"mode": mode})
        try:
            yield
        finally:
            await client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
