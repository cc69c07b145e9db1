"""Turns the log's streams in Redis into readers: the one file that imports redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

from footfall_servicekit.partitions import AWAY, PartitionedRedis, hash_tag
from footfall_servicekit.stream import PAYLOAD_FIELD, Entry, StreamReader, about_stream, trim

GROUP: Final = "history"
_ALL_GROUPS: Final = ("identity", "identity-live", GROUP)
# Entries are small when traffic is: many of them still make one good batch.
_ENTRIES_A_BATCH: Final = 256
# Each watcher holds a read's entries for as long as its client takes to read them, and they may be of 1 MiB.
_ENTRIES_A_READ: Final = 8
_BLOCK_MS: Final = 1_000
_KEYS_A_SCAN: Final = 1_000


class Position(NamedTuple):
    """A place in a partition's stream: behind the entry with this id, which is the `ordinal`-th ever appended there."""

    id: str
    ordinal: int


Unavailable = AWAY
"""What methods raise when Redis does not answer."""


class Log:
    """The log of one deployment, as history reads it."""

    def __init__(self, url: str, partitions: int, timeout_ms: int) -> None:
        """Take the log at a Redis URL, without connecting yet."""
        self._redis = PartitionedRedis(url, partitions, timeout_ms=timeout_ms)
        self.partitions = partitions
        self.check = self._redis.check
        self.is_ready = self._redis.is_ready
        self.close = self._redis.aclose

    def partition(self, number: int) -> Any:
        """What asks Redis about a partition, for whoever keeps something beside its log."""
        return self._redis[number]

    def readers(self, handle: Callable[[int, list[Entry]], Awaitable[None]]) -> list[StreamReader]:
        """A reader of each partition, which gives its batches to `handle` with the partition's number."""
        return [
            StreamReader(
                self._redis[number], _key("log", number), GROUP, partial(handle, number), batch=_ENTRIES_A_BATCH
            )
            for number in range(self.partitions)
        ]

    async def end(self, number: int) -> Position:
        """The place behind the last entry of a partition."""
        about = await self._about(number)
        return Position(about["last-generated-id"].decode(), about["entries-added"])

    async def reaches_back_to(self, number: int, position: Position) -> bool:
        """Whether every entry behind a place is still there. An entry is removed only when all before it are."""
        about = await self._about(number)
        removed = about["entries-added"] - about["length"]
        is_ours = _order(position.id) <= _order(about["last-generated-id"].decode())
        return is_ours and bool(removed <= position.ordinal <= about["entries-added"])

    async def _about(self, number: int) -> dict[str, Any]:
        about = await about_stream(self._redis[number], _key("log", number))
        if about is None:  # nothing has been appended yet
            return {"last-generated-id": b"0-0", "entries-added": 0, "length": 0}
        return about

    async def oldest_ms(self, number: int) -> int:
        """When the oldest entry of a partition that history has not acknowledged was appended; 0: there is none."""
        redis, key = self._redis[number], _key("log", number)
        if await about_stream(redis, key) is None:  # nothing has been appended yet
            return 0
        groups = {about["name"].decode(): about for about in await redis.xinfo_groups(key)}
        if not (group := groups.get(GROUP)):
            return 0
        oldest = (await redis.xpending(key, GROUP))["min"] if group["pending"] else None
        if not oldest:
            unread = await redis.xrange(key, f"({group['last-delivered-id'].decode()}", "+", count=1)
            oldest = unread[0][0] if unread else None
        return _order(oldest.decode())[0] if oldest else 0

    async def read_behind(self, number: int, position: Position) -> list[tuple[Entry, Position]]:
        """The next entries behind a place, each with the place behind it; none when none has come within a second."""
        key = _key("log", number)
        answer = await self._redis[number].xread({key: position.id}, count=_ENTRIES_A_READ, block=_BLOCK_MS)
        entries = answer[0][1] if answer else []
        return [
            (
                Entry(entry_id.decode(), fields.get(PAYLOAD_FIELD, b"")),
                Position(entry_id.decode(), position.ordinal + ahead),
            )
            for ahead, (entry_id, fields) in enumerate(entries, 1)
        ]

    async def contents(self) -> AsyncIterator[tuple[bytes, AsyncIterator[bytes]]]:
        """Every key of the nodes that hold partitions, whoever owns it, with its contents in pieces: to be searched."""
        for node in self._redis.nodes():
            async for key in node.client.scan_iter(count=_KEYS_A_SCAN):
                yield key, _pieces(node.client, key)

    async def trim(self, number: int, kept_ms: int) -> None:
        """Remove from a partition what every reader of the log is done with and is older than that."""
        await trim(self._redis[number], _key("log", number), _ALL_GROUPS, kept_ms)


async def _pieces(redis: Any, key: bytes) -> AsyncIterator[bytes]:
    kind = await redis.type(key)
    if kind == b"stream":
        position = b"-"
        while entries := await redis.xrange(key, position, count=_ENTRIES_A_READ):
            for entry_id, fields in entries:
                yield b"\0".join(chain.from_iterable(fields.items()))
                position = b"(" + entry_id
    elif kind == b"list":
        start = 0
        while items := await redis.lrange(key, start, start + _ENTRIES_A_READ - 1):
            yield b"\0".join(items)
            start += len(items)
    elif kind == b"hash":
        yield b"\0".join(chain.from_iterable((await redis.hgetall(key)).items()))
    elif kind == b"zset":
        yield b"\0".join(await redis.zrange(key, 0, -1))
    elif (dumped := await redis.dump(key)) is not None:  # None: it has expired
        yield dumped


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _key(kind: str, partition: int) -> str:
    return f"{kind}:{hash_tag(partition)}"
