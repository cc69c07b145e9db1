"""A queue in Redis for visits that take much effort, so that events of other visits do not wait for them.

Attribution does not depend on the order of arrival, so a visit may be handled later than its successors in the log.

| key | value |
|---|---|
| `slow:{p00}:<visit>` | a list of batches as in the log |
| `slow:{p00}` | a sorted set of the visits by the time when they are due |
| `slow:{p00}:bytes` | the size of all batches |

Visits take turns. One that cannot be stored comes again after a growing pause, without delaying others. Erasures are
queued as well, each under a name of its own, since erasing an identity from many visits or a long one takes long.

A process that handles a visit stores the end of its lease, and removes batches only while no other process has leased
the visit. So one process does the work, and when it dies another repeats it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from itertools import chain
from typing import Final, NamedTuple

import structlog
from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.partitions import hash_tag
from footfall_servicekit.failure_log import FailureLog

from footfall_history import metrics
from footfall_history.event_log import TRANSIENT_LOG_ERRORS, EventLog

# About all batches of a visit, so that they are merged together. The attributor bounds its own commands.
_EVENTS_PER_LEASE: Final = 1_000
_BYTES_PER_LEASE: Final = 1024 * 1024
_ITEMS_PER_READ: Final = 8
_BYTES_PER_READ: Final = 256 * 1024  # about: Redis answers no other client meanwhile
_LEASE_MS: Final = 30_000
_POLL_S: Final = 0.25
_MAX_REST_S: Final = 1.0
_MAX_PAUSE_S: Final = 60.0

# KEYS  visits by due time, size of all items; then for each new item: the items of its visit.
# ARGV  due time, largest size; then for each new item: its visit, the item.
# Stores all items or none, so that none is stored twice after a refusal. Returns whether they were stored.
_PUT: Final = """
local size, more = tonumber(redis.call('GET', KEYS[2]) or '0'), 0
for i = 3, #KEYS do more = more + #ARGV[2 * i - 2] end
if size > 0 and size + more > tonumber(ARGV[2]) then return 0 end
for i = 3, #KEYS do
  redis.call('RPUSH', KEYS[i], ARGV[2 * i - 2])
  redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[2 * i - 3])
end
redis.call('INCRBY', KEYS[2], more)
return 1
"""
# KEYS  visits by due time.  ARGV  now, end of the lease.  Returns the visit that is due first, if there is one.
_LEASE: Final = """
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 1)
if #due > 0 then redis.call('ZADD', KEYS[1], ARGV[2], due[1]) end
return due
"""
# KEYS  visits by due time, size of all items, the visit's items.
# ARGV  visit, end of the lease, number of items done, next due time, size of the items done.
# Does nothing when another process has leased the visit since.
_RELEASE: Final = """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return end
local done = tonumber(ARGV[3])
if done > 0 then
  redis.call('DECRBY', KEYS[2], ARGV[5])
  redis.call('LTRIM', KEYS[3], done, -1)
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
"""

_log = structlog.get_logger()
_reading = FailureLog("slow visits cannot be read; trying again", "store")


class SlowVisitsFullError(Exception):
    """The queue of a partition is full, and its log is not read until there is room again."""


class Lease(NamedTuple):
    """A visit (or an erasure) with its batches, their size in Redis, and the end of the lease in ms since the epoch."""

    name: str
    batches: list[EventBatch]
    size: int
    until_ms: int


Handler = Callable[[int, list[EventBatch]], Awaitable[None]]


class SlowVisits:
    """The slow visits of one deployment. Methods raise TRANSIENT_LOG_ERRORS."""

    def __init__(self, log: EventLog, *, max_bytes: int) -> None:
        """Queue up to `max_bytes` per partition, or a single larger batch."""
        self._redis = log.client
        self._partitions = log.partitions
        self._max_bytes = max_bytes
        self._failures: Counter[tuple[int, str]] = Counter()

    async def put(self, number: int, batches: Collection[tuple[str, EventBatch]], *, is_first: bool = False) -> None:
        """Queue batches of a partition, each under the id of its visit. They are on disk when this returns.

        Raises SlowVisitsFullError, and then queues none.
        """
        if not batches:
            return
        keys = [_due_key(number), _bytes_key(number), *(_items_key(number, name) for name, _ in batches)]
        items = chain.from_iterable((name, batch.SerializeToString()) for name, batch in batches)
        due_ms = 0 if is_first else _now_ms()
        if not await self._redis(number).eval(_PUT, len(keys), *keys, due_ms, self._max_bytes, *items):
            raise SlowVisitsFullError

    async def run(self, number: int, handle: Handler) -> None:
        """Pass the batches of a partition to a handler, a visit at a time, until cancelled. Errors are logged.

        After each visit it rests for as long as that took, up to a second, as the log's consumer needs MongoDB as well.
        """
        while True:
            rest_s = _POLL_S
            try:
                if lease := await self._lease(number):
                    started = time.monotonic()
                    await self._release(number, lease, await _error_of(handle(number, lease.batches)))
                    rest_s = min(time.monotonic() - started, _MAX_REST_S)
            except Exception as error:  # from Redis, which still has the batches
                exc_info = None if isinstance(error, TRANSIENT_LOG_ERRORS) else error
                _reading.failed("Redis", reason=type(error).__name__, exc_info=exc_info)
                rest_s = _MAX_REST_S
            else:
                _reading.worked("Redis")
            await asyncio.sleep(rest_s)

    async def _lease(self, number: int) -> Lease | None:
        until_ms = _now_ms() + _LEASE_MS
        due = await self._redis(number).eval(_LEASE, 1, _due_key(number), _now_ms(), until_ms)
        if not due:
            return None
        name, batches = due[0].decode(), list[EventBatch]()
        count = size = 0
        asked = 1  # the first may be large; then as many as should be small enough, judging by those before
        while count < _EVENTS_PER_LEASE and size < _BYTES_PER_LEASE:
            key, read = _items_key(number, name), len(batches)
            items = await self._redis(number).lrange(key, read, read + asked - 1)
            batches += map(EventBatch.FromString, items)
            count = sum(len(batch.events) for batch in batches)
            size += sum(map(len, items))
            if len(items) < asked:
                break
            asked = min(_ITEMS_PER_READ, 1 + _BYTES_PER_READ * len(batches) // max(1, size))
        return Lease(name, batches, size, until_ms)

    async def _release(self, number: int, lease: Lease, error: Exception | None) -> None:
        failed, due_ms = (number, lease.name), _now_ms()
        if error:
            self._failures[failed] += 1
            pause_s = min(2.0 ** self._failures[failed], _MAX_PAUSE_S)
            due_ms += int(pause_s * 1000)
            details = {"partition": number, "failures": self._failures[failed], "pause_s": pause_s}
            _log.error("a deferred visit cannot be stored; trying again after a pause", **details, exc_info=error)
        elif self._failures.pop(failed, 0):
            _log.info("a deferred visit that could not be stored is stored", partition=number)
        done_count = 0 if error else len(lease.batches)
        keys = _due_key(number), _bytes_key(number), _items_key(number, lease.name)
        arguments = lease.name, lease.until_ms, done_count, due_ms, lease.size
        await self._redis(number).eval(_RELEASE, len(keys), *keys, *arguments)

    async def waiting(self, number: int) -> AsyncIterator[bytes]:
        """The batches of a partition that wait, as in the log, and perhaps some twice: others are added meanwhile."""
        redis = self._redis(number)
        for name in await redis.zrange(_due_key(number), 0, -1):
            last = -1
            # From the end, because those that are done leave at the beginning.
            while items := await redis.lrange(_items_key(number, name.decode()), last - _ITEMS_PER_READ + 1, last):
                for item in reversed(items):
                    yield item
                last -= _ITEMS_PER_READ

    async def is_empty(self, number: int) -> bool:
        """Whether no visit of a partition waits."""
        return not await self._redis(number).zcard(_due_key(number))

    async def update_metrics(self) -> None:
        """Set the metrics of slow visits."""
        visits = size = 0
        for number in range(self._partitions):
            visits += await self._redis(number).zcard(_due_key(number))
            size += int(await self._redis(number).get(_bytes_key(number)) or 0)
        metrics.SLOW_VISITS.set(visits)
        metrics.SLOW_BYTES.set(size)


async def _error_of(handled: Awaitable[None]) -> Exception | None:
    """The exception that handling a visit ended with: it must not keep other visits waiting."""
    try:
        await handled
    except Exception as error:
        return error
    return None


def _due_key(number: int) -> str:
    return f"slow:{hash_tag(number)}"


def _bytes_key(number: int) -> str:
    return f"slow:{hash_tag(number)}:bytes"


def _items_key(number: int, name: str) -> str:
    return f"slow:{hash_tag(number)}:{name}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
