"""Stores of history, its service over them, and running history processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2_grpc as history_grpc
from footfall_eventlog.settings import DAY_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_history.__main__ import SERVICE_NAME
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.erasure.eraser import Eraser
from footfall_history.event_log import EventLog
from footfall_history.event_streams import EventStreams
from footfall_history.identity_client import IdentityClient
from footfall_history.ingest.attribution import Attributor, EffortLimit
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.ingest.interactions import InteractionWriter
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_history.policies.trials import PolicyTrials
from footfall_history.queries.attributions import Attributions
from footfall_history.queries.customer_context import CustomerContexts
from footfall_history.queries.export import Exporter
from footfall_history.queries.interactions import InteractionReader
from footfall_history.queries.live_visits import LiveVisits
from footfall_history.queries.reader import Reader
from footfall_history.service import HistoryService
from footfall_history.settings import HistorySettings
from footfall_history.storage.preview import Preview
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.server import Server
from pymongo import monitoring

from tests.tools.ports import free_ports
from tests.tools.process import Running, running_service

IDLE_MS = 30 * 60_000
ERASURE_KEY = "erasure key of the tests"


class Listener(monitoring.CommandListener):
    """Records commands to MongoDB, and counts the documents in the answers."""

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.answered = 0
        self.indexes_made: list[int] = []
        """For each `createIndexes`, how many indexes it has made, without those of other clients."""

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name == "createIndexes":
            self.indexes_made.append(event.reply["numIndexesAfter"] - event.reply["numIndexesBefore"])
        cursor: Any = event.reply.get("cursor", {})
        self.answered += sum(len(cursor.get(batch, [])) for batch in ("firstBatch", "nextBatch"))

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def listener() -> Listener:
    """Records the commands of this test's store."""
    return Listener()


@pytest.fixture
async def store(mongo_url: str, mongo_database: str, listener: Listener) -> AsyncIterator[Store]:
    """Events and visits in a database of this test."""
    store = Store.open(mongo_url, mongo_database, 20_000, [listener])
    await store.prepare()
    yield store
    await store.close()


@pytest.fixture
def tombstones(store: Store) -> Tombstones:
    """The tombstones in that store."""
    return Tombstones(store, ERASURE_KEY)


@pytest.fixture
def attributor(store: Store, tombstones: Tombstones) -> Attributor:
    """Stores events there."""
    return Attributor(store, tombstones, max_transitions=1_000)


@pytest.fixture
async def log(redis_database_url: str) -> AsyncIterator[EventLog]:
    """An empty log."""
    log = EventLog(redis_database_url, 1, 2_000)
    yield log
    await log.close()


@pytest.fixture
def dead_letters(log: EventLog) -> DeadLetterQueue:
    """The dead letters beside that log."""
    return DeadLetterQueue(log, retention_ms=30 * DAY_MS, max_per_partition=1_000, max_per_visit=100)


@pytest.fixture
def preview(tombstones: Tombstones) -> Preview:
    """Attributes events as that store would."""
    return Preview(tombstones, max_transitions=1_000)


@pytest.fixture
def eraser(store: Store, tombstones: Tombstones, dead_letters: DeadLetterQueue, preview: Preview) -> Eraser:
    """Erases identities in all of these."""
    return Eraser(store, tombstones, dead_letters, preview)


@pytest.fixture
def slow(log: EventLog) -> SlowVisits:
    """The slow visits beside that log."""
    return SlowVisits(log, max_bytes=1024 * 1024)


@pytest.fixture
def consumer_with(
    dead_letters: DeadLetterQueue,
    attributor: Attributor,
    eraser: Eraser,
    slow: SlowVisits,
    *,
    store: Store,
    tombstones: Tombstones,
) -> Callable[..., LogConsumer]:
    """Creates consumers of that log; keywords replace parts and settings. A few transitions make a visit slow."""

    async def never(_number: int) -> str:
        return ""

    parts: dict[str, Any] = {"dead_letters": dead_letters, "attributor": attributor, "eraser": eraser, "slow": slow}
    parts["interactions"] = InteractionWriter(store, tombstones)
    settings: dict[str, Any] = {
        "effort_limit": EffortLimit(5, 20),
        "attempts": 2,
        "check_store": store.journal,
        "read_again_until": never,
    }

    def consumer(**more: Any) -> LogConsumer:
        return LogConsumer(**parts | settings | more)

    return consumer


@pytest.fixture
async def stub(
    store: Store,
    log: EventLog,
    tombstones: Tombstones,
    *,
    dead_letters: DeadLetterQueue,
    eraser: Eraser,
    preview: Preview,
) -> AsyncIterator[Any]:
    """A client of a service with that store and log, whose identity service is not available."""
    [unused_port] = free_ports(1)
    identities = IdentityClient(f"127.0.0.1:{unused_port}", 200)
    stopping = asyncio.Event()
    event_streams = EventStreams(log, preview, stopping, max_streams=4, site_groups=SiteGroups())
    reader = Reader(store, IDLE_MS)
    interactions = InteractionReader(store, tombstones, identities, max_visits=100, phone_region="DE")
    exporter = Exporter(store, reader, tombstones, dead_letters, preview, interactions=interactions)
    live_visits = LiveVisits(store, log.partitions, IDLE_MS)
    contexts = CustomerContexts(
        store, reader, identities, interactions, SiteGroups(), timeout_ms=2_000, idle_ms=IDLE_MS
    )
    service = HistoryService(
        store,
        reader,
        identities,
        event_streams,
        eraser,
        dead_letters,
        exporter,
        live_visits,
        SiteGroups(),
        contexts,
        interactions,
        PolicyTrials(),
        Attributions(store, tombstones, dead_letters),
        7 * 86_400_000,
    )
    add = partial(history_grpc.add_HistoryServiceServicer_to_server, service)
    server = Server(HistorySettings(port=0, drain_delay_ms=0, never_erase=True), {SERVICE_NAME: add}, stopping=stopping)
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield history_grpc.HistoryServiceStub(channel)
    await server.stop()
    await identities.close()


@pytest.fixture
def running_history(redis_database_url: str, mongo_url: str, mongo_database: str, tmp_path: Path) -> Running:
    """Starts history processes with an empty log and an empty database; keywords are environment variables."""
    return partial(
        running_service,
        "history",
        tmp_path,
        REDIS_URL=redis_database_url,
        MONGO_URL=mongo_url,
        MONGO_DATABASE=mongo_database,
        ERASURE_KEY=ERASURE_KEY,
    )
