"""`footfall-ops repartition` moves the log, what waits beside it, and live state to other partitions."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.interactions import interaction_key
from footfall_eventlog.log import GROUPS
from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import VisitorStore
from footfall_ops.repartition import parts_of
from footfall_timeline import partition
from redis.exceptions import ResponseError

from tests.service.identity.conftest import TIMEOUT_MS, visitor_store
from tests.service.ops.conftest import Ops
from tests.service.ops.test_ops_verify import merge
from tests.tools.stories import Story

COUNT = 3


def log_of(number: int) -> str:
    return f"log:{{p{number:02d}}}"


async def test_entries_are_in_the_partitions_of_their_visits_and_each_group_reads_what_it_has_not_handled(
    ops: Ops, redis: Any, slow: SlowVisits
) -> None:
    stories, waiting = [Story(f"person {number}") for number in range(12)], Story("waiting")
    await redis.set("log:partitions", 1)
    for number, story in enumerate(stories):  # two visits in each entry
        batch = story.entry()
        batch.MergeFrom(EventBatch(events=stories[number - 1].entry().events[:1]))
        await redis.xadd(log_of(0), {"b": batch.SerializeToString()}, id=f"{1_000 + number}-0")
    for group in GROUPS:
        await redis.xgroup_create(log_of(0), group, id="0")
    # History has read all but one, and handled nine; records are written of all, live state of none.
    for group, reads, handles in (("history", 11, 9), ("identity", 12, 12)):
        [[_, read]] = await redis.xreadgroup(group, "reader", {log_of(0): ">"}, count=reads)
        await redis.xack(log_of(0), group, *(entry_id for entry_id, _ in read[:handles]))
    await slow.put(0, [(waiting.visit_id, waiting.entry())])

    assert await ops("repartition", COUNT) == 0
    assert await redis.get("log:partitions") == b"3"
    count = 0
    for number in range(COUNT):
        entries = {int(one.split(b"-")[0]): fields for one, fields in await redis.xrange(log_of(number))}
        events = [event for fields in entries.values() for event in EventBatch.FromString(fields[b"b"]).events]
        assert all(partition(event.visit_id, COUNT) == number for event in events)
        count += len(events)
        for about in await redis.xinfo_groups(log_of(number)):
            unread = await redis.xrange(log_of(number), b"(" + about["last-delivered-id"])
            first = {"history": 1_009, "identity": 2_000, "identity-live": 0}[about["name"].decode()]
            assert [int(one.split(b"-")[0]) for one, _ in unread] == [at_ms for at_ms in entries if at_ms >= first]
            assert about["lag"] == len(unread)
    assert count == sum(len(story.events) for story in [*stories, waiting]) + len(stories)
    assert [key async for key in redis.scan_iter("slow:*")] == [key async for key in redis.scan_iter("mov*")] == []


async def test_live_state_and_dead_letters_move_there_and_back(
    ops: Ops, live: VisitorStore, redis: Any, redis_database_url: str, *, dead_letters: DeadLetterQueue
) -> None:
    stories, dead = [Story(f"person {number}") for number in range(12)], Story("dead")
    await redis.set("log:partitions", 1)
    await merge(live, *stories)
    letter = DeadLetter(0, f"{dead.visit_id}/{dead.event_id(0)}", 1_900_000_000_000, "why", b"payload")
    await dead_letters.put_back(letter)
    before = await visits(redis)
    people = len([key async for key in redis.scan_iter("person:*")])

    assert await ops("repartition", COUNT) == 0
    assert await visits(redis) == before
    partitions = Partitions(redis_database_url, COUNT, timeout_ms=TIMEOUT_MS)
    records = await visitor_store(partitions).get(story.visit_id for story in stories)
    await partitions.redis.aclose()
    assert len(records) == len(stories)
    for number in range(COUNT):
        ids = {story.visit_id for story in stories if partition(story.visit_id, COUNT) == number}
        for name in ("known", "by-start", "by-site", "by-device"):
            assert {one.decode() for one in await redis.zrange(f"live:{{p{number:02d}}}:{name}", 0, -1)} == ids
    assert all([await redis.ttl(key) > 0 async for key in redis.scan_iter("person:*")])
    number = partition(dead.visit_id, COUNT)
    assert await redis.zrange(f"aside:{{p{number:02d}}}", 0, -1) == [letter.id.encode()]

    assert await ops("repartition", 1) == 0
    assert await visits(redis) == before
    assert len(await redis.zrange("live:{p00}:known", 0, -1)) == len(stories)
    assert len([key async for key in redis.scan_iter("person:*")]) == people
    assert [one.id async for one in dead_letters.in_partition(0)] == [letter.id]
    with pytest.raises(ResponseError, match="WRONGTYPE"):  # of a collector that was forgotten
        await redis.xadd(log_of(1), {"b": b"of a former partition"})
    assert [key async for key in redis.scan_iter("*{p01}*")] == [log_of(1).encode()]


async def visits(redis: Any) -> dict[str, tuple[Any, int]]:
    """By id, the hash of each visit in live state, and when it expires."""
    return {
        key.decode().partition("}:")[2]: (await redis.hgetall(key), await redis.pexpiretime(key))
        async for key in redis.scan_iter("visit:*")
    }


async def test_a_change_that_was_interrupted_is_finished(
    ops: Ops, live: VisitorStore, redis: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story("ann")
    await redis.set("log:partitions", 1)
    await merge(live, story)
    await redis.xadd(log_of(0), {"b": story.entry().SerializeToString()}, id="5-1")
    for step in ("_copy_live_state", "_remove_moved"):
        with monkeypatch.context() as context:
            context.setattr(f"footfall_ops.repartition._Move.{step}", fail)
            with pytest.raises(RuntimeError, match="interrupted"):
                await ops("repartition", COUNT)
        assert await ops("verify") == 1, "no service starts meanwhile"
        assert "finish `footfall-ops repartition` first" in capsys.readouterr().err
        assert await ops("repartition", 5) == 1
        assert "to 3: finish it" in capsys.readouterr().err
    assert await ops("repartition", COUNT) == 0
    number = partition(story.visit_id, COUNT)
    [(entry_id, _)] = await redis.xrange(log_of(number))
    assert entry_id == b"5-1"
    assert await redis.exists(f"visit:{{p{number:02d}}}:{story.visit_id}")
    assert await ops("repartition", COUNT) == 0
    assert "has 3 partitions already" in capsys.readouterr().err


async def fail(*_arguments: object) -> None:
    raise RuntimeError("interrupted")


def test_an_entry_is_split_by_what_it_holds() -> None:
    update = InteractionUpdate(interaction_id="call-7")
    number = partition(interaction_key(update), COUNT)
    whole = EventBatch(interaction=update).SerializeToString()
    assert parts_of(whole, COUNT, set()) == {number: whole}
    erasures = set[str]()
    erasure = EventBatch(erasure=Erasure(erasure_id=str(uuid.uuid4()))).SerializeToString()
    assert parts_of(erasure, COUNT, erasures) == dict.fromkeys(range(COUNT), erasure)
    assert parts_of(erasure, COUNT, erasures) == {}, "it is in the log of each former partition"
    assert parts_of(b"malformed", COUNT, set()) == {0: b"malformed"}


@pytest.mark.long
async def test_on_a_cluster_visits_move_between_nodes_and_a_backup_comes_back(
    ops: Ops, cluster: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", cluster[0])
    stories = [Story(f"person {number}") for number in range(30)]
    ids = {story.visit_id for story in stories}
    former, later = (Partitions(cluster[0], count, timeout_ms=TIMEOUT_MS) for count in (4, 7))
    await former.redis.check()
    await merge(visitor_store(former), *stories)
    for story in stories:
        number = partition(story.visit_id, 4)
        await former.redis[number].xadd(log_of(number), {"b": story.entry().SerializeToString()})
    monkeypatch.setenv("PARTITIONS", "4")

    assert await ops("repartition", 7) == 0
    await later.redis.check()
    monkeypatch.setenv("PARTITIONS", "7")

    async def is_complete() -> None:
        assert (await visitor_store(later).get(ids)).keys() == ids
        logged = set()
        for number in range(7):
            for _, fields in await later.redis[number].xrange(log_of(number)):
                logged |= {event.visit_id for event in EventBatch.FromString(fields[b"b"]).events}
            members = await later.redis[number].zrange(f"live:{{p{number:02d}}}:known", 0, -1)
            assert {one.decode() for one in members} == {one for one in ids if partition(one, 7) == number}
        assert logged == ids

    await is_complete()
    assert await ops("backup", tmp_path / "backup") == 0
    assert await ops("restore", tmp_path / "backup", "--replace") == 0
    await is_complete()
    for partitions in (former, later):
        await partitions.redis.aclose()
