"""Checkpoints show which store has gone back; what MongoDB lost is read again, or is a gap with its times."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from footfall_eventlog.checkpoint_store import Checkpoint, CheckpointStore
from footfall_eventlog.checkpoints import Checkpoints
from footfall_eventlog.gaps_command import run_gaps
from footfall_eventlog.log import HISTORY_GROUP, stream_key
from footfall_eventlog.partitions import PARTITION_COUNT_KEY, PartitionedRedis
from footfall_eventlog.stream import PAYLOAD_FIELD, trim
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.faulty_mongo import FULL_DISK, UNAUTHORIZED, faulty_mongo
from tests.tools.stores import running_mongo, running_valkey

LOG = stream_key(0)
KEY = "0/1"
MARK = f"checkpoint:{{p00}}:{HISTORY_GROUP}"


class Group:
    """A group that reads the log, its checkpoints, and what became of both."""

    def __init__(self, redis: Any, partitioned: PartitionedRedis, mongo_url: str, database: Any) -> None:
        self.redis = redis
        self.mongo_url = mongo_url
        self.database = database
        self.store = CheckpointStore(database["checkpoints"], database["gaps"])
        self.rebuilt: list[int] = []
        self.is_settled = True
        self.checkpoints = self.process(partitioned)

    def process(self, partitioned: PartitionedRedis) -> Checkpoints:
        """The checkpoints of a further process."""

        async def rebuild(number: int) -> None:
            self.rebuilt.append(number)

        async def is_settled(_number: int) -> bool:
            return self.is_settled

        return Checkpoints(partitioned, HISTORY_GROUP, self.store, (), is_settled=is_settled, rebuild=rebuild)

    async def gaps_command(self, *arguments: str) -> int:
        """Run the command in a process of its own, as far as asyncio is concerned; the exit code."""

        @asynccontextmanager
        async def open_store() -> AsyncIterator[CheckpointStore]:
            client: AsyncMongoClient[Any] = AsyncMongoClient(self.mongo_url)
            database = client[self.database.name]
            yield CheckpointStore(database["checkpoints"], database["gaps"])
            await client.close()

        return await asyncio.to_thread(run_gaps, "history", open_store, (), [*arguments])

    async def append(self, count: int) -> list[str]:
        return [(await self.redis.xadd(LOG, {PAYLOAD_FIELD: b"x"})).decode() for _ in range(count)]

    async def read(self, count: int = 1_000) -> list[str]:
        """Read new entries, without acknowledging them."""
        answer = await self.redis.xreadgroup(HISTORY_GROUP, "reader", {LOG: ">"}, count=count)
        return [entry_id.decode() for entry_id, _ in answer[0][1]] if answer else []

    async def acknowledge(self, ids: list[str]) -> None:
        await self.redis.xack(LOG, HISTORY_GROUP, *ids)

    async def handle(self, count: int) -> list[str]:
        """Append, read and acknowledge entries, and note them in checkpoints."""
        ids = await self.append(count)
        await self.acknowledge(await self.read())
        await self.look()
        return ids

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.checkpoints.look(0)

    async def known(self) -> Checkpoint:
        known = await self.store.read(KEY)
        assert known
        return known

    async def remove_until(self, entry_id: str) -> None:
        await self.redis.xtrim(LOG, minid=entry_id, approximate=False)


@pytest.fixture
async def group(
    redis: Any, redis_database_url: str, mongo_url: str, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Group]:
    """A group of an empty log, after its first look."""
    monkeypatch.setattr("footfall_eventlog.checkpoints._WRITTEN_LATELY_MS", 0)
    client: AsyncMongoClient[Any] = AsyncMongoClient(mongo_url)
    partitioned = PartitionedRedis(redis_database_url, 1, timeout_ms=5_000)
    await partitioned.check()
    await redis.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
    group = Group(redis, partitioned, mongo_url, client[mongo_database])
    await group.look(2)
    yield group
    await partitioned.aclose()
    await client.close()


async def test_a_checkpoint_follows_what_is_acknowledged_and_settled(group: Group) -> None:
    first = await group.handle(3)
    assert (await group.known()).position == (first[-1], 3)
    second = await group.append(4)
    read = await group.read(2)
    await group.look(2)
    assert (await group.known()).ordinal == 3, "two entries are not acknowledged"
    await group.acknowledge(read)
    further = await group.read(1)
    await group.look(2)
    assert (await group.known()).position == (second[1], 5), "one entry is not acknowledged"
    await group.acknowledge(further)
    group.is_settled = False
    await group.look(2)
    assert (await group.known()).ordinal == 5, "acknowledged, and still to be stored"
    group.is_settled = True
    await group.look()
    assert (await group.known()).ordinal == 6
    assert (await group.store.gaps(), group.rebuilt) == ([], [])


async def test_a_full_disk_of_mongodb_is_no_unexpected_failure_and_a_refusal_is_one(
    redis: Any, redis_database_url: str, mongo_url: str, mongo_database: str
) -> None:
    partitioned = PartitionedRedis(redis_database_url, 1, timeout_ms=5_000)
    await partitioned.check()
    await redis.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
    with faulty_mongo(mongo_url) as mongo:
        client: AsyncMongoClient[Any] = AsyncMongoClient(mongo.url)
        group = Group(redis, partitioned, mongo.url, client[mongo_database])
        await group.checkpoints.look(0)
        mongo.fault = FULL_DISK  # of the answer: the checkpoint is written all the same, so this happens once
        with structlog.testing.capture_logs() as lines, pytest.raises(TimeoutError):
            await asyncio.wait_for(group.checkpoints.run(), 0.5)
        assert lines == []
        mongo.commands, mongo.fault = {"find"}, UNAUTHORIZED
        with structlog.testing.capture_logs() as lines, pytest.raises(TimeoutError):
            await asyncio.wait_for(group.checkpoints.run(), 0.5)
        assert {line["work"] for line in lines} == {"Checkpoints.look", "Checkpoints._count_gaps"}
        await client.close()
    await partitioned.aclose()


async def test_a_first_start_on_a_log_that_was_trimmed_finds_no_gap(group: Group) -> None:
    ids = await group.handle(5)
    await group.remove_until(ids[3])
    await group.database["checkpoints"].delete_many({})
    await group.redis.delete(MARK)
    await group.look(3)
    assert (await group.store.gaps(), group.rebuilt) == ([], [])
    assert (await group.known()).ordinal == 5


async def test_what_follows_the_checkpoint_is_not_trimmed(group: Group) -> None:
    handled = await group.handle(3)
    later = await group.append(2)
    await group.acknowledge(await group.read())
    # As after a pause of hours: everything is old and acknowledged, and the last entries came after the checkpoint.
    assert await trim(group.redis, LOG, [HISTORY_GROUP], keep_ms=-1_000) == 2
    left = [entry_id.decode() for entry_id, _ in await group.redis.xrange(LOG)]
    assert left == [handled[-1], *later]
    await group.look(2)
    assert await trim(group.redis, LOG, [HISTORY_GROUP], keep_ms=-1_000) == 2


async def test_what_mongodb_lost_is_read_again(group: Group) -> None:
    await group.handle(2)
    backup = await group.known()
    lost = await group.handle(3)
    [unread] = await group.append(1)
    await group.read()  # a reader is handling it
    await restore(group, backup)
    await group.look()
    assert await group.checkpoints.read_again_until(0) == f"{unread}/1"
    assert await trim(group.redis, LOG, [HISTORY_GROUP], keep_ms=-1_000) <= 1, "nothing that has to be read again"
    assert await group.read() == [*lost, unread]
    await group.acknowledge([*lost, unread])
    await group.look()
    assert (await group.known()).position == (unread, 6)
    assert (await group.store.gaps(), group.rebuilt) == ([], [])
    await restore(group, backup)
    await group.look()
    assert await group.checkpoints.read_again_until(0) == f"{unread}/2", "history notices the second time as well"


@pytest.mark.parametrize("is_slow_write", [False, True])
async def test_what_another_process_of_mongodb_may_have_lost_is_read_again(
    redis: Any, redis_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_slow_write: bool
) -> None:
    """MongoDB has the last checkpoint, and may lack what was stored after it."""
    monkeypatch.setattr("footfall_eventlog.checkpoints._WRITTEN_LATELY_MS", 0)
    partitioned = PartitionedRedis(redis_database_url, 1, timeout_ms=5_000)
    await partitioned.check()
    await redis.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
    with running_mongo(tmp_path) as url:
        client: AsyncMongoClient[Any] = AsyncMongoClient(url)
        group = Group(redis, partitioned, url, client["footfall"])
        await group.look(2)
        await group.handle(2)
        after = await group.append(3)
        await group.acknowledge(await group.read())
        known, server = await group.known(), await group.store.server()
        mark = await group.checkpoints._marks.look(0)
        assert mark.position
        if is_slow_write:  # a process has found that the three entries are stored
            assert await group.checkpoints._marks.intend(0, mark, mark.position)
        await client.close()
    with running_mongo(tmp_path) as url:
        client = AsyncMongoClient(url)
        group = Group(redis, partitioned, url, client["footfall"])
        if is_slow_write:
            await group.checkpoints._write(0, known, mark, mark.position, server)
            assert (await group.known()).ordinal == 5
        with structlog.testing.capture_logs() as lines:
            await group.look()
        assert [line["log_level"] for line in lines] == ["warning"]
        assert await group.read() == after
        await group.acknowledge(after)
        await group.look(2)
        assert (await group.known()).position == (after[-1], 5)
        assert (await group.read(), await group.store.gaps(), group.rebuilt) == ([], [], [])
        await client.close()
    await partitioned.aclose()


async def test_what_the_log_no_longer_holds_is_a_gap_with_its_times(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    before = await group.handle(2)
    backup = await group.known()
    lost = await group.handle(5)
    await group.remove_until(lost[3])
    await restore(group, backup)
    await group.look(2)
    [gap] = await group.store.gaps()
    assert (gap.partition, gap.entries, gap.is_confirmed) == (0, 3, False)
    assert (gap.from_ms, gap.until_ms) == (at_ms(before[-1]), at_ms(lost[3]))
    assert await group.read() == lost[3:]
    times = (datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") for ms in (gap.from_ms, gap.until_ms))
    capsys.readouterr()
    about = "\t".join((gap.id, "0", *times, "3 entries"))
    assert await group.gaps_command("list") == 0
    assert capsys.readouterr().out == f"{about}\tnew\n"
    assert await group.gaps_command("confirm", gap.id, "another") == 1
    assert "There is no gap another." in capsys.readouterr().err
    assert await group.gaps_command("list") == 0
    assert capsys.readouterr().out == f"{about}\tconfirmed\n"
    await group.acknowledge(lost[3:])
    await group.handle(1)
    assert (await group.known()).ordinal == 8
    assert len(await group.store.gaps()) == 1


async def test_an_empty_mongodb_reads_the_whole_log_again(group: Group) -> None:
    ids = await group.handle(3)
    await group.database["checkpoints"].delete_many({})
    await group.look(2)
    assert await group.read() == ids
    assert await group.store.gaps() == []


async def test_a_redis_that_went_back_is_found_although_it_has_newer_entries(group: Group) -> None:
    await group.handle(2)
    snapshot = {key: await group.redis.dump(key) for key in (LOG, MARK)}
    await group.handle(4)
    old_epoch = (await group.known()).epoch
    for key, value in snapshot.items():
        await group.redis.restore(key, 0, value, replace=True)
    added = await group.append(9)
    await group.look(3)
    assert group.rebuilt == [0]
    assert await group.read() == added
    await group.acknowledge(added)
    await group.look(2)
    known = await group.known()
    assert (known.position, known.epoch > old_epoch) == ((added[-1], 11), True)
    assert (await group.store.gaps(), group.rebuilt) == ([], [0])


async def test_an_emptied_redis_is_no_gap_and_rebuilt_until_that_succeeds(group: Group) -> None:
    await group.handle(4)
    await group.redis.flushdb()
    await group.look()
    assert await group.redis.get(PARTITION_COUNT_KEY) == b"1"
    failing = group.process(group.checkpoints._redis)

    async def fail(_number: int) -> None:
        raise RuntimeError("history does not answer")

    failing._rebuild = fail
    with pytest.raises(RuntimeError):
        await failing.look(0)
    assert group.rebuilt == []
    await group.look(3)
    assert group.rebuilt == [0]
    await group.redis.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
    [entry_id] = await group.handle(1)
    assert (await group.known()).position == (entry_id, 1)
    assert await group.store.gaps() == []


async def test_a_process_rebuilds_what_an_emptied_redis_lost_without_waiting_for_its_next_look(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_eventlog.checkpoints._EVERY_S", 3_600)
    await group.handle(4)
    await group.redis.flushdb()
    running = asyncio.create_task(group.checkpoints.run())
    await eventually(lambda: group.rebuilt == [0], timeout=10)
    running.cancel()


async def test_both_stores_of_one_backup_go_on_from_there(group: Group) -> None:
    await group.handle(2)
    snapshot = {key: await group.redis.dump(key) for key in (LOG, MARK)}
    backup = await group.known()
    await group.handle(3)
    for key, value in snapshot.items():
        await group.redis.restore(key, 0, value, replace=True)
    await restore(group, backup)
    await group.handle(1)
    assert ((await group.known()).ordinal, group.rebuilt, await group.store.gaps()) == (3, [], [])


async def test_mongodb_from_before_redis_was_emptied_reads_the_log_from_its_beginning(group: Group) -> None:
    await group.handle(2)
    backup = await group.known()
    await group.redis.flushdb()
    await group.redis.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
    await group.look(2)
    ids = await group.handle(3)
    await restore(group, backup)
    await group.look(2)
    assert await group.read() == ids
    assert await group.store.gaps() == []


async def test_another_process_of_redis_is_a_reason_to_rebuild_and_no_more(group: Group) -> None:
    await group.handle(2)
    await restore(group, (await group.known())._replace(node="that of a primary which has failed"))
    await group.look(3)
    assert group.rebuilt == [0]
    assert await group.read() == []


@pytest.mark.long
async def test_a_replica_that_was_behind_and_is_promoted_is_a_redis_that_went_back(
    mongo_url: str, mongo_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_eventlog.checkpoints._WRITTEN_LATELY_MS", 0)
    client: AsyncMongoClient[Any] = AsyncMongoClient(mongo_url)
    folders = [tmp_path / "primary", tmp_path / "replica"]
    for folder in folders:
        folder.mkdir()
    with running_valkey(folders[0]) as url, running_valkey(folders[1], "--repl-diskless-sync-delay", "0") as other:
        async with Redis.from_url(url) as primary, Redis.from_url(other) as replica:
            partitioned, promoted = (PartitionedRedis(one, 1, timeout_ms=5_000) for one in (url, other))
            await primary.xgroup_create(LOG, HISTORY_GROUP, id="0", mkstream=True)
            group = Group(primary, partitioned, mongo_url, client[mongo_database])
            await group.look(2)
            await group.handle(2)
            await replica.replicaof("127.0.0.1", primary.connection_pool.connection_kwargs["port"])
            await eventually(lambda: has_entries(replica, 2))
            await replica.replicaof("NO", "ONE")  # it no longer follows, as one that is behind
            await group.handle(3)
            group.redis, group.checkpoints = replica, group.process(promoted)
            added = await group.append(4)
            await group.look(2)
            assert group.rebuilt == [0]
            assert await group.read() == added
            assert await group.store.gaps() == []
            await asyncio.gather(partitioned.aclose(), promoted.aclose())
    await client.close()


async def has_entries(redis: Any, count: int) -> bool:
    return bool(await redis.xlen(LOG) == count)


async def test_processes_that_look_together_find_nothing_wrong(group: Group) -> None:
    """Each sees both stores at different moments while the others move the checkpoint."""
    processes = [group.process(group.checkpoints._redis) for _ in range(3)]
    until = time.monotonic() + 2

    async def look(process: Checkpoints) -> None:
        while time.monotonic() < until:
            await process.look(0)

    async with asyncio.TaskGroup() as tasks:
        for process in processes:
            tasks.create_task(look(process))
        count = 0
        while time.monotonic() < until:
            ids = await group.append(1)
            await group.acknowledge(await group.read())
            count += 1
    await group.look(2)
    assert (await group.known()).position == (ids[-1], count)
    assert await group.checkpoints.read_again_until(0) == ""
    assert group.rebuilt == []


async def test_a_process_that_knows_an_earlier_position_does_not_make_redis_seem_to_have_gone_back(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, write = group.process(group.checkpoints._redis), group.store.replace
    await group.append(3)
    third = await group.read()
    await late.look(0)  # it remembers the position after the third entry
    await group.acknowledge(third)

    async def write_after_the_other_has_begun(key: str, known: Checkpoint | None, new: Checkpoint) -> bool:
        if new.ordinal == 3:
            return False
        await group.append(1)
        await group.read()
        await late.look(0)
        return await write(key, known, new)

    monkeypatch.setattr(group.store, "replace", write_after_the_other_has_begun)
    await group.handle(2)
    monkeypatch.setattr(group.store, "replace", write)
    assert (await group.known()).ordinal == 5
    await group.look(2)
    assert group.rebuilt == []


async def restore(group: Group, backup: Checkpoint) -> None:
    """Give MongoDB the checkpoint of a backup."""
    await group.database["checkpoints"].replace_one({"_id": KEY}, backup._asdict())


def at_ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
