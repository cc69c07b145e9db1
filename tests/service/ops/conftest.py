"""The stores of history, live state beside them, and the command `footfall-ops` on both."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import VisitorStore
from footfall_ops import attributions, live_state, stores
from footfall_ops.__main__ import main
from structlog.testing import capture_logs

from tests.service.history.conftest import (  # noqa: F401 - fixtures
    ERASURE_KEY,
    attributor,
    dead_letters,
    listener,
    log,
    slow,
    store,
    tombstones,
)
from tests.service.identity.conftest import TIMEOUT_MS, visitor_store

Ops = Callable[..., Awaitable[int]]


@pytest.fixture(autouse=True)
def _output_without_logs() -> Iterator[None]:
    """Log lines go to standard error, except in this process."""
    with capture_logs():
        yield


@pytest.fixture
def ops(redis_database_url: str, mongo_url: str, mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> Ops:
    """Runs the command with these arguments, and gives its exit code."""
    names = {"REDIS_URL": redis_database_url, "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    names |= {"ERASURE_KEY": ERASURE_KEY, "HISTORY_MONGO_TIMEOUT_MS": "20000", "IDENTITY_MONGO_TIMEOUT_MS": "20000"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "nice", lambda _: 0)  # it could not be taken back
    for module in (attributions, live_state):  # nothing changes meanwhile
        monkeypatch.setattr(module, "_AGAIN_AFTER_S", (0.0,))

    monkeypatch.setattr(stores, "_READS_EVERY_MS", 0)  # readers of the tests do not run

    def run(arguments: tuple[str, ...]) -> int:
        monkeypatch.setattr(sys, "argv", ["footfall-ops", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    async def ops(*arguments: object) -> int:
        return await asyncio.to_thread(run, tuple(map(str, arguments)))

    return ops


@pytest.fixture
async def live(redis_database_url: str) -> AsyncIterator[VisitorStore]:
    """The live state of one partition."""
    partitions = Partitions(redis_database_url, 1, timeout_ms=TIMEOUT_MS)
    yield visitor_store(partitions)
    await partitions.redis.aclose()
