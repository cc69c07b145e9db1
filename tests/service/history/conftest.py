"""Stores of history, its service over them, and running history processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2_grpc as history_grpc
from footfall_history.__main__ import SERVICE_NAME
from footfall_history.dead_letters.queue import DeadLetters
from footfall_history.erasure.eraser import Eraser
from footfall_history.event_log import Log
from footfall_history.event_streams import LiveTail
from footfall_history.identity_client import Identities
from footfall_history.ingest.attribution import Effort, Stamper
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_history.queries.export import Exporter
from footfall_history.queries.reader import Reader
from footfall_history.queries.receipts import Receipts
from footfall_history.service import HistoryService
from footfall_history.settings import DAY_MS, HistorySettings
from footfall_history.storage.preview import Preview
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.server import Server
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import monitoring

from tests.tools.ports import free_ports
from tests.tools.process import Running, running_service

IDLE_MS = 30 * 60_000
ERASURE_KEY = "erasure key of the tests"


class Listener(monitoring.CommandListener):
    """Remembers commands to MongoDB, and counts the documents that were answered."""

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.answered = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        cursor: Any = event.reply.get("cursor", {})
        self.answered += sum(len(cursor.get(batch, [])) for batch in ("firstBatch", "nextBatch"))

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def listener() -> Listener:
    """What hears all that the store of this test asks."""
    return Listener()


@pytest.fixture
async def store(mongo_url: str, mongo_database: str, listener: Listener) -> AsyncIterator[Store]:
    """Events and visits in a database of this test."""
    client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(
        mongo_url, serverSelectionTimeoutMS=2_000, event_listeners=[listener]
    )
    store = Store(client, mongo_database)
    await store.prepare()
    yield store
    await store.close()


@pytest.fixture
def tombstones(store: Store) -> Tombstones:
    """Who has been erased there."""
    return Tombstones(store, ERASURE_KEY)


@pytest.fixture
def stamper(store: Store, tombstones: Tombstones) -> Stamper:
    """What writes to that store."""
    return Stamper(store, tombstones, transitions_kept=1_000)


@pytest.fixture
async def log(redis_database_url: str) -> AsyncIterator[Log]:
    """An empty log."""
    log = Log(redis_database_url, 1, 2_000)
    yield log
    await log.close()


@pytest.fixture
def letters(log: Log) -> DeadLetters:
    """What lies aside beside that log."""
    return DeadLetters(log, kept_ms=30 * DAY_MS, bound=1_000, bound_of_visit=100)


@pytest.fixture
def preview(tombstones: Tombstones) -> Preview:
    """What tells how events would be stored there."""
    return Preview(tombstones, transitions_kept=1_000)


@pytest.fixture
def eraser(store: Store, tombstones: Tombstones, letters: DeadLetters, preview: Preview) -> Eraser:
    """What forgets people in all of these."""
    return Eraser(store, tombstones, letters, preview)


@pytest.fixture
def slow(log: Log) -> SlowVisits:
    """Visits set aside beside that log."""
    return SlowVisits(log, bound_bytes=1024 * 1024)


@pytest.fixture
def consumer_with(
    letters: DeadLetters, stamper: Stamper, eraser: Eraser, slow: SlowVisits, store: Store
) -> Callable[..., LogConsumer]:
    """Makes what handles entries of that log; keywords replace its settings. Few transitions make a visit slow."""
    parts: dict[str, Any] = {"letters": letters, "stamper": stamper, "eraser": eraser, "slow": slow}
    settings: dict[str, Any] = {"effort": Effort(5, 20), "attempts": 2, "check_store": store.journal}

    def consumer(**more: Any) -> LogConsumer:
        return LogConsumer(**parts | settings | more)

    return consumer


@pytest.fixture
async def stub(
    store: Store, log: Log, tombstones: Tombstones, *, letters: DeadLetters, eraser: Eraser, preview: Preview
) -> AsyncIterator[Any]:
    """A client of a service over that store and log, whose neighbour identity does not answer."""
    [nobody] = free_ports(1)
    identities = Identities(f"127.0.0.1:{nobody}", 200)
    stopping = asyncio.Event()
    tail = LiveTail(log, preview, stopping, most_watchers=4)
    reader = Reader(store, IDLE_MS)
    exporter, receipts = Exporter(store, reader, tombstones, letters, preview), Receipts(reader, letters)
    service = HistoryService(store, reader, identities, tail, eraser, receipts=receipts, exporter=exporter)
    add = partial(history_grpc.add_HistoryServiceServicer_to_server, service)
    server = Server(HistorySettings(port=0, lame_duck_ms=0, never_erase=True), {SERVICE_NAME: add}, stopping=stopping)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield history_grpc.HistoryServiceStub(channel)
    await server.stop()
    await identities.close()


@pytest.fixture
def running_history(redis_database_url: str, mongo_url: str, mongo_database: str, tmp_path: Path) -> Running:
    """Starts history processes on an empty log and an empty database; keywords are environment variables."""
    return partial(
        running_service,
        "history",
        tmp_path,
        REDIS_URL=redis_database_url,
        MONGO_URL=mongo_url,
        MONGO_DATABASE=mongo_database,
        ERASURE_KEY=ERASURE_KEY,
    )
