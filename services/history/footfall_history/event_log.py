"""The event log in Redis as history reads it: the only module of history with Redis commands for its streams."""

from collections.abc import AsyncIterator
from functools import partial
from itertools import chain
from typing import Any, Final

from footfall_eventlog.checkpoint_store import Position, order_of
from footfall_eventlog.log import GROUPS, HISTORY_GROUP, RELAY_GROUP, EntriesHandler, stream_key, traced
from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry, StreamReader, stream_info, trim

# Under little traffic entries are small, and many of them are needed for an efficient batch.
_ENTRIES_PER_BATCH: Final = 512
# An event stream holds what it has read until its client takes it, and entries may have 1 MiB.
_ENTRIES_PER_READ: Final = 8
_BLOCK_MS: Final = 1_000
_KEYS_PER_SCAN: Final = 1_000

TRANSIENT_LOG_ERRORS: Final = TRANSIENT_ERRORS
"""What every method may raise: Redis does not answer, or cannot do it now. A later attempt may succeed."""


class EventLog:
    """The event log of one deployment. Methods raise TRANSIENT_LOG_ERRORS."""

    def __init__(self, url: str, partitions: int, timeout_ms: int) -> None:
        """Use the Redis at a URL. Connects on first use."""
        self.redis = PartitionedRedis(url, partitions, timeout_ms=timeout_ms)
        self.partitions = partitions
        self.check = self.redis.check
        self.is_ready = self.redis.is_ready
        self.close = self.redis.aclose

    def client(self, number: int) -> Any:
        """The Redis client for keys of a partition, for what history stores beside the log."""
        return self.redis[number]

    def readers(self, handle: EntriesHandler, load_gather_ms: int) -> list[StreamReader]:
        """A reader for each partition that passes batches to `handle` with the partition's number."""
        return [
            StreamReader(
                self.redis[number],
                stream_key(number),
                HISTORY_GROUP,
                partial(traced(HISTORY_GROUP, handle), number),
                batch=_ENTRIES_PER_BATCH,
                load_gather_ms=load_gather_ms,
            )
            for number in range(self.partitions)
        ]

    async def last_position(self, number: int) -> Position:
        """The position after the last entry of a partition."""
        about = await self._about(number)
        return Position(about["last-generated-id"].decode(), about["entries-added"])

    async def first_position(self, number: int) -> Position:
        """The position before the oldest entry of a partition."""
        about = await self._about(number)
        return Position("0-0", about["entries-added"] - about["length"])

    async def holds_all_after(self, number: int, position: Position) -> bool:
        """Whether every entry after a position still exists. Entries are removed in order, oldest first."""
        about = await self._about(number)
        removed = about["entries-added"] - about["length"]
        is_known = order_of(position.id) <= order_of(about["last-generated-id"].decode())
        return is_known and bool(removed <= position.ordinal <= about["entries-added"])

    async def _about(self, number: int) -> dict[str, Any]:
        empty = {"last-generated-id": b"0-0", "entries-added": 0, "length": 0}
        return await stream_info(self.redis[number], stream_key(number)) or empty

    async def oldest_unhandled_ms(self, number: int) -> int:
        """When the oldest entry without acknowledgement was appended, in ms since the epoch; 0: there is none."""
        redis, key = self.redis[number], stream_key(number)
        if await stream_info(redis, key) is None:
            return 0
        groups = {about["name"].decode(): about for about in await redis.xinfo_groups(key)}
        if not (group := groups.get(HISTORY_GROUP)):
            return 0
        oldest = (await redis.xpending(key, HISTORY_GROUP))["min"] if group["pending"] else None
        if not oldest:
            unread = await redis.xrange(key, f"({group['last-delivered-id'].decode()}", "+", count=1)
            oldest = unread[0][0] if unread else None
        return order_of(oldest.decode())[0] if oldest else 0

    async def read_after(self, number: int, position: Position) -> list[tuple[Entry, Position]]:
        """The next entries after a position, each with the position after it; waits up to a second for the first."""
        key = stream_key(number)
        answer = await self.redis[number].xread({key: position.id}, count=_ENTRIES_PER_READ, block=_BLOCK_MS)
        entries = answer[0][1] if answer else []
        return [
            (
                Entry(entry_id.decode(), fields.get(PAYLOAD_FIELD, b"")),
                Position(entry_id.decode(), position.ordinal + ahead),
            )
            for ahead, (entry_id, fields) in enumerate(entries, 1)
        ]

    async def raw_contents(self) -> AsyncIterator[tuple[bytes, AsyncIterator[bytes]]]:
        """Every key in the Redis of this deployment, also of other services, with its contents in parts."""
        for node in self.redis.nodes():
            async for key in node.client.scan_iter(count=_KEYS_PER_SCAN):
                yield key, _parts(node.client, key)

    async def trim(self, number: int, retention_ms: int, relay_ms: int) -> None:
        """Remove entries of a partition that every reader has acknowledged and that are older than `retention_ms`.

        Those that wait for the relay stay for `relay_ms`.
        """
        stream = stream_key(number)
        await trim(self.redis[number], stream, GROUPS, retention_ms, waits_for=RELAY_GROUP, waits_ms=relay_ms)


async def _parts(redis: Any, key: bytes) -> AsyncIterator[bytes]:
    kind = await redis.type(key)
    if kind == b"stream":
        position = b"-"
        while entries := await redis.xrange(key, position, count=_ENTRIES_PER_READ):
            for entry_id, fields in entries:
                yield b"\0".join(chain.from_iterable(fields.items()))
                position = b"(" + entry_id
    elif kind == b"list":
        start = 0
        while items := await redis.lrange(key, start, start + _ENTRIES_PER_READ - 1):
            yield b"\0".join(items)
            start += len(items)
    elif kind == b"hash":
        yield b"\0".join(chain.from_iterable((await redis.hgetall(key)).items()))
    elif kind == b"zset":
        yield b"\0".join(await redis.zrange(key, 0, -1))
    elif (dumped := await redis.dump(key)) is not None:  # None: it has expired
        yield dumped
