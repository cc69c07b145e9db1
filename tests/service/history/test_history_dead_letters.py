"""What lies aside lies there once, within bounds, is found by its event, and goes back as one step."""

from collections.abc import Callable
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_history import metrics
from footfall_history.dead_letters.queue import DeadLetters, DeadLettersFullError
from footfall_history.event_log import Log
from footfall_history.ingest.attribution import Stamper
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.storage.arrivals import Unstorable
from footfall_servicekit.stream import Entry
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


async def put(letters: DeadLetters, *events: Event) -> int:
    """Put events of one partition aside."""
    number = partition(events[0].visit_id, letters.partitions)
    return (await letters.put(number, [Unstorable(each, context(), "a reason") for each in events])).new_count


async def all_of(letters: DeadLetters) -> list[str]:
    return [letter.id for number in range(letters.partitions) async for letter in letters.each(number)]


async def test_an_event_lies_aside_once_however_often_it_is_read(
    letters: DeadLetters, consumer_with: ConsumerWith
) -> None:
    story = Story("dana")
    batch = story.entry()
    batch.events.append(unfit())
    consumer = consumer_with(letters=letters)
    for number in range(2):
        await consumer.handle(0, [Entry(f"{number}-0", batch.SerializeToString()), Entry("9-0", b"\xff")])
    refused = batch.events[-1]
    assert await all_of(letters) == ["entry/9-0", f"{refused.visit_id}/{refused.event_id}"]
    total, oldest_ms = await letters.count()
    assert total == 2
    assert now_ms() - 60_000 < oldest_ms <= now_ms()


async def test_no_more_is_taken_when_too_many_lie_aside(log: Log, consumer_with: ConsumerWith) -> None:
    letters = DeadLetters(log, kept_ms=DAY_MS, bound=1, bound_of_visit=100)
    consumer = consumer_with(letters=letters)
    first, second = (entry([]), entry([]))
    first.events.append(unfit())
    second.events.append(unfit())
    await consumer.handle(0, [Entry("1-0", first.SerializeToString())])
    with pytest.raises(DeadLettersFullError):
        await consumer.handle(0, [Entry("2-0", second.SerializeToString())])
    [letter] = [letter async for letter in letters.each(0)]
    await letters.remove([letter])
    await consumer.handle(0, [Entry("2-0", second.SerializeToString())])
    assert await all_of(letters) == [f"{second.events[0].visit_id}/{second.events[0].event_id}"]


async def test_one_visit_never_stops_a_partition(log: Log, stamper: Stamper, consumer_with: ConsumerWith) -> None:
    letters = DeadLetters(log, kept_ms=DAY_MS, bound=20, bound_of_visit=3)
    consumer = consumer_with(letters=letters)
    dropped = metrics.DROPPED._value.get()
    visit, other = new_uuid(), Story("dana")
    for number in range(10):
        bad = entry([])
        bad.events.extend(unfit(visit_id=visit) for _ in range(5))
        await consumer.handle(0, [Entry(f"{number}-0", bad.SerializeToString())])
    assert len(await all_of(letters)) == 3
    assert metrics.DROPPED._value.get() == dropped + 47
    batch = other.entry()
    batch.events.append(unfit())
    await consumer.handle(0, [Entry("10-0", batch.SerializeToString())])
    assert len(await all_of(letters)) == 4, "others have their own"
    assert (await stamper.keep([batch])).stored_count == 0, "what can be stored is stored"


async def test_a_letter_ends_with_its_time_and_may_come_again(log: Log) -> None:
    refused = unfit()
    short = DeadLetters(log, kept_ms=1, bound=1, bound_of_visit=100)
    assert await put(short, refused) == 1

    async def is_gone() -> bool:
        return await short.of_event(refused.visit_id, refused.event_id) is None and await short.count() == (0, 0)

    await eventually(is_gone)
    assert await put(DeadLetters(log, kept_ms=DAY_MS, bound=1, bound_of_visit=100), refused) == 1


async def test_what_is_replayed_is_in_the_log_of_its_visit_and_no_longer_aside(
    redis_database_url: str, redis: Any
) -> None:
    log = Log(redis_database_url, PARTITIONS, 2_000)
    letters = DeadLetters(log, kept_ms=DAY_MS, bound=10, bound_of_visit=100)
    refused = unfit()
    await put(letters, refused)
    letter = await letters.of_event(refused.visit_id, refused.event_id)
    assert letter
    assert letter.batch
    mended = EventBatch(contexts=letter.batch.contexts, events=[logged(event("SignOut", new_uuid(), now_ms()))])
    moved_to = await letters.replace(letter, mended, "mended")
    assert await all_of(letters) == [moved_to]
    moved = await letters.find(moved_to)
    assert moved
    assert (moved.aside_ms, moved.reason) == (letter.aside_ms, "mended")

    assert not await letters.replay(letter._replace(id=moved_to, partition=moved.partition)), "it has been changed"
    assert await letters.replay(moved)
    assert not await letters.replay(moved)
    assert await all_of(letters) == []
    [(_, fields)] = await redis.xrange(f"log:{{p{partition(mended.events[0].visit_id, PARTITIONS):02d}}}")
    assert EventBatch.FromString(fields[b"b"]) == mended
    assert await redis.keys("aside*") == []
    await log.close()
