"""Turns events of visits that cost much into a queue beside the log, so that the events of others do not wait for them.

In the order of arrival nothing hangs (design 3.4), so a visit may be handled later than what came after it. What waits
is a list for each visit, `slow:{p00}:<visit>`, whose items are batches as in the log; the sorted set `slow:{p00}` holds
the visits by when they are due, and `slow:{p00}:bytes` is the size of all items. Visits take turns; one that cannot be
stored now comes again after a pause that grows, in front of nobody. Erasures wait here too, each under a name of its
own, as to erase a person takes long who was in many visits or in a long one.

Whoever takes a visit writes down until when, and removes what it has handled only where that still stands. So of
several processes one does the work, and when it dies another does it again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from itertools import chain
from typing import Final, NamedTuple

import structlog
from footfall.event.v1.event_pb2 import EventBatch
from footfall_servicekit.partitions import hash_tag

from footfall_history import metrics
from footfall_history.event_log import Log, Unavailable

# A turn takes about as much of a visit as there is, so that it is merged once. Its writes are cut small elsewhere.
_EVENTS_A_TURN: Final = 1_000
_BYTES_A_TURN: Final = 1024 * 1024
_ITEMS_A_READ: Final = 8
_BYTES_A_READ: Final = 256 * 1024  # about: Redis answers nobody else meanwhile
_TAKEN_FOR_MS: Final = 30_000
_LOOK_EVERY_S: Final = 0.25
_LONGEST_REST_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

# KEYS  visits by when they are due, size of all items; then for each new item: the items of its visit.
# ARGV  when they are due, most bytes; then for each new item: its visit, itself.
# All or none, as none may come twice for want of room. Answers whether they were taken.
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
# KEYS  visits by when they are due.  ARGV  now, until when it is taken. Answers the visit that is due first, if any is.
_TAKE: Final = """
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 1)
if #due > 0 then redis.call('ZADD', KEYS[1], ARGV[2], due[1]) end
return due
"""
# KEYS  visits by when they are due, size of all items, the visit's items.
# ARGV  visit, until when it was taken, how many items are done, when the visit is due again, size of what is done.
# Does nothing when somebody else has taken it since.
_GIVE_BACK: Final = """
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


class SlowVisitsFullError(Exception):
    """So much of slow visits waits that history stops reading the log."""


class Turn(NamedTuple):
    """A visit (or an erasure), what waits of it, its size in Redis, and until when it is this process's."""

    name: str
    batches: list[EventBatch]
    size: int
    until_ms: int


Handler = Callable[[int, list[EventBatch]], Awaitable[None]]


class SlowVisits:
    """The slow visits of one deployment. Methods raise `log.Unavailable` when Redis does not answer."""

    def __init__(self, log: Log, *, bound_bytes: int) -> None:
        """Of each partition `bound_bytes` may wait, or one batch that is larger."""
        self._redis = log.partition
        self._partitions = log.partitions
        self._bound_bytes = bound_bytes
        self._failures: Counter[tuple[int, str]] = Counter()

    async def put(self, number: int, batches: Collection[tuple[str, EventBatch]], *, is_first: bool = False) -> None:
        """Let batches of a partition wait, each under the name of its visit. On disk when this returns.

        Raises:
            SlowVisitsFullError: there is no room. None was put there.

        """
        if not batches:
            return
        keys = [_due_key(number), _bytes_key(number), *(_items_key(number, name) for name, _ in batches)]
        items = chain.from_iterable((name, batch.SerializeToString()) for name, batch in batches)
        due_ms = 0 if is_first else _now_ms()
        if not await self._redis(number).eval(_PUT, len(keys), *keys, due_ms, self._bound_bytes, *items):
            raise SlowVisitsFullError

    async def run(self, number: int, handle: Handler) -> None:
        """Give what waits in a partition to a handler, a visit at a time, until cancelled, whatever happens.

        After each turn as long a rest, up to a second: others need the store as well.
        """
        while True:
            rest_s = _LOOK_EVERY_S
            try:
                if turn := await self._take(number):
                    begun = time.monotonic()
                    await self._give_back(number, turn, await self._failure(number, turn, handle))
                    rest_s = min(time.monotonic() - begun, _LONGEST_REST_S)
            except Exception as error:  # Redis's; what waits is safe there
                exc_info = None if isinstance(error, Unavailable) else error
                _log.warning(
                    "slow visits cannot be read", partition=number, reason=type(error).__name__, exc_info=exc_info
                )
                rest_s = _LONGEST_REST_S
            await asyncio.sleep(rest_s)

    async def _take(self, number: int) -> Turn | None:
        until_ms = _now_ms() + _TAKEN_FOR_MS
        due = await self._redis(number).eval(_TAKE, 1, _due_key(number), _now_ms(), until_ms)
        if not due:
            return None
        name, batches = due[0].decode(), list[EventBatch]()
        count = size = 0
        asked = 1  # it may be large; after it, as many as are not too much if they are like it
        while count < _EVENTS_A_TURN and size < _BYTES_A_TURN:
            key, read = _items_key(number, name), len(batches)
            items = await self._redis(number).lrange(key, read, read + asked - 1)
            batches += map(EventBatch.FromString, items)
            count = sum(len(batch.events) for batch in batches)
            size += sum(map(len, items))
            if len(items) < asked:
                break
            asked = min(_ITEMS_A_READ, 1 + _BYTES_A_READ * len(batches) // max(1, size))
        return Turn(name, batches, size, until_ms)

    async def _failure(self, number: int, turn: Turn, handle: Handler) -> Exception | None:
        """Handle a turn, and return why it failed."""
        try:
            await handle(number, turn.batches)
        except Exception as error:  # whatever it is, the others go on
            return error
        return None

    async def _give_back(self, number: int, turn: Turn, error: Exception | None) -> None:
        failed, due_ms = (number, turn.name), _now_ms()
        if error:
            self._failures[failed] += 1
            pause_s = min(2.0 ** self._failures[failed], _LONGEST_PAUSE_S)
            due_ms += int(pause_s * 1000)
            about = {"partition": number, "failures": self._failures[failed], "pause_s": pause_s}
            _log.error("a visit that is set aside cannot be stored", **about, exc_info=error)
        elif self._failures.pop(failed, 0):
            _log.info("a visit that could not be stored is stored", partition=number)
        back = turn.name, turn.until_ms, 0 if error else len(turn.batches), due_ms, turn.size
        keys = _due_key(number), _bytes_key(number), _items_key(number, turn.name)
        await self._redis(number).eval(_GIVE_BACK, len(keys), *keys, *back)

    async def tell_metrics(self) -> None:
        """Count them for the metrics."""
        visits = size = 0
        for number in range(self._partitions):
            visits += await self._redis(number).zcard(_due_key(number))
            size += int(await self._redis(number).get(_bytes_key(number)) or 0)
        metrics.SLOW_VISITS.set(visits)
        metrics.SLOW_BYTES.set(size)


def _due_key(number: int) -> str:
    return f"slow:{hash_tag(number)}"


def _bytes_key(number: int) -> str:
    return f"slow:{hash_tag(number)}:bytes"


def _items_key(number: int, name: str) -> str:
    return f"slow:{hash_tag(number)}:{name}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
