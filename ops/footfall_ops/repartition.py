"""Changes the number of partitions of the data in Redis, while collector, identity and history are stopped.

1. Copy. The log of each partition gets another name, and a text in its place that no collector can append to. Entries
   are split by the partition of each visit, and written to new streams in the order of their ids. The consumer groups
   of the new streams begin before the oldest entry that the group has not handled in any former one. Batches of slow
   visits are appended to the new streams, dead letters and live state are copied to their partitions.
2. Switch. The new streams get the names of the log, and what is left of the former partitions is removed.

The number of partitions in Redis says how far this is, and services do not start meanwhile. After an interruption the
command is run again: a copy begins again from the beginning, a switch goes on.
"""

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.checkpoint_store import order_of
from footfall_eventlog.interactions import interaction_key
from footfall_eventlog.log import GROUPS, decode, stream_key
from footfall_eventlog.partitions import PartitionedRedis, hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry
from footfall_history.event_log import EventLog
from footfall_history.storage import split_events
from footfall_identity.partitions import PartitionKeys
from footfall_servicekit.background import RefusalError
from footfall_timeline import partition

from footfall_ops import redis_copy
from footfall_ops.progress import Progress, say
from footfall_ops.stores import OpsSettings, dead_letters_of, opened, opened_links, require_stopped, slow_visits_of

_COPYING: Final = ">"
_SWITCHING: Final = ">>"
_MEMBERS_PER_CALL: Final = 500
_ENTRIES_PER_CALL: Final = 200
_BYTES_PER_CALL: Final = 1024 * 1024
_FORGOTTEN: Final = ("changes:", "checkpoint:", "code:", "codes:", "code-tries:", "log:probe:", "relay:", "slow:")
"""Prefixes of keys of a partition that are not copied. Clients of streams begin again, outlets of the relay with the
oldest entry; visitors get new codes."""


async def repartition(settings: OpsSettings, count: int) -> int:
    """Change the number of partitions. Returns the exit code. Raises RefusalError."""
    old_count, is_switching = await _state(settings, count)
    if old_count == count and not is_switching:
        say(f"The data in Redis has {count} partitions already.")
        return 0
    began = time.monotonic()
    async with opened(settings, old_count) as old, opened(settings, count) as new, opened_links(settings) as links:
        await require_stopped(old.redis)
        for redis in (old.redis, new.redis):
            await redis.find_nodes()
        move = _Move(settings, old.log, new.log)
        if not is_switching:
            await old.redis.note_made_with(f"{old_count}{_COPYING}{count}")
            await move.copy()
            await old.redis.note_made_with(f"{old_count}{_SWITCHING}{count}")
        await move.switch()
        for checkpoints in (old.store.checkpoints, links.checkpoints):
            await checkpoints.forget()
        await old.redis.note_made_with(str(count))
    say(
        f"The data in Redis has {count} partitions, after {time.monotonic() - began:.1f} s. Start collector, identity "
        f"and history with PARTITIONS={count} now: until then no event is accepted."
    )
    return 0


async def _state(settings: OpsSettings, count: int) -> tuple[int, bool]:
    """The number of partitions that the data was made with, and whether an earlier run has copied all."""
    history = settings.history
    redis = PartitionedRedis(history.redis_url, 1, timeout_ms=history.redis_timeout_ms)
    try:
        text = await redis.made_with()
    finally:
        await redis.aclose()
    if not text:
        raise RefusalError(f"Redis has no data of Footfall: start all services with PARTITIONS={count}")
    old, _, next_count = text.partition(_COPYING)
    if next_count and int(next_count.lstrip(_COPYING)) != count:
        raise RefusalError(f"an earlier run has begun to change the number to {next_count.lstrip(_COPYING)}: finish it")
    return int(old), next_count.startswith(_COPYING)


class _Move:
    """The move of all data from one number of partitions to another."""

    def __init__(self, settings: OpsSettings, old: EventLog, new: EventLog) -> None:
        self._old = old.redis
        self._new = new.redis
        self._old_slow = slow_visits_of(settings, old)
        self._old_letters = dead_letters_of(settings, old)
        self._new_letters = dead_letters_of(settings, new)
        self._count = len(new.redis.numbers)
        self._moved = 0
        self._progress = Progress(lambda: f"{self._moved:,} entries and visits are copied")

    def _note(self) -> None:
        self._moved += 1
        self._progress.report()

    # Copy

    async def copy(self) -> None:
        """Copy all to the new partitions. Nothing is removed, and events are no longer accepted."""
        for number in self._old.numbers:
            await self._close_log(number)
        starts = {group: await self._oldest_unhandled_ms(group) for group in GROUPS}
        await redis_copy.remove(self._new, "moving:*")
        streams = [_Stream(self._new[number], _moving_key(number)) for number in self._new.numbers]
        erasures = set[str]()
        async for entry_id, payload in self._entries():
            for number, part in parts_of(payload, self._count, erasures).items():
                await streams[number].add(entry_id, part)
            self._note()
        for stream in streams:
            await stream.create_groups(starts)
        for number in self._old.numbers:
            async for payload in self._old_slow.waiting(number):
                for to, part in parts_of(payload, self._count, set()).items():
                    await streams[to].add("", part)
                self._note()
            async for letter in self._old_letters.in_partition(number):
                await self._new_letters.put_back(letter._replace(partition=self._place_of_letter(letter.id)))
        await self._copy_live_state()
        for stream in streams:
            await stream.flush()

    async def _close_log(self, number: int) -> None:
        """Give the log another name, once, and let appends to the former name fail."""
        client, key = self._old[number], stream_key(number)
        if await client.type(key) == redis_copy.STREAM:
            transaction = client.pipeline(transaction=True)
            transaction.rename(key, _moved_key(number))
            transaction.set(key, "the number of partitions is being changed")
            await transaction.execute()
        else:
            await client.set(key, "the number of partitions is being changed")

    async def _oldest_unhandled_ms(self, group: str) -> int | None:
        """When the oldest entry that a group has not handled was appended, in all former partitions; None: none is."""
        oldest: list[int] = []
        for number in self._old.numbers:
            client, key = self._old[number], _moved_key(number)
            if await client.type(key) != redis_copy.STREAM:
                continue
            groups = {about["name"].decode(): about for about in await client.xinfo_groups(key)}
            if group not in groups:
                return 0
            pending = (await client.xpending(key, group))["min"] if groups[group]["pending"] else None
            if not pending:
                unread = await client.xrange(key, f"({groups[group]['last-delivered-id'].decode()}", "+", count=1)
                pending = unread[0][0] if unread else None
            oldest += [order_of(pending.decode())[0]] if pending else []
        return min(oldest, default=None)

    async def _entries(self) -> AsyncIterator[tuple[str, bytes]]:
        """The entries of all former streams in the order of their ids."""
        streams = [redis_copy.entries(self._old[number], _moved_key(number)) for number in self._old.numbers]
        heads = {number: head for number, one in enumerate(streams) if (head := await anext(one, None))}
        while heads:
            number = min(heads, key=lambda one: order_of(heads[one][0]))
            yield heads.pop(number)
            if head := await anext(streams[number], None):
                heads[number] = head

    def _place_of_letter(self, letter_id: str) -> int:
        """The partition of a dead letter: that of its visit, if its id names one."""
        visit_id, slash, _ = letter_id.partition("/")
        return partition(visit_id, self._count) if slash and visit_id not in {"entry", "event"} else 0

    async def _copy_live_state(self) -> None:
        async for group in redis_copy.keys_like(self._old, "visit:*"):
            pipelines = redis_copy.Pipelines(self._new)
            elsewhere = [key for key in group if self._place_of(_visit_in(key)) != redis_copy.number_in(key)]
            for key, expires_ms, value in await redis_copy.dump(self._client_of(group), elsewhere):
                to = self._place_of(_visit_in(key))
                redis_copy.put(pipelines[to], redis_copy.renamed(key, to), expires_ms, value)
                self._note()
            await pipelines.execute()
        for number in self._old.numbers:
            for name in _visit_sets(PartitionKeys(number)):
                await self._copy_set(number, name.encode())
        async for group in redis_copy.keys_like(self._old, "person:*"):
            pipelines = redis_copy.Pipelines(self._new)
            for key, members, expires_ms in await redis_copy.scored_sets(self._client_of(group), group):
                for member, score in members:
                    if (to := self._place_of(member)) != redis_copy.number_in(key):
                        copy = redis_copy.renamed(key, to)
                        pipelines[to].zadd(copy, {member: score})
                        if expires_ms > 0:
                            pipelines[to].pexpireat(copy, expires_ms, gt=True)
                            pipelines[to].pexpireat(copy, expires_ms, nx=True)
            await pipelines.execute()

    def _client_of(self, keys: list[bytes]) -> Any:
        """A client for keys of one node: of former partitions, or of next ones that are being written."""
        number = redis_copy.number_in(keys[0])
        return self._old[number] if number in self._old.numbers else self._new[number]

    def _place_of(self, visit_id: bytes) -> int:
        """The new partition of a visit."""
        return partition(visit_id.decode(), self._count)

    async def _copy_set(self, number: int, key: bytes) -> None:
        """Copy the visits of a sorted set to the sets of their partitions."""
        pipelines, count = redis_copy.Pipelines(self._new), 0
        async for member, score in self._old[number].zscan_iter(key, count=_MEMBERS_PER_CALL):
            if (to := self._place_of(member)) != number:
                pipelines[to].zadd(redis_copy.renamed(key, to), {member: score})
                count += 1
            if count == _MEMBERS_PER_CALL:
                await pipelines.execute()
                count = 0
        await pipelines.execute()

    # Switch

    async def switch(self) -> None:
        """Put the new streams in the place of the log, and remove what belongs to no partition or to another one."""
        for number in self._new.numbers:
            if await self._new[number].exists(_moving_key(number)):
                await self._new[number].rename(_moving_key(number), stream_key(number))
        for number in self._old.numbers:
            await self._old[number].delete(_moved_key(number))
            for prefix in _FORGOTTEN:
                await redis_copy.remove(self._old, redis_copy.pattern_of(prefix, number))
        await self._remove_moved()

    async def _remove_moved(self) -> None:
        """Remove what was copied to other partitions."""
        async for group in redis_copy.keys_like(self._old, "visit:*"):
            pipelines = redis_copy.Pipelines(self._old)
            for key in group:
                if (number := redis_copy.number_in(key)) != self._place_of(_visit_in(key)):
                    pipelines[number].unlink(key)
            await pipelines.execute()
        for number in self._old.numbers:
            for name in _visit_sets(PartitionKeys(number)):
                await self._remove_members(number, name)
            letters = [letter async for letter in self._old_letters.in_partition(number)]
            await self._old_letters.remove([one for one in letters if self._place_of_letter(one.id) != number])
            if number >= self._count:
                await redis_copy.remove(self._old, redis_copy.pattern_of("tombstones:", number))
        async for group in redis_copy.keys_like(self._old, "person:*"):
            pipelines = redis_copy.Pipelines(self._old)
            for key, members, _ in await redis_copy.scored_sets(self._client_of(group), group):
                number = redis_copy.number_in(key)
                if moved := [member for member, _ in members if self._place_of(member) != number]:
                    pipelines[number].zrem(key, *moved)
            await pipelines.execute()

    async def _remove_members(self, number: int, key: str) -> None:
        client, pipelines, count = self._old[number], redis_copy.Pipelines(self._old), 0
        async for member, _ in client.zscan_iter(key, count=_MEMBERS_PER_CALL):
            if self._place_of(member) != number:
                pipelines[number].zrem(key, member)
                count += 1
            if count == _MEMBERS_PER_CALL:
                await pipelines.execute()
                count = 0
        await pipelines.execute()


def _visit_in(key: bytes) -> bytes:
    """The visit in the name of a key."""
    return key.partition(b"}:")[2]


def _visit_sets(keys: PartitionKeys) -> list[str]:
    """The sorted sets of visits of a partition."""
    return [keys.live_anonymous, keys.live_known, *keys.lists, keys.leaving]


def _moving_key(number: int) -> str:
    """The new stream of a partition, while it is written."""
    return f"moving:{hash_tag(number)}"


def _moved_key(number: int) -> str:
    """The former stream of a partition."""
    return f"moved:{hash_tag(number)}"


def parts_of(payload: bytes, count: int, erasures: set[str]) -> dict[int, bytes]:
    """An entry of the log, split by partition. A malformed one goes to the first.

    An erasure is in the log of every partition: it goes to all, unless its id is in `erasures`, where it is added.
    """
    batch = decode(Entry("", payload))
    if batch is None:
        return {0: payload}
    parts = split_events([batch], lambda event: partition(event.visit_id, count))
    rest = EventBatch()
    rest.CopyFrom(batch)
    for name in ("events", "contexts", "erasure", "interaction"):
        rest.ClearField(name)
    if batch.HasField("interaction"):
        number = partition(interaction_key(batch.interaction), count)
        parts.setdefault(number, EventBatch()).interaction.CopyFrom(batch.interaction)
    if batch.HasField("erasure") and batch.erasure.erasure_id not in erasures:
        erasures.add(batch.erasure.erasure_id)
        for number in range(count):
            parts.setdefault(number, EventBatch()).erasure.CopyFrom(batch.erasure)
    for part in parts.values():
        part.MergeFrom(rest)
    return {number: part.SerializeToString() for number, part in parts.items()}


class _Stream:
    """A new stream: entries are added in the order of their ids."""

    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._key = key
        self._last = (0, 0)
        self._waiting: list[tuple[str, bytes]] = []
        self._size = 0
        self._added = 0

    async def add(self, entry_id: str, payload: bytes) -> None:
        """Add an entry under its id, or the next one if that is in use; under a new id if it has none."""
        if entry_id:
            self._last = max(order_of(entry_id), (self._last[0], self._last[1] + 1))
            entry_id = f"{self._last[0]}-{self._last[1]}"
        self._waiting.append((entry_id or "*", payload))
        self._size += len(payload)
        if self._size >= _BYTES_PER_CALL or len(self._waiting) >= _ENTRIES_PER_CALL:
            await self.flush()

    async def flush(self) -> None:
        """Write the entries that wait."""
        pipeline = self._client.pipeline(transaction=False)
        for entry_id, payload in self._waiting:
            pipeline.xadd(self._key, {PAYLOAD_FIELD: payload}, id=entry_id)
        self._added += len(self._waiting)
        self._waiting, self._size = [], 0
        await pipeline.execute()

    async def create_groups(self, starts: dict[str, int | None]) -> None:
        """Let each group begin at the first entry that was appended at a time or later; None: after all of them."""
        await self.flush()
        for group, start_ms in starts.items():
            position, read = "0-0", 0
            if start_ms is None:
                position, read = f"{self._last[0]}-{self._last[1]}", self._added
            elif start_ms:
                position, read = await self._before(start_ms)
            await self._client.xgroup_create(self._key, group, id=position, mkstream=True, entries_read=read)

    async def _before(self, at_ms: int) -> tuple[str, int]:
        """The id of the last entry that was appended before a time, and how many entries there are up to it."""
        last = await self._client.xrevrange(self._key, f"({at_ms}-0", "-", count=1)
        if not last:
            return "0-0", 0
        later = 0
        async for _ in redis_copy.entries(self._client, self._key, from_id=f"{at_ms}-0"):
            later += 1
        return last[0][0].decode(), self._added - later
