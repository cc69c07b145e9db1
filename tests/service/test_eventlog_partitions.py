"""Partitions on a real cluster: every one is found wherever it is now, and a node that is down harms no other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis, hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry, StreamReader, trim
from footfall_servicekit.background import RefusalError
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import MovedError

from tests.tools.eventually import eventually
from tests.tools.stores import replicate, running_nodes, running_valkey

COUNT = 16


@asynccontextmanager
async def opened(url: str, count: int = COUNT) -> AsyncIterator[PartitionedRedis]:
    redis = PartitionedRedis(url, count, timeout_ms=5_000)
    try:
        yield redis
    finally:
        await redis.aclose()


def client(url: str) -> Any:
    """A plain client; its commands are typed as sync or async."""
    return Redis.from_url(url)


def stream(number: int) -> str:
    return f"log:{hash_tag(number)}"


async def append(redis: PartitionedRedis, payload: bytes) -> None:
    """Append to the stream of every partition."""
    for number in redis.numbers:
        await redis[number].xadd(stream(number), {PAYLOAD_FIELD: payload})


def held(redis: PartitionedRedis) -> dict[str, list[int]]:
    """By URL, the partitions of each node."""
    return {f"redis://{node.address.host}:{node.address.port}": node.numbers for node in redis.nodes()}


async def move(number: int, source: str, target: str) -> None:
    """Move a partition's slot from one node to another."""
    slot = key_slot(hash_tag(number).encode())
    async with client(source) as old, client(target) as new:
        new_id = await new.execute_command("CLUSTER", "MYID")
        await old.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", new_id)

        async def has_moved() -> bool:
            try:
                await new.exists(hash_tag(number))
            except MovedError:
                return False
            return True

        await eventually(has_moved, timeout=20)


async def test_every_partition_is_found_from_any_node_and_their_number_is_kept(cluster: list[str]) -> None:
    for count, url in enumerate(cluster, 1):
        async with opened(url) as redis:
            assert not await redis.is_ready()
            await redis.check()
            assert await redis.is_ready()
            assert sorted(held(redis)) == sorted(cluster)
            await append(redis, b"x")
            assert [await redis[number].xlen(stream(number)) for number in redis.numbers] == [count] * COUNT
    async with opened(cluster[1], 4) as redis:
        with pytest.raises(RefusalError, match="Set PARTITIONS=16 for every service"):
            await redis.check()
        assert not await redis.is_ready()


async def test_a_slot_that_moves_is_followed_without_an_error_and_its_stream_is_read_on(cluster: list[str]) -> None:
    async with opened(cluster[0]) as redis:
        await redis.check()
        source, target = cluster[:2]
        number = held(redis)[source][0]
        handled: list[bytes] = []

        async def handle(entries: list[Entry]) -> None:
            handled.extend(entry.payload for entry in entries)

        reader = StreamReader(redis[number], stream(number), "readers", handle, block_ms=100)
        reading = asyncio.create_task(reader.run())
        await redis[number].xadd(stream(number), {PAYLOAD_FIELD: b"before"})
        await eventually(lambda: handled == [b"before"], timeout=20)
        script = redis[number].register_script("return redis.call('XLEN', KEYS[1])")
        assert await script([stream(number)]) == 1

        await move(number, source, target)

        assert await script([stream(number)]) == 1
        await redis[number].xadd(stream(number), {PAYLOAD_FIELD: b"after"})
        assert number in held(redis)[target]
        await eventually(lambda: handled == [b"before", b"after"], timeout=20)
        reading.cancel()
        await asyncio.wait([reading])
        await eventually(partial(is_trimmed, redis[number], stream(number)), timeout=20)


async def is_trimmed(redis: Any, name: str) -> bool:
    return await trim(redis, name, ["readers"], keep_ms=0) == 1  # the last one stays: its id is the bound


async def test_a_node_that_is_down_costs_its_own_partitions_only_and_who_replaces_it_is_found(
    cluster: list[str], tmp_path: Path
) -> None:
    with running_nodes(tmp_path, 1) as [spare]:
        replicate(cluster[0], spare)
        async with opened(cluster[0]) as redis:
            await redis.check()
            lost = held(redis)[cluster[0]]
            assert 0 < len(lost) < COUNT
            async with client(cluster[0]) as node:
                await node.shutdown(nosave=True)
            for number in [*redis.numbers] * 3:  # however often one tries
                if number in lost:
                    with pytest.raises(TRANSIENT_ERRORS):
                        await redis[number].xadd(stream(number), {PAYLOAD_FIELD: b"x"})
                else:
                    await redis[number].xadd(stream(number), {PAYLOAD_FIELD: b"x"})
            assert await redis.is_ready()

            async with client(spare) as node:
                await node.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
            for number in redis.numbers:
                await eventually(partial(is_appended, redis, number), timeout=20)
            assert held(redis)[spare] == lost


async def is_appended(redis: PartitionedRedis, number: int) -> bool:
    try:
        return bool(await redis[number].xadd(stream(number), {PAYLOAD_FIELD: b"x"}))
    except TRANSIENT_ERRORS:
        return False


async def test_a_single_redis_that_is_no_primary_any_more_is_looked_for_anew(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as url:
        async with opened(url, 1) as redis, client(url) as server:
            await redis.check()
            before = await redis[0].client_id()
            await server.replicaof("127.0.0.1", 1)
            with pytest.raises(TRANSIENT_ERRORS):
                await redis[0].set("key", 1)
            await server.replicaof("NO", "ONE")
            assert await redis[0].client_id() != before
            await redis[0].set("key", 1)


async def test_a_cancellation_ends_whoever_asks_wherever_it_meets_him(redis_database_url: str) -> None:
    async with opened(redis_database_url, 1) as redis:

        async def ask() -> None:
            while True:
                await redis[0].ping()

        for turns in range(300):  # of the event loop: while connecting, writing and reading
            asking = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=5)
            assert asking.cancelled()


async def test_who_comes_after_closing_is_refused_and_leaves_no_connection_open(redis_database_url: str) -> None:
    async with opened(redis_database_url, 1) as redis:
        await redis[0].set("before", "closing")
    with pytest.raises(TRANSIENT_ERRORS, match="closed"):
        await redis[0].get("before")
    async with client(redis_database_url) as looking:
        database = looking.connection_pool.connection_kwargs["db"]

        async def is_alone() -> bool:
            clients = await looking.client_list()
            return [about["cmd"] for about in clients if about["db"] == str(database)] == ["client|list"]

        await eventually(is_alone)
