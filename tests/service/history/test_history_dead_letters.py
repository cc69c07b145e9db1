"""Dead letters are stored once and within limits, are found by their event, and are replayed atomically."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.stream import Entry
from footfall_history import metrics
from footfall_history.dead_letters.queue import DeadLetterQueue, DeadLettersFullError
from footfall_history.event_log import EventLog
from footfall_history.ingest.attribution import Attributor
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.storage.arrivals import Unstorable
from footfall_servicekit.errors import details_of
from footfall_timeline import partition

from tests.tools.batches import context, new_uuid
from tests.tools.eventually import eventually
from tests.tools.history import entry, logged
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

ConsumerWith = Callable[..., LogConsumer]

DAY_MS = 86_400_000
PARTITIONS = 3


def unfit(**fields: Any) -> Event:
    return logged(event("SignIn", new_uuid(), now_ms(), "dana"), transition=9, **fields)


async def put(dead_letters: DeadLetterQueue, *events: Event) -> int:
    """Store events of one partition as dead letters."""
    number = partition(events[0].visit_id, dead_letters.partitions)
    return (await dead_letters.put(number, [Unstorable(each, context(), "a reason") for each in events])).new_count


async def all_of(dead_letters: DeadLetterQueue) -> list[str]:
    return [
        dead_letter.id
        for number in range(dead_letters.partitions)
        async for dead_letter in dead_letters.in_partition(number)
    ]


async def test_an_event_read_twice_becomes_one_dead_letter(
    dead_letters: DeadLetterQueue, consumer_with: ConsumerWith
) -> None:
    story = Story("dana")
    batch = story.entry()
    batch.events.append(unfit())
    consumer = consumer_with(dead_letters=dead_letters)
    for number in range(2):
        await consumer.handle(0, [Entry(f"{number}-0", batch.SerializeToString()), Entry("9-0", b"\xff")])
    refused = batch.events[-1]
    assert await all_of(dead_letters) == ["entry/9-0", f"{refused.visit_id}/{refused.event_id}"]
    total, oldest_ms = await dead_letters.count()
    assert total == 2
    assert now_ms() - 60_000 < oldest_ms <= now_ms()


async def test_with_too_many_dead_letters_the_log_is_not_read(log: EventLog, consumer_with: ConsumerWith) -> None:
    dead_letters = DeadLetterQueue(log, retention_ms=DAY_MS, max_per_partition=1, max_per_visit=100)
    consumer = consumer_with(dead_letters=dead_letters)
    first, second = (entry([]), entry([]))
    first.events.append(unfit())
    second.events.append(unfit())
    await consumer.handle(0, [Entry("1-0", first.SerializeToString())])
    with pytest.raises(DeadLettersFullError):
        await consumer.handle(0, [Entry("2-0", second.SerializeToString())])
    [dead_letter] = [dead_letter async for dead_letter in dead_letters.in_partition(0)]
    await dead_letters.remove([dead_letter])
    await consumer.handle(0, [Entry("2-0", second.SerializeToString())])
    assert await all_of(dead_letters) == [f"{second.events[0].visit_id}/{second.events[0].event_id}"]


async def test_one_visit_never_stops_a_partition(
    log: EventLog, attributor: Attributor, consumer_with: ConsumerWith
) -> None:
    dead_letters = DeadLetterQueue(log, retention_ms=DAY_MS, max_per_partition=20, max_per_visit=3)
    consumer = consumer_with(dead_letters=dead_letters)
    dropped = metrics.DROPPED._value.get()
    visit, other = new_uuid(), Story("dana")
    for number in range(10):
        bad = entry([])
        bad.events.extend(unfit(visit_id=visit) for _ in range(5))
        await consumer.handle(0, [Entry(f"{number}-0", bad.SerializeToString())])
    assert len(await all_of(dead_letters)) == 3
    assert metrics.DROPPED._value.get() == dropped + 47
    batch = other.entry()
    batch.events.append(unfit())
    await consumer.handle(0, [Entry("10-0", batch.SerializeToString())])
    assert len(await all_of(dead_letters)) == 4, "others have their own"
    assert (await attributor.store([batch])).stored_count == 0, "what can be stored is stored"


async def test_a_dead_letter_expires_and_may_be_stored_again(log: EventLog) -> None:
    refused = unfit()
    short = DeadLetterQueue(log, retention_ms=1, max_per_partition=1, max_per_visit=100)
    assert await put(short, refused) == 1

    async def is_gone() -> bool:
        return await short.find_event(refused.visit_id, refused.event_id) is None and await short.count() == (0, 0)

    await eventually(is_gone)
    assert await put(DeadLetterQueue(log, retention_ms=DAY_MS, max_per_partition=1, max_per_visit=100), refused) == 1


async def test_a_replayed_dead_letter_moves_to_the_log_of_its_visit(redis_database_url: str, redis: Any) -> None:
    log = EventLog(redis_database_url, PARTITIONS, 2_000)
    dead_letters = DeadLetterQueue(log, retention_ms=DAY_MS, max_per_partition=10, max_per_visit=100)
    refused = unfit()
    await put(dead_letters, refused)
    dead_letter = await dead_letters.find_event(refused.visit_id, refused.event_id)
    assert dead_letter
    assert dead_letter.batch
    mended = EventBatch(contexts=dead_letter.batch.contexts, events=[logged(event("SignOut", new_uuid(), now_ms()))])
    moved_to = await dead_letters.replace(dead_letter, mended, "mended")
    assert await all_of(dead_letters) == [moved_to]
    moved = await dead_letters.find(moved_to)
    assert moved
    assert (moved.created_ms, moved.reason) == (dead_letter.created_ms, "mended")

    assert not await dead_letters.replay(dead_letter._replace(id=moved_to, partition=moved.partition)), (
        "it has been changed"
    )
    assert await dead_letters.replay(moved)
    assert not await dead_letters.replay(moved)
    assert await all_of(dead_letters) == []
    [(_, fields)] = await redis.xrange(f"log:{{p{partition(mended.events[0].visit_id, PARTITIONS):02d}}}")
    assert EventBatch.FromString(fields[b"b"]) == mended
    assert await redis.keys("aside*") == []
    await log.close()


async def test_dead_letters_are_listed_in_pages_and_replayed_over_grpc(
    stub: Any, dead_letters: DeadLetterQueue, log: EventLog
) -> None:
    at_ms = now_ms()
    good, old = (logged(event("SignIn", new_uuid(), ms, "dana", site="shop")) for ms in (at_ms, at_ms - 8 * DAY_MS))
    bad = unfit()
    for one in (good, old, bad):
        await put(dead_letters, one)
    ids = {name: f"{one.visit_id}/{one.event_id}" for name, one in (("good", good), ("old", old), ("bad", bad))}

    listed: list[pb.DeadLetterSummary] = []
    token = ""
    while True:
        page = await stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=2, page_token=token))
        listed += page.dead_letters
        if not (token := page.next_page_token):
            break
    assert {one.dead_letter_id: bool(one.problem) for one in listed} == {
        ids["good"]: False,
        ids["old"]: True,
        ids["bad"]: True,
    }
    assert {one.reason for one in listed} == {"a reason"}
    assert "dana" not in str(listed)

    entries = sum([await log.client(number).xlen(f"log:{{p{number:02d}}}") for number in range(log.partitions)])
    answer = await stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(all=True))
    assert [*answer.replayed_ids] == [ids["good"]]
    assert {one.dead_letter_id for one in answer.refused} == {ids["old"], ids["bad"]}
    after = sum([await log.client(number).xlen(f"log:{{p{number:02d}}}") for number in range(log.partitions)])
    assert after == entries + 1
    again = await stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(dead_letter_ids=[ids["good"], ids["old"]]))
    assert [*again.replayed_ids] == []
    assert [one.dead_letter_id for one in again.refused] == [ids["old"]]


async def test_a_dead_letter_is_repaired_over_grpc(stub: Any, dead_letters: DeadLetterQueue) -> None:
    bad = unfit()
    await put(dead_letters, bad)
    ids: dict[str, Any] = {"dead_letter_id": f"{bad.visit_id}/{bad.event_id}"}
    for changes, field, words in (
        ({}, "set", "at least one field"),
        ({"drop": ["colour"]}, "set", "colour: is no field of an event"),
        ({"set": {"transition": "dana"}}, "set", "transition: is no value of this field"),
        ({"set": {"site": "shop"}}, "set", "transition"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.RepairDeadLetter(pb.RepairDeadLetterRequest(**ids, **changes))
        [(name, rule)] = details_of(raised.value).violations
        assert name == field
        assert words in rule
    change = pb.RepairDeadLetterRequest(**ids, set={"transition": "TRANSITION_KIND_SIGN_IN"}, drop=["category"])
    for _ in range(2):
        repaired = (await stub.RepairDeadLetter(change)).dead_letter
        assert (repaired.dead_letter_id, repaired.problem) == (ids["dead_letter_id"], "")
        assert repaired.reason == "repaired; it was: a reason"
        assert json.loads(repaired.event_json)["transition"] == "TRANSITION_KIND_SIGN_IN"
        assert "dana" not in str(repaired)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.RepairDeadLetter(pb.RepairDeadLetterRequest(dead_letter_id="unknown", drop=["url"]))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("asked", [{}, {"dead_letter_ids": ["x"], "all": True}, {"dead_letter_ids": ["x"] * 1_001}])
async def test_what_to_replay_must_be_said(stub: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(**asked))
    assert [field for field, _ in details_of(raised.value).violations] == ["dead_letter_ids"]
