"""Turns events that cannot be stored into letters in Redis, which lie aside until replayed, removed or expired.

A letter is a hash, `aside:{p00}:<id>`; the sorted set `aside:{p00}` holds the ids by when they were put aside. So one
is found by its event at once, the same event lies there once however often it is read, and a letter that is removed
leaves nothing behind, as an entry of a stream would in its node.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from itertools import chain
from typing import Final, NamedTuple

import structlog
from footfall.event.v1.event_pb2 import EventBatch
from footfall_servicekit.partitions import hash_tag
from footfall_servicekit.stream import PAYLOAD_FIELD, Entry
from footfall_timeline import has_stored_ids, partition
from google.protobuf.message import DecodeError

from footfall_history import metrics
from footfall_history.event_log import Log
from footfall_history.storage import Unstorable

_LETTERS_A_READ: Final = 100

# KEYS  the set of ids, then one letter each.  ARGV  time put aside, time to expire, time before which letters have
# expired, letters that a visit may have; then for each letter: id, payload, reason.
# Answers how many were not there yet, and how many were dropped because their visit has enough of them.
_PUT: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
local most, of_visit = tonumber(ARGV[4]), {}
local function visit_of(id) return id:match('^(' .. ('.'):rep(36) .. ')/') end
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local visit = visit_of(id) or ''
  of_visit[visit] = (of_visit[visit] or 0) + 1
end
local new, dropped = 0, 0
for i = 2, #KEYS do
  local id, payload, reason = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local visit = visit_of(id)
  if not redis.call('ZSCORE', KEYS[1], id) then
    if visit and (of_visit[visit] or 0) >= most then
      dropped = dropped + 1
    else
      redis.call('ZADD', KEYS[1], ARGV[1], id)
      redis.call('HSET', KEYS[i], 'b', payload, 'reason', reason)
      redis.call('PEXPIREAT', KEYS[i], ARGV[2])
      new = new + 1
      if visit then of_visit[visit] = (of_visit[visit] or 0) + 1 end
    end
  end
end
return {new, dropped}
"""
# KEYS  the letter.  ARGV  payload, reason.  It keeps its time to expire.
_REPLACE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'b', ARGV[1], 'reason', ARGV[2]) end
"""
# KEYS  the set of ids, the letter, the log.  ARGV  id, payload as it was looked at.  Answers whether it was still so.
# At once in the log and no longer here: whatever a crash or a failover loses, it is in one of the two.
_REPLAY: Final = """
if redis.call('HGET', KEYS[2], 'b') ~= ARGV[2] then return 0 end
redis.call('XADD', KEYS[3], '*', 'b', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

_log = structlog.get_logger()


class DeadLettersFullError(Exception):
    """So many events lie aside that history stops reading the log: what cannot be stored is no exception any more."""


class PutAside(NamedTuple):
    """How many events did not lie aside yet, and how many were dropped because their visit has enough dead letters."""

    new_count: int
    dropped_count: int


class Letter(NamedTuple):
    """What could not be stored, as it lies aside, and why. `id` is that of visit and event where it has such."""

    partition: int
    id: str
    aside_ms: int
    reason: str
    payload: bytes

    @property
    def batch(self) -> EventBatch | None:
        """The event with its context; None when this is an entry of the log that holds no event one could take out."""
        try:
            batch = EventBatch.FromString(self.payload)
        except DecodeError:
            return None
        return batch if len(batch.events) == 1 and len(batch.contexts) == 1 else None


class DeadLetters:
    """The letters of one deployment. Methods raise `log.Unavailable` when Redis does not answer."""

    def __init__(self, log: Log, *, kept_ms: int, bound: int, bound_of_visit: int) -> None:
        """A letter lies here for `kept_ms`; of each partition not more than `bound` of them, and those of a batch.

        Of each visit not more than `bound_of_visit`: so it takes several to reach the other bound.
        """
        self._redis = log.partition
        self.partitions = log.partitions
        self._kept_ms = kept_ms
        self._bound = bound
        self._bound_of_visit = bound_of_visit

    async def put(self, number: int, unstorable: Collection[Unstorable]) -> PutAside:
        """Put events of a partition aside.

        Raises:
            DeadLettersFullError: too many do. None of these was put there.

        """
        letters = {}
        for event, context, reason in unstorable:
            alone = EventBatch(contexts=[context], events=[event])
            alone.events[0].context_index = 0
            payload = alone.SerializeToString()
            letters[letter_id(alone)] = payload, reason
        if letters:
            reasons = sorted({reason for _, reason in letters.values()})
            _log.error("put aside events that cannot be stored", partition=number, count=len(letters), reasons=reasons)
        return await self._put(number, letters, _now_ms())

    async def put_entry(self, number: int, entry: Entry, reason: str) -> None:
        """Put aside an entry of the log that holds no events one could take out. Raises DeadLettersFullError."""
        _log.error("put aside an entry that cannot be read", partition=number, entry=entry.id, reason=reason)
        await self._put(number, {f"entry/{entry.id}": (entry.payload, reason)}, _now_ms())

    async def _put(self, number: int, letters: Mapping[str, tuple[bytes, str]], aside_ms: int) -> PutAside:
        if not letters:
            return PutAside(0, 0)
        redis = self._redis(number)
        if await redis.zcard(_ids_key(number)) >= self._bound:
            raise DeadLettersFullError
        keys = [_ids_key(number), *(_letter_key(number, letter_id) for letter_id in letters)]
        times = aside_ms, aside_ms + self._kept_ms, _now_ms() - self._kept_ms
        about = chain.from_iterable((letter_id, *letter) for letter_id, letter in letters.items())
        put = PutAside(*await redis.eval(_PUT, len(keys), *keys, *times, self._bound_of_visit, *about))
        if put.dropped_count:
            _log.error("dropped events: their visit has too many dead letters", partition=number, **put._asdict())
        return put

    async def of_event(self, visit_id: str, event_id: str) -> Letter | None:
        """The letter of an event."""
        return await self._get(partition(visit_id, self.partitions), f"{visit_id}/{event_id}")

    async def find(self, letter_id: str) -> Letter | None:
        """A letter by its id, wherever it lies."""
        for number in range(self.partitions):
            if letter := await self._get(number, letter_id):
                return letter
        return None

    async def _get(self, number: int, letter_id: str) -> Letter | None:
        aside_ms = await self._redis(number).zscore(_ids_key(number), letter_id)
        letters = await self._read(number, [(letter_id, aside_ms)]) if aside_ms else []
        return letters[0] if letters else None

    async def each(self, number: int) -> AsyncIterator[Letter]:
        """The letters of a partition, in the order they were put aside."""
        ids = await self._redis(number).zrange(_ids_key(number), 0, -1, withscores=True)
        for start in range(0, len(ids), _LETTERS_A_READ):
            part = [(letter_id.decode(), aside_ms) for letter_id, aside_ms in ids[start : start + _LETTERS_A_READ]]
            for letter in await self._read(number, part):
                yield letter

    async def _read(self, number: int, ids: Collection[tuple[str, float]]) -> list[Letter]:
        """Those of these that are still there."""
        pipeline = self._redis(number).pipeline(transaction=False)
        for letter_id, _ in ids:
            pipeline.hmget(_letter_key(number, letter_id), PAYLOAD_FIELD, "reason")
        return [
            Letter(number, letter_id, int(aside_ms), reason.decode(), payload)
            for (letter_id, aside_ms), (payload, reason) in zip(ids, await pipeline.execute(), strict=True)
            if payload is not None
        ]

    async def replay(self, letter: Letter) -> bool:
        """Append what lies aside to the log again, and take it from here. False when it is no longer as given."""
        keys = _ids_key(letter.partition), _letter_key(letter.partition, letter.id), f"log:{hash_tag(letter.partition)}"
        return bool(await self._redis(letter.partition).eval(_REPLAY, len(keys), *keys, letter.id, letter.payload))

    async def replace(self, letter: Letter, batch: EventBatch, reason: str) -> str:
        """Write another event in the place of a letter's; return the letter's id, which is another if the event's is.

        Raises DeadLettersFullError.
        """
        new_id, payload = letter_id(batch), batch.SerializeToString()
        if new_id == letter.id:
            await self._redis(letter.partition).eval(
                _REPLACE, 1, _letter_key(letter.partition, letter.id), payload, reason
            )
        else:
            number = partition(batch.events[0].visit_id, self.partitions)
            await self._put(number, {new_id: (payload, reason)}, letter.aside_ms)
            await self.remove([letter])
        return new_id

    async def remove(self, letters: Collection[Letter]) -> None:
        """Remove these for good."""
        for letter in letters:
            pipeline = self._redis(letter.partition).pipeline(transaction=False)
            pipeline.delete(_letter_key(letter.partition, letter.id))
            pipeline.zrem(_ids_key(letter.partition), letter.id)
            await pipeline.execute()

    async def count(self) -> tuple[int, int]:
        """How many there are in all, and when the oldest was put aside (0: there is none)."""
        total, oldest_ms = 0, []
        for number in range(self.partitions):
            pipeline = self._redis(number).pipeline(transaction=False)
            pipeline.zremrangebyscore(_ids_key(number), "-inf", _now_ms() - self._kept_ms)
            pipeline.zcard(_ids_key(number))
            pipeline.zrange(_ids_key(number), 0, 0, withscores=True)
            _, count, oldest = await pipeline.execute()
            total += count
            oldest_ms += [int(aside_ms) for _, aside_ms in oldest]
        return total, min(oldest_ms, default=0)

    async def tell_metrics(self) -> None:
        """Count them for the metrics."""
        total, oldest_ms = await self.count()
        metrics.DEAD_LETTERS.set(total)
        metrics.OLDEST_DEAD_LETTER.set(oldest_ms / 1000)


def letter_id(batch: EventBatch) -> str:
    """What names the letter of the one event in a batch: `visitID/eventID`, or a digest when it has no such ids."""
    [event] = batch.events
    if has_stored_ids(event):
        return f"{event.visit_id}/{event.event_id}"
    return f"event/{hashlib.sha256(batch.SerializeToString(deterministic=True)).hexdigest()[:32]}"


def _ids_key(number: int) -> str:
    return f"aside:{hash_tag(number)}"


def _letter_key(number: int, letter_id: str) -> str:
    return f"aside:{hash_tag(number)}:{letter_id}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
