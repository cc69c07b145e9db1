"""Dead letters in Redis, kept until they are replayed, discarded or expired.

A dead letter is a hash, `aside:{p00}:<id>`. The sorted set `aside:{p00}` holds the ids by time of creation. So a dead
letter is found by its event, an event that is read again does not become a second one, and removing one frees its
memory, which an entry of a stream would not.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from itertools import chain
from typing import Final, NamedTuple

import structlog
from footfall.event.v1.event_pb2 import EventBatch
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.admitted import has_stored_ids
from footfall_eventlog.interactions import is_valid_interaction
from footfall_eventlog.log import stream_key
from footfall_eventlog.partitions import hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry
from footfall_timeline import partition
from google.protobuf.message import DecodeError

from footfall_history import metrics
from footfall_history.event_log import EventLog
from footfall_history.storage import Unstorable

_LETTERS_PER_READ: Final = 100

# KEYS  the set of ids, then each dead letter.
# ARGV  time of creation, time of expiry, time before which dead letters have expired, dead letters allowed per visit;
#       then for each dead letter: id, payload, reason.
# Returns how many were stored, and how many were dropped because their visit has as many as it may.
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
# KEYS  the dead letter.  ARGV  payload, reason.  The time of expiry stays.
_REPLACE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'b', ARGV[1], 'reason', ARGV[2]) end
"""
# KEYS  the set of ids, the dead letter, the log.  ARGV  id, payload as it was read.
# Returns whether the payload was still the same. One atomic step, so that the event is always in one of the two places.
_REPLAY: Final = """
if redis.call('HGET', KEYS[2], 'b') ~= ARGV[2] then return 0 end
redis.call('XADD', KEYS[3], '*', 'b', ARGV[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

_log = structlog.get_logger()


class DeadLettersFullError(Exception):
    """A partition has as many dead letters as it may, and its log is not read until some are replayed or discarded."""


class PutResult(NamedTuple):
    """How many dead letters were stored, and how many were dropped because their visit has as many as it may."""

    new_count: int
    dropped_count: int


class DeadLetter(NamedTuple):
    """An event or an entry of the log that could not be stored. `id`: see `dead_letter_id`."""

    partition: int
    id: str
    created_ms: int
    reason: str
    payload: bytes

    @property
    def batch(self) -> EventBatch | None:
        """The event with its context; None for an interaction and for a malformed entry of the log."""
        try:
            batch = EventBatch.FromString(self.payload)
        except DecodeError:
            return None
        return batch if len(batch.events) == 1 and len(batch.contexts) == 1 else None

    @property
    def interaction(self) -> InteractionUpdate | None:
        """The update of an interaction that could not be stored; None for another dead letter and a malformed one."""
        try:
            update = EventBatch.FromString(self.payload).interaction
        except DecodeError:
            return None
        return update if is_valid_interaction(update) else None


class DeadLetterQueue:
    """The dead letters of one deployment. Methods raise TRANSIENT_LOG_ERRORS."""

    def __init__(self, log: EventLog, *, retention_ms: int, max_per_partition: int, max_per_visit: int) -> None:
        """Keep dead letters for `retention_ms`.

        A partition accepts a further batch while it has fewer than `max_per_partition`. What exceeds `max_per_visit` is
        dropped, so that a single visit cannot fill a partition.
        """
        self._redis = log.client
        self.partitions = log.partitions
        self._retention_ms = retention_ms
        self._max_per_partition = max_per_partition
        self._max_per_visit = max_per_visit

    async def put(self, number: int, unstorable: Collection[Unstorable]) -> PutResult:
        """Store events of a partition as dead letters. Raises DeadLettersFullError, and then stores none."""
        batches = [(one.batch, one.reason) for one in unstorable]
        letters = {dead_letter_id(batch): (batch.SerializeToString(), reason) for batch, reason in batches}
        if letters:
            reasons = sorted({reason for _, reason in letters.values()})
            _log.error("events became dead letters", partition=number, count=len(letters), reasons=reasons)
        return await self._put(number, letters, _now_ms())

    async def put_entry(self, number: int, entry: Entry, reason: str) -> None:
        """Store an entry of the log, malformed or refused, as a dead letter. Raises DeadLettersFullError."""
        _log.error("a malformed log entry became a dead letter", partition=number, entry=entry.id, reason=reason)
        await self._put(number, {f"entry/{entry.id}": (entry.payload, reason)}, _now_ms())

    async def put_back(self, letter: DeadLetter) -> None:
        """Store a dead letter that was read before, perhaps of another Redis. Raises DeadLettersFullError."""
        await self._put(letter.partition, {letter.id: (letter.payload, letter.reason)}, letter.created_ms)

    async def _put(self, number: int, letters: Mapping[str, tuple[bytes, str]], created_ms: int) -> PutResult:
        if not letters:
            return PutResult(0, 0)
        redis = self._redis(number)
        if await redis.zcard(_ids_key(number)) >= self._max_per_partition:
            raise DeadLettersFullError
        keys = [_ids_key(number), *(_letter_key(number, letter_id) for letter_id in letters)]
        times = created_ms, created_ms + self._retention_ms, _now_ms() - self._retention_ms
        arguments = chain.from_iterable((letter_id, *letter) for letter_id, letter in letters.items())
        put = PutResult(*await redis.eval(_PUT, len(keys), *keys, *times, self._max_per_visit, *arguments))
        if put.dropped_count:
            _log.error("dropped events: their visit has too many dead letters", partition=number, **put._asdict())
        return put

    async def find_event(self, visit_id: str, event_id: str) -> DeadLetter | None:
        """The dead letter of an event."""
        return await self._get(partition(visit_id, self.partitions), f"{visit_id}/{event_id}")

    async def find(self, letter_id: str) -> DeadLetter | None:
        """A dead letter by its id, in any partition."""
        for number in range(self.partitions):
            if letter := await self._get(number, letter_id):
                return letter
        return None

    async def _get(self, number: int, letter_id: str) -> DeadLetter | None:
        created_ms = await self._redis(number).zscore(_ids_key(number), letter_id)
        letters = await self._read(number, [(letter_id, created_ms)]) if created_ms else []
        return letters[0] if letters else None

    async def in_partition(self, number: int) -> AsyncIterator[DeadLetter]:
        """The dead letters of a partition in order of creation."""
        found = await self._redis(number).zrange(_ids_key(number), 0, -1, withscores=True)
        ids = [(letter_id.decode(), created_ms) for letter_id, created_ms in found]
        for start in range(0, len(ids), _LETTERS_PER_READ):
            for letter in await self._read(number, ids[start : start + _LETTERS_PER_READ]):
                yield letter

    async def everything(self) -> AsyncIterator[DeadLetter]:
        """All dead letters: by partition, then in order of creation."""
        for number in range(self.partitions):
            async for letter in self.in_partition(number):
                yield letter

    async def _read(self, number: int, ids: Collection[tuple[str, float]]) -> list[DeadLetter]:
        """Those of these that have not been removed since."""
        pipeline = self._redis(number).pipeline(transaction=False)
        for letter_id, _ in ids:
            pipeline.hmget(_letter_key(number, letter_id), PAYLOAD_FIELD, "reason")
        return [
            DeadLetter(number, letter_id, int(created_ms), reason.decode(), payload)
            for (letter_id, created_ms), (payload, reason) in zip(ids, await pipeline.execute(), strict=True)
            if payload is not None
        ]

    async def replay(self, letter: DeadLetter) -> bool:
        """Append a dead letter to the log again and remove it. False if it has been changed or removed since."""
        number = letter.partition
        keys = _ids_key(number), _letter_key(number, letter.id), stream_key(number)
        return bool(await self._redis(number).eval(_REPLAY, len(keys), *keys, letter.id, letter.payload))

    async def replace(self, letter: DeadLetter, batch: EventBatch, reason: str) -> str:
        """Replace the event of a dead letter. Returns the dead letter's id, which changes with the ids of the event.

        Raises DeadLettersFullError.
        """
        new_id, payload = dead_letter_id(batch), batch.SerializeToString()
        if new_id == letter.id:
            key = _letter_key(letter.partition, letter.id)
            await self._redis(letter.partition).eval(_REPLACE, 1, key, payload, reason)
        else:
            number = partition(batch.events[0].visit_id, self.partitions)
            await self._put(number, {new_id: (payload, reason)}, letter.created_ms)
            await self.remove([letter])
        return new_id

    async def remove(self, letters: Collection[DeadLetter]) -> None:
        """Remove dead letters permanently."""
        for letter in letters:
            pipeline = self._redis(letter.partition).pipeline(transaction=False)
            pipeline.delete(_letter_key(letter.partition, letter.id))
            pipeline.zrem(_ids_key(letter.partition), letter.id)
            await pipeline.execute()

    async def count(self) -> tuple[int, int]:
        """The number of dead letters, and when the oldest was created, in ms since the epoch (0: there is none)."""
        total, oldest_ms = 0, []
        for number in range(self.partitions):
            pipeline = self._redis(number).pipeline(transaction=False)
            pipeline.zremrangebyscore(_ids_key(number), "-inf", _now_ms() - self._retention_ms)
            pipeline.zcard(_ids_key(number))
            pipeline.zrange(_ids_key(number), 0, 0, withscores=True)
            _, count, oldest = await pipeline.execute()
            total += count
            oldest_ms += [int(created_ms) for _, created_ms in oldest]
        return total, min(oldest_ms, default=0)

    async def update_metrics(self) -> None:
        """Set the metrics of dead letters."""
        total, oldest_ms = await self.count()
        metrics.DEAD_LETTERS.set(total)
        metrics.OLDEST_DEAD_LETTER.set(oldest_ms / 1000)


def dead_letter_id(batch: EventBatch) -> str:
    """The id of the dead letter of a batch's single event: `visitID/eventID`, or a digest if these are malformed."""
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
