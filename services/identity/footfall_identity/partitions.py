"""Turns a Redis URL into the partitions kept there: keys, scripts and logs. The one file that imports redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any, Final, Self

import structlog
from footfall_servicekit.errors import RequestError
from footfall_servicekit.stream import PAYLOAD_FIELD, Entry, StreamReader
from footfall_timeline import partition
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_PARTITIONS_KEY: Final = "log:partitions"  # written by the collector
_ENTRIES_A_BATCH: Final = 32  # of up to 1,000 events: done well within the time after which others take them over
_WAIT_FOR_REPLICAS_MS: Final = 1_000
_RETRY_MS: Final = 1_000
_UNAVAILABLE: Final = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError)

_log = structlog.get_logger()


class PartitionKeys:
    """The names of a partition's keys. They share one hash tag, so one slot of a Redis Cluster."""

    def __init__(self, number: int) -> None:
        tag = f"{{p{number:02d}}}"
        self.visit = f"visit:{tag}:"
        self.person = f"person:{tag}:"
        self.live_anonymous = f"live:{tag}:anonymous"
        self.live_known = f"live:{tag}:known"
        self.changes = f"changes:{tag}"
        self.tombstones = f"tombstones:{tag}"
        self.log = f"log:{tag}"


class Partitions:
    """The Redis of a deployment."""

    def __init__(self, redis: Redis, count: int) -> None:
        self.redis: Any = redis  # its commands are typed as sync or async at once
        self.keys = [PartitionKeys(number) for number in range(count)]
        self._is_checked = False

    @classmethod
    def open(cls, url: str, count: int, *, timeout_ms: int) -> Self:
        """Return those at a Redis URL without connecting yet."""
        redis = Redis.from_url(
            url,
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=timeout_ms / 1000,
            # Once more and at once: a connection that has died while idle shows only when it is used.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        return cls(redis, count)

    @property
    def numbers(self) -> range:
        """The numbers of the partitions."""
        return range(len(self.keys))

    def number_of(self, visit_id: str) -> int:
        """The partition that a visit belongs to."""
        return partition(visit_id, len(self.keys))

    def keys_of(self, visit_id: str) -> PartitionKeys:
        """The keys of that partition."""
        return self.keys[self.number_of(visit_id)]

    def script(self, file_name: str) -> Any:
        """A Lua script of this package, to be called with keys and arguments."""
        return self.redis.register_script(files(__package__).joinpath(file_name).read_text())

    def log_readers(self, group: str, handle: Callable[[int, list[Entry]], Awaitable[None]]) -> list[StreamReader]:
        """A reader for the log of each partition; the handler is told its number."""
        return [
            StreamReader(self.redis, keys.log, group, partial(handle, number), batch=_ENTRIES_A_BATCH)
            for number, keys in enumerate(self.keys)
        ]

    async def append_to_logs(self, payload: bytes, ack_replicas: int) -> None:
        """Append an entry to the log of every partition; on disk when this returns, here and on so many replicas.

        Raises RequestError (UNAVAILABLE); some partitions may have it then.
        """
        for keys in self.keys:
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.xadd(keys.log, {PAYLOAD_FIELD: payload})
            if ack_replicas:
                pipeline.execute_command("WAITAOF", 1, ack_replicas, _WAIT_FOR_REPLICAS_MS)
            async with answering():
                answers = await pipeline.execute()
            if ack_replicas and answers[1][1] < ack_replicas:
                raise RequestError.unavailable("too few replicas have confirmed the entry of the log", _RETRY_MS)

    async def check(self) -> None:
        """Wait until Redis answers, then make sure that its data was made with as many partitions.

        Raises:
            RuntimeError: it was made with another number, and visits keep their partition.

        """
        while not self._is_checked:
            try:
                made_with = int(await self.redis.get(_PARTITIONS_KEY) or 0)
            except RedisError as error:
                _log.warning("Redis does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_MS / 1000)
                continue
            if made_with not in {0, len(self.keys)}:
                problem = f"PARTITIONS is {len(self.keys)}, but the data in this Redis was made with {made_with}"
                _log.error("refusing to start", problem=problem)
                raise RuntimeError(problem)
            self._is_checked = True

    async def is_ready(self) -> bool:
        """Whether events can be resolved now. Raises RedisError when Redis does not answer."""
        return self._is_checked and bool(await self.redis.ping())

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Raise RequestError (UNAVAILABLE) when Redis does not answer what is asked inside."""
    try:
        yield
    except _UNAVAILABLE as error:
        _log.warning("Redis does not answer", error=type(error).__name__)
        raise RequestError.unavailable("the live state does not answer", _RETRY_MS) from None
