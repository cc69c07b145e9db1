"""The event log on a real Valkey: what is on disk when an append returns, and which errors it raises."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from footfall_collector import metrics
from footfall_collector.event_log import (
    EventLog,
    LogFullError,
    LogMisconfiguredError,
    LogRejectedError,
    LogUnavailableError,
)
from footfall_eventlog.log import GROUPS, stream_key
from footfall_eventlog.partitions import PARTITION_COUNT_KEY
from footfall_servicekit.background import NotReadyError, RefusalError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.tools.eventually import eventually
from tests.tools.scripted_redis import scripted_redis
from tests.tools.stores import replicate, running_nodes, running_valkey

MEGABYTE = 1024 * 1024


@asynccontextmanager
async def opened(url: str, partitions: int = 1, **options: Any) -> AsyncIterator[EventLog]:
    """A log that has not connected to Redis yet."""
    log = EventLog(
        url, partitions, **{"max_bytes": 64 * MEGABYTE, "timeout_ms": 10_000, "max_concurrent_appends": 100} | options
    )
    try:
        yield log
    finally:
        await log.close()


def client(url: str) -> Any:
    """Return a plain client; its commands are typed as sync or async together."""
    return Redis.from_url(url)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[str]:
    """A server that a test may break."""
    with running_valkey(tmp_path) as url:
        yield url


async def entries(redis: Any, partition: int = 0) -> list[dict[bytes, bytes]]:
    """Return the entries of a partition's stream."""
    return [fields for _, fields in await redis.xrange(stream_key(partition))]


async def why_not_ready(log: EventLog) -> str:
    try:
        await log.is_ready()
    except NotReadyError as error:
        return str(error)
    return ""


async def is_unready(log: EventLog, reason: str) -> bool:
    return await why_not_ready(log) == reason


async def takes_more(log: EventLog) -> bool:
    try:
        return bool(await log.append({0: b"small"}))
    except LogFullError:
        return False


async def test_each_partition_gets_its_entry(redis_database_url: str, redis: Any) -> None:
    async with opened(redis_database_url, 3) as log:
        await log.check()
        first, second = await log.append({0: b"zero", 2: b"two"}), await log.append({2: b"more"})
    assert await redis.xrange(stream_key(0)) == [(first[0].encode(), {b"b": b"zero"})]
    assert await entries(redis, 1) == []
    assert await redis.xrange(stream_key(2)) == [
        (first[2].encode(), {b"b": b"two"}),
        (second[2].encode(), {b"b": b"more"}),
    ]


async def test_all_keys_of_a_partition_share_a_slot() -> None:
    assert [stream_key(0), stream_key(15)] == ["log:{p00}", "log:{p15}"]


async def test_appends_run_concurrently(redis_database_url: str, redis: Any) -> None:
    async with opened(redis_database_url) as log:
        await log.check()
        await asyncio.gather(*(log.append({0: str(number).encode()}) for number in range(100)))
    assert {int(fields[b"b"]) for fields in await entries(redis)} == set(range(100))


async def test_a_partition_of_a_wrong_type_is_rejected_and_the_others_are_stored(
    redis_database_url: str, redis: Any
) -> None:
    await redis.set(stream_key(1), "not a stream")
    async with opened(redis_database_url, 3) as log:
        await log.check()
        assert (await log.append({0: b"zero", 1: b"one", 2: b"two"})).keys() == {0, 2}
        assert await entries(redis, 0) == [{b"b": b"zero"}]
        assert await entries(redis, 2) == [{b"b": b"two"}]
        with pytest.raises(LogRejectedError):
            await log.append({1: b"one"})


class TestMaxBytes:
    async def test_a_full_log_accepts_nothing_until_it_is_drained(self, redis_database_url: str, redis: Redis) -> None:
        async with opened(redis_database_url, 2, max_bytes=MEGABYTE) as log:
            await log.check()
            await log.append({0: b"x" * 700_000, 1: b"x" * 700_000})

            assert not await takes_more(log)
            length = await redis.xlen(stream_key(0))
            assert not await takes_more(log)
            assert await redis.xlen(stream_key(0)) == length
            await redis.xtrim(stream_key(1), maxlen=0)
            await eventually(lambda: takes_more(log), every=0.2)

    async def test_the_log_is_measured_at_most_once_a_second(self, redis_database_url: str, redis: Any) -> None:
        async with opened(redis_database_url, 2) as log:
            await log.check()
            before = await redis.info("commandstats")
            started = time.monotonic()
            for _ in range(200):
                await log.append({0: b"x"})
            seconds = time.monotonic() - started
            after = await redis.info("commandstats")
        calls = [stats.get("cmdstat_memory|usage", {}).get("calls", 0) for stats in (before, after)]
        assert calls[1] - calls[0] <= 2 * (seconds + 1)

    async def test_a_server_without_memory_left_counts_as_a_full_log(self, own_valkey: str) -> None:
        async with opened(own_valkey) as log, client(own_valkey) as redis:
            await log.check()
            await redis.config_set("maxmemory", 1)
            with pytest.raises(LogFullError):
                await log.append({0: b"x"})
            await redis.config_set("maxmemory", 0)
            assert await log.append({0: b"x"})

    async def test_entries_that_all_groups_have_read_are_trimmed_from_a_full_log(
        self, redis_database_url: str, redis: Any
    ) -> None:
        async with opened(redis_database_url, max_bytes=MEGABYTE) as log:
            await log.check()
            for group in GROUPS:
                await redis.xgroup_create(stream_key(0), group, id="0", mkstream=True)
            for _ in range(2):
                await log.append({0: b"x" * 600_000})
            assert not await takes_more(log)
            for group in GROUPS:
                [[_, read]] = await redis.xreadgroup(group, "reader", {stream_key(0): ">"})
                await redis.xack(stream_key(0), group, *(entry_id for entry_id, _ in read))
            await eventually(lambda: takes_more(log), every=0.2)


class TestShares:
    async def test_a_site_leaves_the_rest_of_the_log_to_others(self, redis_database_url: str, redis: Any) -> None:
        async with opened(redis_database_url, max_bytes=MEGABYTE, site_share=0.5) as log:
            await log.check()
            for _ in range(4):
                await log.append({0: b"x" * 100_000}, {"loud": 1})
            assert await log.sites_over_share({"loud", "quiet"}) == set()  # the only site in the log
            await log.append({0: b"x" * 10_000}, {"quiet": 1})
            assert await log.sites_over_share({"loud", "quiet", "unheard of"}) == {"loud"}
            assert await log.sites_over_share({"quiet"}) == set()

            await redis.xtrim(stream_key(0), maxlen=1)
            await eventually(lambda: has_room(log, "loud"), every=0.2)

    async def test_entries_that_all_groups_have_read_do_not_count_in_a_share(
        self, redis_database_url: str, redis: Any
    ) -> None:
        async with opened(redis_database_url, max_bytes=MEGABYTE, site_share=0.5) as log:
            await log.check()
            for group in GROUPS:
                await redis.xgroup_create(stream_key(0), group, id="0", mkstream=True)
            await log.append({0: b"x" * 400_000}, {"loud": 30, "quiet": 1})
            for group in GROUPS:
                [[_, read]] = await redis.xreadgroup(group, "reader", {stream_key(0): ">"})
                await redis.xack(stream_key(0), group, *(entry_id for entry_id, _ in read))
            await eventually(lambda: has_room(log, "loud"), every=0.2)

    async def test_with_a_share_of_1_a_site_may_fill_the_log(self, redis_database_url: str) -> None:
        async with opened(redis_database_url, max_bytes=MEGABYTE) as log:
            await log.check()
            await log.append({0: b"x" * 600_000}, {"loud": 60, "quiet": 1})
            assert await log.sites_over_share({"loud"}) == set()


async def has_room(log: EventLog, site: str) -> bool:
    return not await log.sites_over_share({site})


class TestPartitions:
    async def test_their_number_is_kept_with_the_data(self, redis_database_url: str, redis: Any) -> None:
        async with opened(redis_database_url, 4) as log:
            await log.check()
        assert await redis.get(PARTITION_COUNT_KEY) == b"4"
        async with opened(redis_database_url, 4) as log:
            await log.check()
            assert await log.is_ready()

    async def test_another_number_of_partitions_is_refused_with_the_remedy(self, redis_database_url: str) -> None:
        async with opened(redis_database_url, 4) as log:
            await log.check()
        async with opened(redis_database_url, 5) as log:
            with pytest.raises(RefusalError, match="Set PARTITIONS=4 for every service"):
                await log.check()
            assert await why_not_ready(log) == "Redis does not answer"
            with pytest.raises(LogUnavailableError):
                await log.append({0: b"x"})


class TestDurability:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("appendonly", "no"),
            ("appendfsync", "everysec"),
            ("no-appendfsync-on-rewrite", "yes"),
            ("maxmemory-policy", "allkeys-lru"),
        ],
    )
    async def test_a_server_that_may_lose_confirmed_entries_is_refused(
        self, tmp_path: Path, name: str, value: str
    ) -> None:
        with running_valkey(tmp_path, f"--{name}", value) as url:
            async with opened(url) as log:
                with pytest.raises(
                    LogMisconfiguredError, match=f"'{name}': '{value}'.*COLLECTOR_ALLOW_NON_DURABLE_REDIS"
                ):
                    await log.check()
            async with opened(url, allows_non_durable=True) as log:
                await log.check()
                assert await log.append({0: b"x"})

    async def test_a_server_that_forbids_config_get_is_trusted(self, own_valkey: str) -> None:
        async with client(own_valkey) as redis:
            await redis.execute_command("ACL", "SETUSER", "managed", "on", ">pw", "~*", "+@all", "-config")
        async with opened(own_valkey.replace("//", "//managed:pw@")) as log:
            await log.check()
            assert await log.append({0: b"x"})

    async def test_confirmed_entries_survive_a_crash(self, tmp_path: Path) -> None:
        with running_valkey(tmp_path, "--enable-debug-command", "yes") as url:
            async with opened(url) as log, client(url) as redis:
                await log.check()
                await log.append({0: b"kept"})
                with pytest.raises(RedisConnectionError):
                    await redis.execute_command("DEBUG", "SEGFAULT")
        with running_valkey(tmp_path) as url:
            async with client(url) as redis:
                assert await entries(redis) == [{b"b": b"kept"}]


class TestReplicas:
    async def test_an_append_waits_for_the_replicas_demanded(self, tmp_path: Path) -> None:
        for name in ("primary", "replica"):
            (tmp_path / name).mkdir()
        with running_valkey(tmp_path / "primary", "--repl-diskless-sync-delay", "0") as url:
            async with opened(url, ack_replicas=1, timeout_ms=2_000) as log:
                await log.check()
                with pytest.raises(LogUnavailableError):
                    await log.append({0: b"alone"})
                port = url.rpartition(":")[2]
                with running_valkey(tmp_path / "replica", "--replicaof", f"127.0.0.1 {port}") as replica_url:

                    async def is_confirmed() -> bool:
                        try:
                            return bool(await log.append({0: b"copied"}))
                        except LogUnavailableError:
                            return False

                    await eventually(is_confirmed, timeout=20)
                    async with client(replica_url) as replica:
                        assert {b"b": b"copied"} in await entries(replica)
                with pytest.raises(LogUnavailableError):
                    await log.append({0: b"alone again"})


ALL = dict.fromkeys(range(16), b"x")


async def partitions_of(url: str) -> set[int]:
    """Return the partitions whose stream is on a node of a cluster, after an append to all of them."""
    async with client(url) as redis:
        return {number for number in ALL if stream_key(number).encode() in await redis.keys("log:*")}


class TestCluster:
    async def test_an_append_to_several_nodes_is_stored_on_those_available(self, cluster: list[str]) -> None:
        async with opened(cluster[0], 16) as log:
            await log.check()
            assert (await log.append(ALL)).keys() == ALL.keys()
            lost = await partitions_of(cluster[0])
            async with client(cluster[0]) as node:
                await node.shutdown(nosave=True)
            for _ in range(3):
                assert (await log.append(ALL)).keys() == ALL.keys() - lost
            with pytest.raises(LogUnavailableError):
                await log.append(dict.fromkeys(lost, b"x"))
            assert await log.is_ready()

    async def test_the_maximum_size_applies_to_each_node(self, cluster: list[str]) -> None:
        async with opened(cluster[0], 16, max_bytes=MEGABYTE) as log:
            await log.check()
            await log.append(ALL)
            [first, *_] = full = await partitions_of(cluster[1])
            await log.append({first: b"x" * MEGABYTE})

            async def is_refused() -> bool:
                return (await log.append(ALL)).keys() == ALL.keys() - full

            await eventually(is_refused, every=0.2)
            with pytest.raises(LogFullError):
                await log.append({first: b"x"})
            [lost, *_] = await partitions_of(cluster[0])
            async with client(cluster[0]) as node:
                await node.shutdown(nosave=True)
            with pytest.raises(LogUnavailableError):  # what was lost may have been stored
                await log.append({first: b"x", lost: b"x"})

    async def test_every_node_must_be_durable_and_have_its_own_replica(
        self, cluster: list[str], tmp_path: Path
    ) -> None:
        async with opened(cluster[0], 16) as log, client(cluster[2]) as node:
            await node.config_set("appendfsync", "everysec")
            with pytest.raises(LogMisconfiguredError, match="'appendfsync': 'everysec'"):
                await log.check()
            stored = (await log.append(ALL)).keys()
            assert not await partitions_of(cluster[2])
            await node.config_set("appendfsync", "always")
            assert (await log.append(ALL)).keys() == ALL.keys()
            assert stored == ALL.keys() - await partitions_of(cluster[2])
        with running_nodes(tmp_path, 1) as [spare]:
            replicate(cluster[0], spare)
            async with opened(cluster[0], 16, ack_replicas=1, timeout_ms=1_000) as log:
                await log.check()
                confirmed = await partitions_of(cluster[0])

                async def is_confirmed() -> bool:
                    try:
                        return (await log.append(ALL)).keys() == confirmed
                    except LogUnavailableError:  # the replica has not written its first file yet
                        return False

                await eventually(is_confirmed, timeout=20)


class TestReadiness:
    async def test_a_redis_that_answers_and_confirms_no_write_makes_the_log_unready_until_it_does(
        self, own_valkey: str
    ) -> None:
        async with opened(own_valkey) as log, client(own_valkey) as redis:
            await log.check()
            for fault, remedy, reason in (
                ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "Redis is at maxmemory"),
                ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "Redis is a read-only replica"),
                (
                    "CONFIG SET min-replicas-to-write 1",
                    "CONFIG SET min-replicas-to-write 0",
                    "Redis refuses writes (NOREPLICAS)",
                ),
                ("CLIENT PAUSE 60000 WRITE", "CLIENT UNPAUSE", "Redis does not answer"),
            ):
                await redis.execute_command(*fault.split())
                await eventually(partial(is_unready, log, reason))
                assert since() > 0
                await redis.execute_command(*remedy.split())
                await eventually(partial(is_unready, log, ""))
                assert since() == 0
            assert not await redis.exists(stream_key(0)), "a check of readiness leaves nothing in the log"

    async def test_a_disk_that_redis_cannot_write_to_makes_it_unready(self) -> None:
        answers = {"CONFIG": b"*0\r\n", "MEMORY": b":0\r\n", "SET": b"+OK\r\n"}
        async with (
            scripted_redis(**answers) as redis,
            opened(redis.url, timeout_ms=5_000, allows_non_durable=True) as log,
        ):
            await log.check()
            assert await why_not_ready(log) == ""
            redis.answers["SET"] = b"-MISCONF Errors writing to the AOF file: No space left on device\r\n"
            await eventually(partial(is_unready, log, "Redis refuses writes (MISCONF)"))

    async def test_a_full_log_is_unready_and_failed_appends_show_without_a_probe(
        self, redis_database_url: str, redis: Any
    ) -> None:
        async with opened(redis_database_url, max_bytes=MEGABYTE) as log:
            await log.check()
            await log.append({0: b"x" * 1_400_000})
            assert not await takes_more(log)
            await eventually(partial(is_unready, log, "the event log is full"))
            await redis.delete(stream_key(0))
            await eventually(partial(is_unready, log, ""))
            await redis.set(stream_key(0), "not a stream")
            with pytest.raises(LogRejectedError):
                await log.append({0: b"x"})
            await eventually(partial(is_unready, log, "Redis rejects appends (ResponseError)"))

    async def test_a_log_without_the_replicas_demanded_is_unready(self, redis_database_url: str) -> None:
        async with opened(redis_database_url, ack_replicas=1, timeout_ms=1_000) as log:
            await log.check()
            assert await why_not_ready(log) == "0 of 1 replicas have confirmed"


def since() -> float:
    """Return since when appends fail, by the metric."""
    return float(metrics.APPENDS_FAIL_SINCE._value.get())


class TestRedisDown:
    async def test_an_append_fails_and_the_log_is_not_ready(self, tmp_path: Path) -> None:
        with running_valkey(tmp_path) as url:
            log = EventLog(url, 1, max_bytes=MEGABYTE, timeout_ms=1_000, max_concurrent_appends=1)
            await log.check()
            await log.append({0: b"x"})
        with pytest.raises(LogUnavailableError):
            await log.append({0: b"y"})
        await eventually(lambda: is_unready(log, "Redis does not answer"))
        await log.close()

    async def test_an_append_to_a_frozen_server_ends_after_the_timeout(self, own_valkey: str) -> None:
        async with opened(own_valkey, timeout_ms=500) as log, client(own_valkey) as redis:
            await log.check()
            await redis.execute_command("CLIENT", "PAUSE", 30_000)
            started = time.monotonic()
            with pytest.raises(LogUnavailableError):
                await log.append({0: b"x"})
            assert time.monotonic() - started < 15  # the server answers after 30

    async def test_an_append_survives_a_connection_that_died_while_idle(self, own_valkey: str) -> None:
        async with opened(own_valkey) as log, client(own_valkey) as redis:
            await log.check()
            await log.append({0: b"x"})
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await log.append({0: b"y"})

    async def test_the_check_waits_for_a_server_that_does_not_answer_yet(self, own_valkey: str) -> None:
        async with opened(own_valkey, timeout_ms=1_000) as log, client(own_valkey) as redis:
            await redis.execute_command("CLIENT", "PAUSE", 2_000)
            checking = asyncio.create_task(log.check())
            with pytest.raises(LogUnavailableError):
                await log.append({0: b"x"})
            await checking
            assert await log.is_ready()
            assert await log.append({0: b"x"})
