"""What the relay keeps in Redis: positions of outlets beside the log, what they have got, dead letters.

The position of an outlet and the log are in one store and one hash slot, so both go back together if the store does.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from footfall_eventlog.checkpoint_store import Position, order_of
from footfall_eventlog.log import HISTORY_GROUP, RELAY_GROUP, stream_key
from footfall_eventlog.partitions import PartitionedRedis, hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry, mark_key, stream_info
from redis import exceptions as redis_errors

from footfall_relay.messages import Reference

LEASE_MS: Final = 10_000
_KEYS_PER_CALL: Final = 500
_ANONYMOUS_MS: Final = 7_200_000
"""How long a visit that has named no identity is remembered. Later, its earlier events are found by their receipt."""
_DAY_MS: Final = 86_400_000
_PAUSED: Final = f"relay-paused:{hash_tag(0)}"

# KEYS  lease, positions.  ARGV  holder, outlet, position.  Returns whether the position was written.
_MOVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""
# KEYS  lease.  ARGV  holder, milliseconds.  Returns whether this process holds the lease now.
_HOLD: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS  lease.  ARGV  holder.
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class LeaseLostError(Exception):
    """Another process relays the partition now."""


class Reported(msgspec.Struct, frozen=True, array_like=True):
    """What an outlet has got about a visit: its last event, and attributions as history encodes them."""

    last_ms: int
    last_id: str
    attribution: bytes


class DeadLetter(msgspec.Struct, frozen=True, array_like=True):
    """What could not be delivered. `reason` is an HTTP status or the name of an error."""

    reference: Reference
    reason: str
    time_ms: int


class Read(NamedTuple):
    """Entries of a partition after a position, the position after them, and how many were lost before them."""

    entries: list[Entry]
    position: Position
    lost: int


_encode = msgspec.msgpack.encode
_reported = msgspec.msgpack.Decoder(Reported).decode
_letter = msgspec.msgpack.Decoder(DeadLetter).decode


class Positions:
    """Methods raise TRANSIENT_ERRORS."""

    def __init__(
        self, redis: PartitionedRedis, holder: str, *, known_days: int, max_dead_letters: int, dead_letter_days: int
    ) -> None:
        """`holder`: this process. `known_days`: how long a visit with an identity is remembered."""
        self.redis = redis
        self._holder = holder
        self._known_ms = known_days * _DAY_MS
        self._max_dead_letters = max_dead_letters
        self._dead_letter_ms = dead_letter_days * _DAY_MS

    async def hold(self, number: int) -> bool:
        """Take or keep the lease of a partition; return whether this process has it."""
        return bool(await self.redis[number].eval(_HOLD, 1, _lease_key(number), self._holder, LEASE_MS))

    async def release(self, number: int) -> None:
        """Give the lease of a partition back."""
        await self.redis[number].eval(_RELEASE, 1, _lease_key(number), self._holder)

    async def of(self, outlet: str, number: int) -> Position:
        """The position of an outlet; a new one begins with the oldest entry of the log."""
        text = await self.redis[number].hget(_positions_key(number), outlet)
        return (Position.read(text.decode()) if text else None) or Position("0-0", -1)

    async def read(self, number: int, position: Position, *, count: int, max_bytes: int) -> Read:
        """The next entries that history has settled: stored, with nothing of them left to do."""
        redis, key = self.redis[number], stream_key(number)
        about = await stream_info(redis, key)
        settled = await redis.hget(mark_key(key, HISTORY_GROUP), "confirmed")
        if about is None or not settled:
            return Read([], position, 0)
        removed, added = about["entries-added"] - about["length"], about["entries-added"]
        lost = 0
        if order_of(position.id) > order_of(about["last-generated-id"].decode()) or position.ordinal > added:
            position = Position("0-0", -1)  # of a log that is no longer there
        if position.ordinal < removed:
            lost = removed - position.ordinal if position.ordinal >= 0 else 0
            position = Position(position.id, removed)
        until = settled.decode().partition("/")[0]
        if order_of(until) <= order_of(position.id):
            return Read([], position, lost)
        entries: list[Entry] = []
        size = 0
        for entry_id, fields in await redis.xrange(key, f"({position.id}", until, count=count):
            entry = Entry(entry_id.decode(), fields.get(PAYLOAD_FIELD, b""))
            size += len(entry.payload)
            if entries and size > max_bytes:
                break
            entries.append(entry)
        if entries:
            position = Position(entries[-1].id, position.ordinal + len(entries))
        return Read(entries, position, lost)

    async def reported(self, outlet: str, number: int, visit_ids: Sequence[str]) -> dict[str, Reported]:
        """What the outlet has got about these visits, as far as it is remembered."""
        if not visit_ids:
            return {}
        found = await self.redis[number].mget([_reported_key(outlet, number, visit_id) for visit_id in visit_ids])
        return {visit_id: _reported(value) for visit_id, value in zip(visit_ids, found, strict=True) if value}

    async def move(self, outlet: str, number: int, position: Position, reported: Mapping[str, Reported]) -> None:
        """Note that the outlet has taken all up to a position. Raises LeaseLostError.

        What it has got is written first: after a crash in between it gets the same again.
        """
        pipeline = self.redis[number].pipeline(transaction=False)
        for count, (visit_id, value) in enumerate(reported.items(), 1):
            kept_ms = self._known_ms if value.attribution.count(b"[") > 2 else _ANONYMOUS_MS  # more than one range
            pipeline.set(_reported_key(outlet, number, visit_id), _encode(value), px=kept_ms)
            if count % _KEYS_PER_CALL == 0:
                await pipeline.execute()
        await pipeline.execute()
        keys = _lease_key(number), _positions_key(number)
        if not await self.redis[number].eval(_MOVE, 2, *keys, self._holder, outlet, position.text):
            raise LeaseLostError

    async def lag_s(self, outlet: str, number: int) -> float:
        """The age of the oldest entry that the outlet has not taken; 0 if there is none."""
        position = await self.of(outlet, number)
        found = await self.redis[number].xrange(stream_key(number), f"({position.id}", "+", count=1)
        return max(0.0, time.time() - order_of(found[0][0].decode())[0] / 1000) if found else 0.0

    async def mark(self, number: int, outlets: Collection[str]) -> None:
        """Let the log keep what these outlets have not taken; nothing, if there are none."""
        redis, key = self.redis[number], stream_key(number)
        positions = [await self.of(outlet, number) for outlet in outlets]
        if not positions:
            if await redis.exists(key):
                await redis.xgroup_destroy(key, RELAY_GROUP)
            return
        first = min(positions, key=lambda position: order_of(position.id))
        read = max(first.ordinal, 0)
        try:
            await redis.xgroup_setid(key, RELAY_GROUP, first.id, entries_read=read)
        except redis_errors.ResponseError:  # there is no group, or no log
            await redis.xgroup_create(key, RELAY_GROUP, id=first.id, mkstream=True, entries_read=read)

    # Of all partitions

    async def paused(self) -> set[str]:
        """The outlets that were paused by a command."""
        return {name.decode() for name in await self.redis[0].smembers(_PAUSED)}

    async def pause(self, outlet: str, *, is_paused: bool) -> None:
        """Pause an outlet, or let it go on."""
        await (self.redis[0].sadd if is_paused else self.redis[0].srem)(_PAUSED, outlet)

    async def put_dead(self, outlet: str, letters: Iterable[DeadLetter]) -> int:
        """Add dead letters; return how many of the oldest were dropped for them."""
        key = _dead_key(outlet)
        count = await self.redis[0].rpush(key, *map(_encode, letters))
        await self.redis[0].pexpire(key, self._dead_letter_ms)
        await self.redis[0].ltrim(key, -self._max_dead_letters, -1)
        return max(0, int(count) - self._max_dead_letters)

    async def dead(self, outlet: str, count: int) -> list[DeadLetter]:
        """The oldest dead letters of an outlet."""
        return [_letter(value) for value in await self.redis[0].lrange(_dead_key(outlet), 0, count - 1)]

    async def remove_dead(self, outlet: str, letters: Iterable[DeadLetter]) -> None:
        """Remove dead letters."""
        for letter in letters:
            await self.redis[0].lrem(_dead_key(outlet), 1, _encode(letter))

    async def count_dead(self, outlet: str) -> int:
        """How many dead letters an outlet has."""
        return int(await self.redis[0].llen(_dead_key(outlet)))


def _lease_key(number: int) -> str:
    return f"relay:{hash_tag(number)}:lease"


def _positions_key(number: int) -> str:
    return f"relay:{hash_tag(number)}:positions"


def _reported_key(outlet: str, number: int, visit_id: str) -> str:
    return f"relay:{hash_tag(number)}:{outlet}:{visit_id}"


def _dead_key(outlet: str) -> str:
    return f"relay-dead:{hash_tag(0)}:{outlet}"
