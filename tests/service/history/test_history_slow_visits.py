"""Visits that take much effort are deferred, so that others do not wait, and are stored and erased nevertheless.

For the consumer of these tests a visit with more than five transitions is slow.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall_eventlog.stream import Entry
from footfall_history import metrics
from footfall_history.consumer_lag import ConsumerLag
from footfall_history.event_log import EventLog
from footfall_history.ingest.attribution import Attributor, EffortLimit, StoreResult
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.ingest.slow_visits import SlowVisits, SlowVisitsFullError
from footfall_history.storage.store import Store
from footfall_timeline import identity_hash
from pymongo.errors import ConnectionFailure

from tests.service.history.conftest import ERASURE_KEY, Listener
from tests.service.history.test_history_attribution import assert_attributed_right
from tests.service.history.test_history_erasure import is_anywhere
from tests.tools.eventually import eventually
from tests.tools.history import entry
from tests.tools.stories import Story
from tests.tools.visits import Event, event, now_ms, random_visit, scattered

ConsumerWith = Callable[..., LogConsumer]


def logged(number: int, *batches: EventBatch) -> list[Entry]:
    return [Entry(f"{number}-{each}", batch.SerializeToString()) for each, batch in enumerate(batches)]


def sign_ins(count: int, name: str = "person", visit: str | None = None) -> list[Event]:
    visit_id, at_ms = visit or str(uuid.uuid4()), now_ms() - 3_600_000
    return [event("SignIn", visit_id, at_ms + number, f"{name}-{number}") for number in range(count)]


async def count_of(store: Store, visit_id: str) -> int:
    return await store.events.count_documents({"visit_id": visit_id})


@asynccontextmanager
async def handled(slow: SlowVisits, consumer: LogConsumer) -> AsyncIterator[None]:
    """Handle slow visits within the block."""
    running = asyncio.create_task(slow.run(0, consumer.handle_slow))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def waiting(redis: Any) -> int:
    """The size of the queued batches in bytes."""
    return int(await redis.get("slow:{p00}:bytes") or 0)


async def is_all_handled(redis: Any) -> bool:
    return not [key async for key in redis.scan_iter("slow:*") if key != b"slow:{p00}:bytes"]


async def test_reattribution_costs_about_as_much_as_storing(
    attributor: Attributor, store: Store, listener: Listener
) -> None:
    events, costs = sign_ins(40, "\N{GRINNING FACE}" * 500), []
    for part in (events[20:], events[:20]):  # after the second the first is attributed again
        listener.commands.clear()
        listener.answered = 0
        await attributor.store([entry(part)])
        costs.append((sum(len(str(command)) for command in listener.commands), listener.answered))
    (first_sent, _), (sent, read) = costs
    assert sent < 4 * first_sent
    assert read < 2 * len(events)
    updates = [
        update
        for command in listener.commands
        if command.get("update") == store.events.name
        for update in command["updates"]
    ]
    assert sum(len(update["q"]["order_key"]["$in"]) for update in updates) == 20
    await assert_attributed_right(store, events)


async def test_a_long_visit_is_deferred_and_stored_after_the_others(
    consumer_with: ConsumerWith, slow: SlowVisits, store: Store, redis: Any
) -> None:
    consumer = consumer_with()
    long, story, stored = sign_ins(20), Story("dana"), metrics.STORED._value.get()
    await consumer.handle(0, logged(1, entry(long[:10] + long[:2]), story.entry(), entry(long[10:])))
    assert (await count_of(store, story.visit_id), await count_of(store, long[0]["visitID"])) == (7, 0)
    assert metrics.STORED._value.get() == stored + 7
    async with handled(slow, consumer):
        await eventually(lambda: is_all_handled(redis))
    await assert_attributed_right(store, long)
    assert metrics.STORED._value.get() == stored + 27
    assert await waiting(redis) == 0


async def test_every_event_of_a_long_visit_is_deferred(consumer_with: ConsumerWith, store: Store, redis: Any) -> None:
    long = sign_ins(7)
    for number, one in enumerate(long):
        await consumer_with().handle(0, logged(number, entry([one])))
    assert await count_of(store, long[0]["visitID"]) == 5
    assert await waiting(redis) > 0


async def test_a_late_sign_in_with_many_events_to_reattribute_is_deferred(
    consumer_with: ConsumerWith, slow: SlowVisits, store: Store, redis: Any
) -> None:
    consumer, visit_id, at_ms = consumer_with(), str(uuid.uuid4()), now_ms() - 3_600_000
    events = [event("AddToCart", visit_id, at_ms + number) for number in range(100)]
    await consumer.handle(0, logged(1, entry(events)))
    late = event("SignIn", visit_id, at_ms - 1, "dana")
    await consumer.handle(0, logged(2, entry([late])))
    assert not await is_all_handled(redis)
    async with handled(slow, consumer):
        await eventually(lambda: is_all_handled(redis))
    await assert_attributed_right(store, [late, *events])


@pytest.mark.parametrize("seed", range(3))
async def test_visits_split_between_both_paths_converge(
    consumer_with: ConsumerWith, slow: SlowVisits, store: Store, redis: Any, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable
    visits = [random_visit(chance) for _ in range(6)]
    arriving = [entry(beacon) for visit in visits for beacon in scattered(visit, chance)]
    chance.shuffle(arriving)
    consumer = consumer_with(effort_limit=EffortLimit(3, 3))
    async with handled(slow, consumer), handled(slow, consumer):
        for number in range(0, len(arriving), 4):
            await consumer.handle(0, logged(number, *arriving[number : number + 4]))
        await eventually(lambda: is_all_handled(redis), timeout=20)
    for visit in visits:
        await assert_attributed_right(store, visit)


class FailingAttributor(Attributor):
    """Fails for batches with events of one visit."""

    failing = ""

    async def store(self, batches: Any, effort_limit: EffortLimit | None = None) -> StoreResult:
        batches = list(batches)
        if any(each.visit_id == self.failing for batch in batches for each in batch.events):
            raise ValueError("a visit that cannot be stored")
        return await super().store(batches, effort_limit)


async def test_a_visit_that_keeps_failing_is_deferred_and_stored_later(
    consumer_with: ConsumerWith,
    slow: SlowVisits,
    *,
    store: Store,
    tombstones: Any,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing, story = Story("ann"), Story("dana")
    attributor = FailingAttributor(store, tombstones, max_transitions=1_000)
    attributor.failing = failing.visit_id
    consumer = consumer_with(attributor=attributor)
    monkeypatch.setattr(
        "footfall_history.ingest.consumer._EVENTS_PER_BATCH", 1
    )  # so that the other visit is stored separately
    entries = logged(1, story.entry(), failing.entry())
    with pytest.raises(ValueError, match="cannot be stored"):
        await consumer.handle(0, entries)
    await consumer.handle(0, entries)  # the second attempt is the last
    async with handled(slow, consumer):

        async def is_stored() -> bool:
            return await count_of(store, story.visit_id) == 7

        await eventually(is_stored)
        assert await count_of(store, failing.visit_id) == 0
        attributor.failing = ""
        await eventually(lambda: is_all_handled(redis))
    assert await count_of(store, failing.visit_id) == 7


async def test_no_visit_is_deferred_while_mongodb_is_unavailable(
    consumer_with: ConsumerWith, store: Store, tombstones: Any, redis: Any
) -> None:
    story = Story("ann")
    attributor = FailingAttributor(store, tombstones, max_transitions=1_000)
    attributor.failing = story.visit_id

    async def is_away() -> None:
        raise ConnectionFailure

    consumer = consumer_with(attributor=attributor, check_store=is_away)
    for _ in range(5):
        with pytest.raises((ValueError, ConnectionFailure)):
            await consumer.handle(0, logged(1, story.entry()))
    assert await is_all_handled(redis)


async def test_with_a_full_queue_the_log_is_not_read_and_nothing_is_queued_twice(
    consumer_with: ConsumerWith, log: EventLog, store: Store, redis: Any
) -> None:
    slow = SlowVisits(log, max_bytes=1)  # or one batch, however large
    consumer = consumer_with(slow=slow)
    first, second = sign_ins(10), sign_ins(10)
    await consumer.handle(0, logged(1, entry(first)))
    size = await waiting(redis)
    for _ in range(2):
        with pytest.raises(SlowVisitsFullError):
            await consumer.handle(0, logged(2, entry(second)))
    assert await waiting(redis) == size
    async with handled(slow, consumer):
        await eventually(lambda: is_all_handled(redis))
        await consumer.handle(0, logged(2, entry(second)))
        await eventually(lambda: is_all_handled(redis))
    for visit in (first, second):
        await assert_attributed_right(store, visit)


async def test_two_processes_remove_only_batches_they_have_handled(slow: SlowVisits, redis: Any) -> None:
    """A lease ends while its process still works, another process leases the visit, and a batch arrives meanwhile."""
    one, two, three = (entry(sign_ins(1)) for _ in range(3))
    for batch in (one, two):
        await slow.put(0, [("a visit", batch)])
    late = await slow._lease(0)
    assert late
    assert late.batches == [one, two]
    assert await slow._lease(0) is None
    await redis.zadd("slow:{p00}", {"a visit": now_ms()})  # the lease ends
    await asyncio.sleep(0.002)
    again = await slow._lease(0)
    assert again
    await slow.put(0, [("a visit", three)])
    await slow._release(0, again, None)
    await slow._release(0, late, None)
    await asyncio.sleep(0.002)
    last = await slow._lease(0)
    assert last
    assert last.batches == [three]


async def test_an_identity_erased_while_events_are_deferred_is_in_none_of_them(
    consumer_with: ConsumerWith, slow: SlowVisits, *, store: Store, redis: Any
) -> None:
    consumer, person = consumer_with(), f"{uuid.uuid4()}@shop.example"
    story, long, late = Story(person), sign_ins(10), now_ms() - 60_000
    visit_id = long[0]["visitID"]
    long += [event("SignIn", visit_id, late, person), event("AddToCart", visit_id, late + 1, data={"to": person})]
    await consumer.handle(0, logged(1, entry(long), story.entry()))
    erasure = Erasure(
        identity_hash=identity_hash(ERASURE_KEY, person), erase_time_ms=now_ms(), erasure_id=str(uuid.uuid4())
    )
    await consumer.handle(0, logged(2, EventBatch(erasure=erasure)))
    assert await store.tombstones([erasure.identity_hash.hex()]), (
        "the tombstone is stored before the next entry is read"
    )
    await consumer.handle(0, logged(3, story.entry()))
    async with handled(slow, consumer):
        await eventually(lambda: is_all_handled(redis))
    assert await count_of(store, visit_id) == 12
    assert not await is_anywhere(store, person)


async def test_lag_is_measured_and_logged_above_the_limit(
    log: EventLog, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    consumer_lag = ConsumerLag(log, limit_s=5)
    await consumer_lag.update()
    old = f"{now_ms() - 60_000}-0"
    await redis.xadd("log:{p00}", {"b": b""}, id=old)
    await redis.xgroup_create("log:{p00}", "history", id="0")
    await consumer_lag.update()
    assert 59 < metrics.LAG_SECONDS._value.get() < 90
    await redis.xreadgroup("history", "consumer", {"log:{p00}": ">"})
    await consumer_lag.update()
    assert 59 < metrics.LAG_SECONDS._value.get() < 90
    await redis.xack("log:{p00}", "history", old)
    await consumer_lag.update()
    assert metrics.LAG_SECONDS._value.get() == 0
    said = capsys.readouterr().out
    assert said.count("history is behind the log") == 1
    assert said.count("history is no longer behind the log") == 1
