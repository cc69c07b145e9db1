"""A group of readers handles every entry of a stream when readers die, and removes none too early."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from footfall_eventlog.partitions import connection_pool
from footfall_eventlog.stream import PAYLOAD_FIELD, Entry, StreamReader, trim
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deploy.embedded import valkey_server
from tests.tools.eventually import eventually as eventually_within
from tests.tools.ports import free_ports

GROUP = "readers"

eventually = partial(eventually_within, timeout=20.0)


def client(url: str) -> Any:
    """As the services have it; its commands are typed as sync or async."""
    return Redis.from_pool(connection_pool(url, "", timeout_ms=5_000))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    async with client(redis_url) as redis:
        yield redis


@pytest.fixture
def stream() -> str:
    return f"stream:{uuid.uuid4().hex}"


async def append(redis: Any, stream: str, *payloads: bytes) -> list[str]:
    return [(await redis.xadd(stream, {PAYLOAD_FIELD: payload})).decode() for payload in payloads]


async def append_together(redis: Any, stream: str, *payloads: bytes) -> None:
    async with redis.pipeline(transaction=True) as pipeline:
        for payload in payloads:
            pipeline.xadd(stream, {PAYLOAD_FIELD: payload})
        await pipeline.execute()


async def pending(redis: Any, stream: str) -> int:
    return int((await redis.xpending(stream, GROUP))["pending"])


class Handler:
    """Keeps what it is given; fails `failures_left` times."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.failures_left = 0

    async def __call__(self, entries: list[Entry]) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise RuntimeError("told to fail")
        self.batches.append([entry.payload for entry in entries])

    @property
    def payloads(self) -> list[bytes]:
        return [payload for batch in self.batches for payload in batch]


@asynccontextmanager
async def running(reader: StreamReader) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def reader(redis: Any, stream: str, handler: Any, **changes: Any) -> StreamReader:
    return StreamReader(redis, stream, GROUP, handler, **({"block_ms": 50, "min_idle_ms": 200} | changes))


async def test_entries_from_before_the_group_and_after_are_handled_in_order_and_acknowledged(
    redis: Any, stream: str
) -> None:
    handler = Handler()
    await append(redis, stream, b"1", b"2", b"3")
    async with running(reader(redis, stream, handler, batch=2)):
        await eventually(lambda: handler.payloads == [b"1", b"2", b"3"])
        assert [len(batch) for batch in handler.batches] == [2, 1]
        await append(redis, stream, b"4")
        await eventually(lambda: handler.payloads == [b"1", b"2", b"3", b"4"])
    assert await pending(redis, stream) == 0


async def test_entries_that_trickle_in_are_handled_together(redis: Any, stream: str) -> None:
    handler = Handler()
    async with running(reader(redis, stream, handler, gather_ms=1_000)):
        await append(redis, stream, b"1")
        await eventually(lambda: handler.payloads == [b"1"])
        for payload in (b"2", b"3", b"4"):
            await append(redis, stream, payload)
        await eventually(lambda: len(handler.payloads) == 4)
    assert handler.batches == [[b"1"], [b"2", b"3", b"4"]]


async def test_after_a_batch_of_many_entries_the_next_are_gathered_for_longer(redis: Any, stream: str) -> None:
    handler = Handler()
    async with running(reader(redis, stream, handler, batch=32, gather_ms=1, load_gather_ms=1_000)):
        await append(redis, stream, b"1")
        await eventually(lambda: handler.payloads == [b"1"])
        await append_together(redis, stream, b"2", b"3")
        await eventually(lambda: handler.payloads == [b"1", b"2", b"3"])
        for payload in (b"4", b"5", b"6"):
            await append(redis, stream, payload)
        await eventually(lambda: len(handler.payloads) == 6)
    assert handler.batches == [[b"1"], [b"2", b"3"], [b"4", b"5", b"6"]]


async def test_what_a_handler_failed_at_comes_again_until_it_succeeds(redis: Any, stream: str) -> None:
    handler = Handler()
    handler.failures_left = 2
    await append(redis, stream, b"1", b"2", b"3")
    async with running(reader(redis, stream, handler, batch=2)):
        await eventually(lambda: handler.payloads == [b"1", b"2", b"3"])
    assert await pending(redis, stream) == 0


async def test_large_entries_make_batches_of_few_also_when_they_come_again(redis: Any, stream: str) -> None:
    payloads = [b"%03d" % number + b"x" * 1_000 for number in range(60)]
    await append(redis, stream, *payloads)
    handler = Handler()
    handler.failures_left = 2
    async with running(reader(redis, stream, handler, batch_bytes=10_000)):
        await eventually(lambda: handler.payloads == payloads)
    # As many as should fit are read, but at least eight at a time: so many may be too much.
    assert [len(batch) for batch in handler.batches] == [16, 17, 17, 10]
    assert await pending(redis, stream) == 0


async def test_what_a_dead_reader_left_is_taken_over(redis: Any, stream: str) -> None:
    ids = await append(redis, stream, *(b"%d" % number for number in range(50)))
    await redis.xgroup_create(stream, GROUP, id="0")
    await redis.xreadgroup(GROUP, "dead", {stream: ">"}, count=40)
    handler = Handler()
    async with running(reader(redis, stream, handler, batch=8)):
        await eventually(lambda: len(handler.payloads) == len(ids))
    assert sorted(handler.payloads, key=int) == [b"%d" % number for number in range(50)]
    assert await pending(redis, stream) == 0


async def test_what_a_live_reader_is_busy_with_is_left_to_it(redis: Any, stream: str) -> None:
    release = asyncio.Event()
    first: list[bytes] = []

    async def busy(entries: list[Entry]) -> None:
        first.extend(entry.payload for entry in entries)
        await release.wait()

    second = Handler()
    await append(redis, stream, b"1")
    async with running(reader(redis, stream, busy, min_idle_ms=60_000)):
        await eventually(lambda: first == [b"1"])
        async with running(reader(redis, stream, second, min_idle_ms=60_000)):
            await append(redis, stream, b"2")
            await eventually(lambda: second.payloads == [b"2"])
        release.set()
    assert await pending(redis, stream) == 0


async def test_several_readers_share_a_stream(redis: Any, stream: str) -> None:
    one, other = Handler(), Handler()
    async with (
        running(reader(redis, stream, one, batch=4, min_idle_ms=60_000)),
        running(reader(redis, stream, other, batch=4, min_idle_ms=60_000)),
    ):
        sent = [b"%d" % number for number in range(200)]
        await append(redis, stream, *sent)
        await eventually(lambda: sorted(one.payloads + other.payloads) == sorted(sent))


async def test_a_reader_that_is_stopped_ends_the_batch_in_hand(redis: Any, stream: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_entries: list[Entry]) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        ended.set()

    await append(redis, stream, b"1")
    async with running(reader(redis, stream, slow)):
        await asyncio.wait_for(begun.wait(), 30)
    assert ended.is_set()
    assert await pending(redis, stream) == 0


async def test_entries_removed_before_they_were_handled_are_given_up(redis: Any, stream: str) -> None:
    gone, _ = await append(redis, stream, b"gone", b"kept")
    await redis.xgroup_create(stream, GROUP, id="0")
    handler = Handler()
    one = reader(redis, stream, handler)
    await redis.xreadgroup(GROUP, one.consumer, {stream: ">"})
    await redis.xdel(stream, gone)
    async with running(one):
        await eventually(lambda: handler.payloads == [b"kept"])
    assert await pending(redis, stream) == 0


async def test_a_reader_shows_the_lag_of_every_group_also_of_one_that_nobody_reads(redis: Any, stream: str) -> None:
    await redis.xgroup_create(stream, "stopped", id="0", mkstream=True)
    await redis.xgroup_create(stream, "died", id="0")
    minute_ago = int(time.time() * 1000) - 60_000
    await redis.xadd(stream, {PAYLOAD_FIELD: b"old"}, id=f"{minute_ago}-0")
    await redis.xreadgroup("died", "consumer", {stream: ">"})
    await append(redis, stream, b"new")

    def shown(name: str, group: str) -> float:
        value = REGISTRY.get_sample_value(f"footfall_stream_{name}", {"stream": stream, "group": group})
        assert value is not None
        return value

    def complete() -> None:
        for group, unread, pending_count in (("stopped", 2, 0), ("died", 1, 1), (GROUP, 0, 0)):
            assert (shown("lag_entries", group), shown("pending_entries", group)) == (unread, pending_count)
        assert 60 <= shown("lag_seconds", "stopped") < 180
        assert 60 <= shown("lag_seconds", "died") < 180
        assert shown("lag_seconds", GROUP) == 0

    async with running(StreamReader(redis, stream, GROUP, Handler(), min_idle_ms=100)):
        await eventually(complete)


async def test_readers_that_are_long_gone_are_forgotten_but_never_one_that_holds_entries(
    redis: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_eventlog.stream._REMOVED_AFTER_IDLE_MS", 20)
    await append(redis, stream, b"1")
    await redis.xgroup_create(stream, GROUP, id="0")
    await redis.xreadgroup(GROUP, "holds one", {stream: ">"}, count=1)
    await redis.xgroup_createconsumer(stream, GROUP, "gone")
    one = reader(redis, stream, Handler(), min_idle_ms=1_000)

    async def names() -> set[bytes]:
        return {about["name"] for about in await redis.xinfo_consumers(stream, GROUP)}

    await asyncio.sleep(0.03)
    async with running(one):
        await eventually(lambda: forgotten(names, b"gone"))
        assert {b"holds one", one.consumer.encode()} >= await names() >= {b"holds one"}


async def forgotten(names: Any, name: bytes) -> bool:
    return name not in await names()


@asynccontextmanager
async def valkey_on(port: int, folder: Path) -> AsyncIterator[None]:
    options = (
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
    )
    server = await asyncio.create_subprocess_exec(str(valkey_server()), *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        server.kill()
        await server.wait()


async def test_a_reader_outlives_a_redis_that_dies_and_comes_back(tmp_path: Path, stream: str) -> None:
    [port] = free_ports(1)
    handler = Handler()

    async def append_when_it_can(payload: bytes) -> None:
        try:
            await append(redis, stream, payload)
        except RedisError as error:
            raise AssertionError from error

    async with client(f"redis://127.0.0.1:{port}") as redis, running(reader(redis, stream, handler)):
        async with valkey_on(port, tmp_path):
            await eventually(lambda: append_when_it_can(b"1"))
            await eventually(lambda: handler.payloads == [b"1"])
        async with valkey_on(port, tmp_path):
            await eventually(lambda: append_when_it_can(b"2"))
            # The first again, when it was handled and not yet acknowledged as Redis died.
            await eventually(lambda: [*dict.fromkeys(handler.payloads)] == [b"1", b"2"])


async def test_a_redis_that_lost_everything_is_read_from_its_beginning(redis: Any, stream: str) -> None:
    handler = Handler()
    async with running(reader(redis, stream, handler)):
        await append(redis, stream, b"1")
        await eventually(lambda: handler.payloads == [b"1"])
        await redis.delete(stream)
        await append(redis, stream, b"2")
        await eventually(lambda: handler.payloads == [b"1", b"2"])


async def test_trimming_stops_at_what_any_group_has_not_acknowledged(redis: Any, stream: str) -> None:
    ids = await append(redis, stream, b"1", b"2", b"3", b"4")
    groups = ["one", "other"]
    for group in groups:
        await redis.xgroup_create(stream, group, id="0")

    async def left() -> list[str]:
        return [entry_id.decode() for entry_id, _ in await redis.xrange(stream)]

    assert await trim(redis, stream, groups, keep_ms=-1_000) == 0
    await redis.xreadgroup("one", "a", {stream: ">"})
    await redis.xreadgroup("other", "a", {stream: ">"})
    assert await trim(redis, stream, groups, keep_ms=-1_000) == 0
    await redis.xack(stream, "one", *ids)
    await redis.xack(stream, "other", ids[0], ids[2])
    assert await trim(redis, stream, groups, keep_ms=60_000) == 0
    assert await trim(redis, stream, [*groups, "not there yet"], keep_ms=-1_000) == 0
    assert await trim(redis, stream, groups, keep_ms=-1_000) == 1
    assert await left() == ids[1:]
    await redis.xack(stream, "other", *ids)
    await trim(redis, stream, groups, keep_ms=-1_000)
    assert await left() == ids[3:]


async def test_trimming_waits_for_a_group_that_need_not_exist_until_entries_are_too_old(
    redis: Any, stream: str
) -> None:
    ids = await append(redis, stream, b"1", b"2", b"3")
    await redis.xgroup_create(stream, "one", id=ids[2])

    async def trimmed(waits_ms: int | None = None) -> int:
        return await trim(redis, stream, ["one"], keep_ms=-1_000, waits_for="relay", waits_ms=waits_ms)

    await redis.xgroup_create(stream, "relay", id="0")
    assert await trimmed() == await trimmed(60_000) == 0
    await redis.xgroup_setid(stream, "relay", ids[1])
    assert await trimmed() == 1
    assert await trimmed(-1_000) == 1  # older than it waits
    await append(redis, stream, b"4")
    await redis.xgroup_setid(stream, "one", "$")
    assert await trimmed() == 0
    await redis.xgroup_destroy(stream, "relay")
    assert await trimmed() == 1


async def test_a_stream_that_does_not_exist_needs_no_trimming(redis: Any, stream: str) -> None:
    assert await trim(redis, stream, [], keep_ms=0) == 0
