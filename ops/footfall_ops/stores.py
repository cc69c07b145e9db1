"""The stores of a deployment, opened with the settings of history and identity."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Self

from footfall_eventlog.log import GROUPS, stream_key
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.settings import DAY_MS
from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.event_log import EventLog
from footfall_history.ingest import SlowVisits
from footfall_history.settings import HistorySettings
from footfall_history.storage import Store, Tombstones
from footfall_identity.link_store import LinkStore
from footfall_identity.settings import IdentitySettings
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_ops.mongo_copy import Database

_READS_EVERY_MS: Final = 5_000
"""A reader of the log that runs reads more often."""


class OpsSettings(NamedTuple):
    """The settings of the two services that own what is stored."""

    history: HistorySettings
    identity: IdentitySettings

    @classmethod
    def load(cls) -> Self:
        """Read the environment, which is that of both services. Exits with 2 when a setting is wrong."""
        return cls(load(HistorySettings), load(IdentitySettings))


class Stores(NamedTuple):
    """What history keeps in MongoDB, and what is in Redis."""

    store: Store
    tombstones: Tombstones
    log: EventLog

    @property
    def redis(self) -> PartitionedRedis:
        """The Redis with the log."""
        return self.log.redis


@asynccontextmanager
async def opened(settings: OpsSettings, partitions: int | None = None) -> AsyncIterator[Stores]:
    """The stores, closed afterwards. `partitions`: of Redis, if not as the settings say."""
    history = settings.history
    store = Store.open(history.mongo_url, history.mongo_database, history.mongo_timeout_ms)
    log = EventLog(history.redis_url, partitions or history.partitions, history.redis_timeout_ms)
    tombstones = Tombstones(store, history.erasure_secret, erases_anonymous=history.erase_anonymous_events)
    try:
        yield Stores(store, tombstones, log)
    finally:
        await log.close()
        await store.close()


@asynccontextmanager
async def opened_database(settings: OpsSettings) -> AsyncIterator[Database]:
    """The whole database in MongoDB, closed afterwards."""
    history = settings.history
    database = Database(history.mongo_url, history.mongo_database, history.mongo_timeout_ms)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened_links(settings: OpsSettings) -> AsyncIterator[LinkStore]:
    """What identity keeps in MongoDB, closed afterwards."""
    identity = settings.identity
    links = LinkStore(
        identity.mongo_url, identity.mongo_database, timeout_ms=identity.mongo_timeout_ms, erasure_secret=""
    )
    try:
        yield links
    finally:
        await links.close()


def dead_letters_of(settings: OpsSettings, log: EventLog) -> DeadLetterQueue:
    """The dead letters beside a log, without a limit of their number."""
    return DeadLetterQueue(
        log,
        retention_ms=settings.history.event_retention_days * DAY_MS,
        max_per_partition=1_000_000_000,
        max_per_visit=1_000_000_000,
    )


def slow_visits_of(settings: OpsSettings, log: EventLog) -> SlowVisits:
    """The slow visits beside a log."""
    return SlowVisits(log, max_bytes=settings.history.slow_visit_bytes)


async def require_stopped(redis: PartitionedRedis) -> None:
    """Raise RefusalError while a process of identity or history reads the log."""
    for number in redis.numbers:
        key = stream_key(number)
        if await redis[number].type(key) != b"stream":
            continue
        existing = {about["name"].decode() for about in await redis[number].xinfo_groups(key)}
        for group in existing & {*GROUPS}:
            for consumer in await redis[number].xinfo_consumers(key, group):
                if consumer["idle"] < _READS_EVERY_MS:
                    raise RefusalError(
                        f"a process reads the event log (group {group}): stop collector, identity and history, wait "
                        f"{_READS_EVERY_MS // 1_000} s, and run the command again"
                    )


def now_ms() -> int:
    """The current time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
