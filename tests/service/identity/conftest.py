"""Stores of identity, and running identity processes."""

import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from footfall_eventlog.identity_policy import LinkPolicy
from footfall_identity.contact_record import RequestMemory
from footfall_identity.contact_writer import ContactWriter
from footfall_identity.erasure import Eraser
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.partitions import Partitions
from footfall_identity.record_writer import RecordWriter
from footfall_identity.relinking import Relinker
from footfall_identity.visitor_notices import VisitorNotices
from footfall_identity.visitor_store import VisitorStore

from tests.conftest import REDIS_DATABASES
from tests.tools.contacts import Contacts
from tests.tools.identity import ERASURE_KEY, IDLE_MS, KEEP_MS, LEAVE_MS, PARTITIONS, SHORT_MS
from tests.tools.process import Running, running_service

# Long, because these tests may share a machine with a load run.
TIMEOUT_MS = 20_000


@pytest.fixture
async def partitions(redis_database_url: str) -> AsyncIterator[Partitions]:
    """The Redis of this test as identity sees it."""
    partitions = Partitions(redis_database_url, PARTITIONS, timeout_ms=TIMEOUT_MS)
    yield partitions
    await partitions.redis.aclose()


@pytest.fixture
def store(partitions: Partitions) -> VisitorStore:
    """The store of live state of this test."""
    return visitor_store(partitions)


def visitor_store(partitions: Partitions, **settings: Any) -> VisitorStore:
    """Return a store of live state; keywords replace its settings."""
    defaults: dict[str, Any] = {
        "retention_ms": KEEP_MS,
        "idle_ms": IDLE_MS,
        "short_retention_ms": SHORT_MS,
        "changelog_max_entries": 1_000,
        "max_transitions": 1_000,
        "max_pages": 32,
        "leave_ms": LEAVE_MS,
        "erasure_secret": ERASURE_KEY,
    }
    return VisitorStore(partitions, **(defaults | settings))


def visitor_notices(partitions: Partitions, store: VisitorStore) -> VisitorNotices:
    """Return what writes notices of changes of visitors."""
    return VisitorNotices(partitions, store, changelog_max_entries=1_000, max_visits_per_identity=100)


@pytest.fixture
def notices(partitions: Partitions, store: VisitorStore) -> VisitorNotices:
    """The notices of this test."""
    return visitor_notices(partitions, store)


@pytest.fixture
async def links(mongo_url: str, mongo_database: str, notices: VisitorNotices) -> AsyncIterator[LinkStore]:
    """Identities and contacts in a database of this test."""
    links = LinkStore(mongo_url, mongo_database, timeout_ms=TIMEOUT_MS, erasure_secret=ERASURE_KEY, notices=notices)
    await links.prepare()
    yield links
    await links.close()


@pytest.fixture
def linker(links: LinkStore) -> Linker:
    """The linker of this test."""
    return Linker(links, LinkPolicy())


@pytest.fixture
def contacts(links: LinkStore, relinker: Relinker) -> Contacts:
    """The contacts of this test."""
    return Contacts(contact_writer(links, relinker))


def contact_writer(links: LinkStore, relinker: Relinker, **settings: Any) -> ContactWriter:
    """Return a writer of contacts; keywords replace its settings."""
    defaults: dict[str, Any] = {
        "phone_region": "DE",
        "memory": RequestMemory(count=2, duration_ms=60_000),
        "max_deleted_percent": 20,
    }
    return ContactWriter(links, relinker, **(defaults | settings))


@pytest.fixture
def relinker(links: LinkStore, linker: Linker) -> Relinker:
    """What links identities again after contacts have changed. It does so when a test calls `finish`."""
    return Relinker(links, linker, wait_ms=0, max_wait_ms=TIMEOUT_MS)


@pytest.fixture
def eraser(partitions: Partitions, store: VisitorStore, links: LinkStore, linker: Linker) -> Eraser:
    """The eraser of this test."""
    return Eraser(partitions, IdentityIndex(partitions, store), links, linker, secret=ERASURE_KEY, ack_replicas=0)


@pytest.fixture
def writer(partitions: Partitions, store: VisitorStore, links: LinkStore, linker: Linker) -> RecordWriter:
    """The writer of identity records."""
    return record_writer(partitions, store, links, linker)


def record_writer(partitions: Partitions, store: VisitorStore, links: LinkStore, linker: Linker) -> RecordWriter:
    """Return a writer of identity records."""
    return RecordWriter(IdentityIndex(partitions, store), links, linker, phone_region="DE")


@pytest.fixture
def consumer(store: VisitorStore, writer: RecordWriter, eraser: Eraser) -> RecordConsumer:
    """The consumer of the log that writes records. It has no state, so one serves as several."""
    return RecordConsumer(store, writer, eraser)


@pytest.fixture
def running_identity(redis_database_url: str, mongo_url: str, mongo_database: str, tmp_path: Path) -> Running:
    """Start identity on empty databases; keywords are environment variables."""
    return partial(
        running_service,
        "identity",
        tmp_path,
        REDIS_URL=redis_database_url,
        MONGO_URL=mongo_url,
        MONGO_DATABASE=mongo_database,
        IDENTITY_MONGO_TIMEOUT_MS=500,
        PARTITIONS=PARTITIONS,
        ERASURE_KEY=ERASURE_KEY,
    )


@pytest.fixture(scope="module")
async def shared_stub(redis_url: str, mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A client of one identity service for many tests, which use ids and sites of their own and not its log."""
    async with (
        running_service(
            "identity",
            tmp_path_factory.mktemp("identity"),
            REDIS_URL=f"{redis_url}/{REDIS_DATABASES - 1}",
            MONGO_URL=mongo_url,
            MONGO_DATABASE=f"test_{uuid.uuid4().hex}",
            PARTITIONS=PARTITIONS,
            NEVER_ERASE=True,
        ) as identity,
        identity.stub() as stub,
    ):
        yield stub
