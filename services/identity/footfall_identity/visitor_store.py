"""Turns what batches bring into timelines in Redis, one script call a partition, and reads visits back."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final, Self

import structlog
from footfall_servicekit.errors import RequestError
from footfall_servicekit.stream import Handler, StreamReader
from footfall_timeline import encode, identity_hash, partition
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from footfall_identity.visit_record import Touch, VisitRecord, identities

REFRESH_MS: Final = 86_400_000
"""The expiry of a visit is moved at most so often, because moving it costs as much as merging."""

_PARTITIONS_KEY: Final = "log:partitions"  # written by the collector
_ENTRIES_A_BATCH: Final = 32  # of up to 1,000 events; together well within the time after which they are taken over
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


class VisitorStore:
    """The live state of every visit. All methods raise RequestError (UNAVAILABLE) when Redis does not answer."""

    def __init__(
        self,
        redis: Redis,
        partitions: int,
        *,
        keep_ms: int,
        idle_ms: int,
        changes_kept: int,
        erasure_secret: str,
    ) -> None:
        self._redis: Any = redis  # its commands are typed as sync or async at once
        self._keys = [PartitionKeys(number) for number in range(partitions)]
        self._keep_ms = keep_ms
        self._idle_ms = idle_ms
        self._changes_kept = changes_kept
        self._erasure_secret = erasure_secret
        self._merge = self._redis.register_script(files(__package__).joinpath("merge.lua").read_text())
        self._is_checked = False

    @classmethod
    def open(cls, url: str, partitions: int, *, timeout_ms: int, **more: Any) -> Self:
        """Return the store at a Redis URL without connecting yet."""
        redis = Redis.from_url(
            url,
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=timeout_ms / 1000,
            # Once more and at once: a connection that has died while idle shows only when it is used.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        return cls(redis, partitions, **more)

    async def merge(self, touches: Sequence[Touch], *, answer_all: bool = False) -> list[VisitRecord]:
        """Merge what a batch brings; each partition at once or not at all, and any of it again without harm.

        Returns the visits whose timeline changed, as they are now; with `answer_all` every visit with transitions in
        the batch. In the order given.
        """
        parts: dict[int, list[Touch]] = defaultdict(list)
        for touch in touches:
            parts[partition(touch.visit_id, len(self._keys))].append(touch)
        async with _answering():
            answers = await asyncio.gather(
                *(self._merge_part(self._keys[number], part, answer_all) for number, part in parts.items())
            )
        found = {record.visit_id: record for answer in answers for record in answer}
        return [found[touch.visit_id] for touch in touches if touch.visit_id in found]

    async def _merge_part(self, keys: PartitionKeys, part: list[Touch], answer_all: bool) -> list[VisitRecord]:
        now_ms = time.time_ns() // 1_000_000
        names: list[str] = [keys.live_anonymous, keys.live_known, keys.changes, keys.tombstones]
        live_after, answered = f"{now_ms - self._idle_ms:013d}", "1" if answer_all else "0"
        arguments: list[str | int] = [live_after, self._keep_ms, REFRESH_MS, self._changes_kept, now_ms]
        arguments += (keys.person, answered)
        for touch in part:
            names.append(keys.visit + touch.visit_id)
            arguments += (f"{touch.first_ms:013d}", touch.site, f"{touch.last_ms:013d}")
            arguments += (f"{touch.url_ms:013d}", touch.url, touch.global_visit_id, len(touch.transitions))
            for transition in touch.transitions:
                arguments += (transition.event_id, encode(transition), self._hash(transition.identity))
        records, to_refresh = [], []
        for visit_id, is_asked_for, must_refresh, flat in await self._merge(names, arguments):
            record = VisitRecord.from_hash(visit_id.decode(), zip(flat[::2], flat[1::2], strict=True))
            if is_asked_for:
                records.append(record)
            if must_refresh:
                to_refresh.append(record)
        if to_refresh and self._erasure_secret:
            await self._refresh_persons(keys, to_refresh, now_ms)
        return records

    async def _refresh_persons(self, keys: PartitionKeys, records: list[VisitRecord], now_ms: int) -> None:
        """Keep the index from people to visits as long as the visits. It lives a refresh longer, so one may fail."""
        pipeline = self._redis.pipeline(transaction=False)
        for record in records:
            for identity in identities(record.timeline):
                key = keys.person + self._hash(identity)
                pipeline.zadd(key, {record.visit_id: now_ms})
                pipeline.pexpire(key, self._keep_ms + 2 * REFRESH_MS)
        await pipeline.execute()

    def _hash(self, identity: str) -> str:
        if not identity or not self._erasure_secret:
            return ""
        return identity_hash(self._erasure_secret, identity).hex()

    async def get(self, visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        """The visits of these that are remembered, by id."""
        wanted = list(visit_ids)
        pipeline = self._redis.pipeline(transaction=False)
        for visit_id in wanted:
            pipeline.hgetall(self._keys[partition(visit_id, len(self._keys))].visit + visit_id)
        async with _answering():
            answers = await pipeline.execute()
        return {
            visit_id: VisitRecord.from_hash(visit_id, fields.items())
            for visit_id, fields in zip(wanted, answers, strict=True)
            if fields
        }

    def log_readers(self, group: str, handler: Handler) -> list[StreamReader]:
        """A reader for the log of each partition."""
        return [StreamReader(self._redis, keys.log, group, handler, batch=_ENTRIES_A_BATCH) for keys in self._keys]

    async def check(self) -> None:
        """Wait until Redis answers, then make sure that its data was made with as many partitions.

        Raises:
            RuntimeError: it was made with another number, and visits keep their partition.

        """
        while not self._is_checked:
            try:
                made_with = int(await self._redis.get(_PARTITIONS_KEY) or 0)
            except RedisError as error:
                _log.warning("Redis does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_MS / 1000)
                continue
            if made_with not in {0, len(self._keys)}:
                problem = f"PARTITIONS is {len(self._keys)}, but the data in this Redis was made with {made_with}"
                _log.error("refusing to start", problem=problem)
                raise RuntimeError(problem)
            self._is_checked = True

    async def is_ready(self) -> bool:
        """Whether events can be resolved now. Raises RedisError when Redis does not answer."""
        return self._is_checked and bool(await self._redis.ping())

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        _log.warning("Redis does not answer", error=type(error).__name__)
        raise RequestError.unavailable("the live state does not answer", _RETRY_MS) from None
