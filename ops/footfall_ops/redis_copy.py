"""Reads and writes what Footfall keeps in Redis, key by key: the only module that knows the client of Redis."""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

from footfall_eventlog.log import stream_key
from footfall_eventlog.partitions import PartitionedRedis, hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, stream_info
from redis.exceptions import ResponseError

STREAM: Final = b"stream"

_KEYS_PER_SCAN: Final = 500
_KEYS_PER_CALL: Final = 500
_ENTRIES_PER_READ: Final = 8
"""An entry may have 1 MiB."""
_OF_A_PARTITION: Final = "*{p[0-9][0-9]}*"
_TAG: Final = re.compile(rb"\{p(\d\d)\}")

REDIS_REFUSALS: Final = (ResponseError,)
"""What Redis answers when it does not take a command or a value."""


def number_in(key: bytes) -> int:
    """The partition in the name of a key that has one."""
    found = _TAG.search(key)
    return int(found[1]) if found else 0


async def keys_like(redis: PartitionedRedis, pattern: str = _OF_A_PARTITION) -> AsyncIterator[list[bytes]]:
    """The keys of partitions whose names are like a pattern, in groups, some perhaps twice."""
    for node in redis.nodes():
        group: list[bytes] = []
        async for key in node.client.scan_iter(match=pattern, count=_KEYS_PER_SCAN):
            group.append(key)
            if len(group) == _KEYS_PER_CALL:
                yield group
                group = []
        if group:
            yield group


async def dump(client: Any, keys: list[bytes]) -> list[tuple[bytes, int, bytes]]:
    """Name, time of expiry (ms since the epoch, -1: never) and value of those of these keys that exist."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.dump(key)
        pipeline.execute_command("PEXPIRETIME", key)
    answers = await pipeline.execute()
    found = zip(keys, answers[1::2], answers[::2], strict=True)
    return [(key, expires_ms, value) for key, expires_ms, value in found if value is not None]


def put(pipeline: Any, key: bytes, expires_ms: int, value: bytes) -> None:
    """Store a value as `dump` gives it, in place of the one that is there, when the pipeline is executed."""
    pipeline.restore(key, max(expires_ms, 0), value, replace=True, absttl=expires_ms > 0)


async def remove(redis: PartitionedRedis, pattern: str = _OF_A_PARTITION) -> None:
    """Remove the keys of partitions whose names are like a pattern."""
    async for keys in keys_like(redis, pattern):
        pipelines = Pipelines(redis)
        for key in keys:
            if number_in(key) in redis.numbers:  # else it is left of a greater number of partitions, and never read
                pipelines[number_in(key)].unlink(key)
        await pipelines.execute()


class Pipelines:
    """Commands for several partitions: one round trip for each of them."""

    def __init__(self, redis: PartitionedRedis) -> None:
        self._redis = redis
        self._pipelines: dict[int, Any] = {}

    def __getitem__(self, number: int) -> Any:
        """The pipeline of a partition."""
        if number not in self._pipelines:
            self._pipelines[number] = self._redis[number].pipeline(transaction=False)
        return self._pipelines[number]

    async def execute(self) -> None:
        """Execute all commands. Raises REDIS_REFUSALS."""
        await asyncio.gather(*(pipeline.execute() for pipeline in self._pipelines.values()))


async def scored_sets(client: Any, keys: list[bytes]) -> list[tuple[bytes, list[tuple[bytes, float]], int]]:
    """Name, members with scores, and time of expiry (ms since the epoch, -1: never) of small sorted sets."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.zrange(key, 0, -1, withscores=True)
        pipeline.execute_command("PEXPIRETIME", key)
    answers = await pipeline.execute()
    return [*zip(keys, answers[::2], answers[1::2], strict=True)]


async def copy_fields(client: Any, key: str, names: Mapping[str, str]) -> None:
    """Store the fields of a hash under other names as well."""
    pipeline = client.pipeline(transaction=False)
    for field, value in (await client.hgetall(key)).items():
        if name := names.get(field.decode()):
            pipeline.hset(key, name, value)
    await pipeline.execute()


async def keep_fields(client: Any, key: str, names: Collection[str]) -> None:
    """Remove all other fields of a hash."""
    pipeline = client.pipeline(transaction=False)
    for field in await client.hkeys(key):
        if field.decode() not in names:
            pipeline.hdel(key, field)
    await pipeline.execute()


async def entries(client: Any, key: str, until_id: str = "+", from_id: str = "-") -> AsyncIterator[tuple[str, bytes]]:
    """The entries of a stream from an id up to another: id and payload. None if there is no such stream."""
    position = from_id
    while True:
        found = await client.xrange(key, position, until_id, count=_ENTRIES_PER_READ)
        for entry_id, fields in found:
            yield entry_id.decode(), fields.get(PAYLOAD_FIELD, b"")
        if len(found) < _ENTRIES_PER_READ:
            return
        position = f"({found[-1][0].decode()}"


async def about_log(redis: PartitionedRedis, number: int) -> dict[str, Any]:
    """What Redis says of the stream of a partition; of an empty one if there is none."""
    empty = {"last-generated-id": b"0-0", "entries-added": 0, "length": 0, "first-entry": None}
    if await redis[number].type(stream_key(number)) != STREAM:
        return empty
    return await stream_info(redis[number], stream_key(number)) or empty


def pattern_of(prefix: str, number: int) -> str:
    """The pattern of the keys of a partition whose names begin with a prefix. Brackets have no meaning in it."""
    return f"{prefix}{hash_tag(number)}*"


def renamed(key: bytes, number: int) -> bytes:
    """The name of the same key in another partition."""
    return _TAG.sub(hash_tag(number).encode(), key)
