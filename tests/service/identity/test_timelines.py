"""Timelines in Redis equal the pure merge, in any order, repetition and concurrency."""

import asyncio
import random
from itertools import permutations
from typing import Any

import pytest
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.admitted import transition_of
from footfall_identity import metrics
from footfall_identity.partitions import Partitions
from footfall_identity.visit_record import Page, VisitUpdate, visit_updates
from footfall_identity.visitor_store import VisitorStore
from footfall_timeline import Assurance, Kind, State, Transition, identity_hash

from tests.service.identity.conftest import visitor_store
from tests.tools.identity import ERASURE_KEY, admitted, key, new_id, random_visit, resolve, timeline_of
from tests.tools.visits import now_ms, scattered


@pytest.mark.parametrize("seed", range(8))
async def test_parallel_merges_of_split_and_shuffled_visits_equal_the_pure_merge(
    store: VisitorStore, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    visits = [random_visit(chance, ["ann", "bob", "o'neil|7"]) for _ in range(4)]
    batches = scattered([event for visit in visits for event in visit], chance)
    await asyncio.gather(*(resolve(store, *batch) for batch in batches))
    records = await store.get(visit[0].visit_id for visit in visits)
    for events in visits:
        record = records[events[0].visit_id]
        assert record.timeline == timeline_of(events)
        assert (record.first_ms, record.last_ms) == (events[0].event_time_ms, events[-1].event_time_ms)
        assert record.url == max((event.event_time_ms, event.url) for event in events)[1]
        assert (record.site, record.global_visit_id) == (events[0].site, events[0].global_visit_id)


@pytest.mark.parametrize("order", [*permutations(range(3))])
async def test_a_visit_stays_one_of_staff_while_a_person_is_erased(store: VisitorStore, order: tuple[int, ...]) -> None:
    visit_id, at = new_id(), now_ms()
    erased = Transition(at, new_id(), Kind.SIGN_IN, Assurance.CLAIMED, "")
    updates = [
        VisitUpdate(visit_id, at, at, "default", at, transitions=[erased]),
        VisitUpdate(visit_id, at, at, "default", at, is_staff=True),
        VisitUpdate(visit_id, at, at, "default", at, page=Page(at, "https://shop.example/loans")),
    ]
    for number in order:
        await store.merge([updates[number]])
    record = (await store.get([visit_id]))[visit_id]
    assert (record.is_staff, record.url, record.timeline) == (True, "", (erased,))


async def test_the_smaller_of_two_events_with_one_id_is_kept(store: VisitorStore) -> None:
    visit_id, event_id, at = new_id(), new_id(), now_ms()
    entries = [admitted("SignIn", visit_id, at, user, event_id=event_id) for user in ("bob", "ann", "Émile", "ann|x")]
    for event in entries:
        await resolve(store, event)
    assert (await store.get([visit_id]))[visit_id].timeline == timeline_of(entries)
    assert timeline_of(entries)[0].identity == "ann"


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
async def test_the_smallest_transitions_are_kept_in_any_order(partitions: Partitions, seed: int, most: int) -> None:
    store = visitor_store(partitions, max_transitions=most)
    chance = random.Random(seed)  # noqa: S311
    visits = [with_copies(random_visit(chance, ["ann", "bob"]), chance) for _ in range(4)]
    await asyncio.gather(
        *(resolve(store, *batch) for batch in scattered([event for visit in visits for event in visit], chance))
    )
    records = await store.get(visit[0].visit_id for visit in visits)
    for events in visits:
        record, all_ = records[events[0].visit_id], timeline_of(events)
        assert record.timeline == all_[:most]
        assert record.is_truncated == (len(all_) > most)
        assert record.last_ms == max(event.event_time_ms for event in events)


def with_copies(events: list[Event], chance: random.Random) -> list[Event]:
    """Return the events, and for some a copy with another time and assurance."""
    copies: list[Event] = []
    for event in chance.sample(events, len(events) // 2):
        copy = Event()
        copy.CopyFrom(event)
        copy.event_time_ms += chance.randint(-3_000, 3_000)
        if event.identity_id:
            copy.assurance = event_pb2.ASSURANCE_PROVEN
            copy.transition = event_pb2.TRANSITION_KIND_SIGN_IN
            copy.token_id = chance.choice(["", "a" * 16, "b" * 16])
        copies.append(copy)
        if chance.random() < 0.5:  # again, with another token or without one
            copies.append(Event())
            copies[-1].CopyFrom(copy)
            copies[-1].token_id = chance.choice(["", "c" * 16])
    return events + copies


async def test_a_visit_with_too_many_transitions_is_marked_and_stays_small(partitions: Partitions, redis: Any) -> None:
    store, visit_id, at = visitor_store(partitions, max_transitions=50), new_id(), now_ms() - 60_000
    before = metrics.TIMELINES_TRUNCATED._value.get()
    events = [admitted("UserInfo", visit_id, at + number, f"user-{number}") for number in range(60)]
    for start in range(0, 60, 20):
        await resolve(store, *events[start : start + 20])
    record = (await store.get([visit_id]))[visit_id]
    assert (len(record.timeline), record.is_truncated, record.visit_state.attribution.identity) == (50, True, "user-49")
    assert metrics.TIMELINES_TRUNCATED._value.get() == before + 1

    name = f"{key('visit', visit_id)}:{visit_id}"
    size, commands = await redis.memory_usage(name, samples=0), await redis.xlen(key("changes", visit_id))
    for number in range(60, 2_060, 500):
        later = [admitted("UserInfo", visit_id, at + number + one, f"user-{number + one}") for one in range(500)]
        assert await resolve(store, *later) == []
    assert await redis.memory_usage(name, samples=0) == size
    assert await redis.xlen(key("changes", visit_id)) == commands
    assert await redis.exists(f"{key('person', visit_id)}:{identity_hash(ERASURE_KEY, 'user-2000').hex()}") == 0

    await resolve(store, admitted("SignIn", visit_id, at - 1, "ann"))  # arrives last, but is the earliest
    record = (await store.get([visit_id]))[visit_id]
    assert (len(record.timeline), record.timeline[0].identity, record.timeline[-1].identity) == (50, "ann", "user-48")


async def test_the_title_is_that_of_the_page_the_visitor_was_on_last(store: VisitorStore) -> None:
    visit_id, at, shop = new_id(), now_ms(), "https://shop.example"
    events = [
        admitted("PageEntered", visit_id, at, url=f"{shop}/loans", title="Loans"),
        admitted("AddToCart", visit_id, at + 1, url=f"{shop}/loans"),
        admitted("PageEntered", visit_id, at + 2, url=f"{shop}/cart"),
        admitted("PageExited", visit_id, at + 3, url=f"{shop}/loans"),
        admitted("SignOut", visit_id, at + 4, url=""),
    ]
    expected = ["Loans", "Loans", "", "Loans", "Loans"]
    for event, title in zip(events, expected, strict=True):
        await resolve(store, event)
        assert (await store.get([visit_id]))[visit_id].title == title


async def test_a_visit_of_the_first_version_is_read_and_continued(store: VisitorStore, redis: Any) -> None:
    visit_id, at, event_id, device = new_id(), now_ms(), new_id(), new_id()
    name = f"{key('visit', visit_id)}:{visit_id}"
    summary = f"{at}\n{at + 5}\n{at + 5}\n1\n{device}\nshop\nhttps://shop.example/a\nb"
    await redis.hset(name, mapping={"visit": summary, event_id: f"{at}|2|1|ann"})
    old = (await store.get([visit_id]))[visit_id]
    assert (old.rev, old.site, old.global_visit_id, old.url) == (1, "shop", device, "https://shop.example/a\nb")
    await resolve(store, admitted("SignOut", visit_id, at + 9, url="", global_visit_id="", site="shop"))
    new = (await store.get([visit_id]))[visit_id]
    assert (new.first_ms, new.last_ms, new.rev, new.url) == (at, at + 9, 2, old.url)
    assert new.timeline[0] == old.timeline[0]
    assert new.visit_state.attribution.state is State.RECOGNIZED


@pytest.mark.parametrize("token_id", ["", "a" * 16])
async def test_an_erased_marker_wins_over_the_entry_it_replaces(store: VisitorStore, redis: Any, token_id: str) -> None:
    visit_id = new_id()
    event = admitted("SignIn", visit_id, now_ms(), "ann")
    event.assurance, event.token_id = event_pb2.ASSURANCE_PROVEN, token_id
    [update] = visit_updates([(event, transition_of(event))])
    await store.merge([update])
    update.transitions = [t._replace(identity="") for t in update.transitions]
    assert await store.merge([update]) == {visit_id}
    record = (await store.get([visit_id]))[visit_id]
    assert record.timeline[0].is_erased
    assert await resolve(store, event) == []
    changes = await redis.xrange(key("changes", visit_id))
    assert b"ann" not in repr(changes[-1]).encode(), "the previous value is not stored"


async def test_only_visits_with_a_changed_timeline_are_returned(store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms()
    page, sign_in = admitted("PageEntered", visit_id, at), admitted("SignIn", visit_id, at + 1, "ann")
    assert await resolve(store, page) == []
    [record] = await resolve(store, page, sign_in)
    assert record.visit_state.attribution.state is State.AUTHENTICATED
    assert await resolve(store, page, sign_in) == []


async def test_what_a_large_batch_brings_is_merged_in_several_calls_of_the_script(
    store: VisitorStore, redis: Any
) -> None:
    visit_id, at = new_id(), now_ms()
    names = [f"{number:03d}" + "\U0001f408" * 200 for number in range(800)]
    events = [admitted("SignIn", visit_id, at + number, name) for number, name in enumerate(names)]
    [record] = await resolve(store, *events)
    assert [transition.identity for transition in record.timeline] == names
    assert record.rev == await redis.xlen(key("changes", visit_id)) == 4

    pages = [admitted("PageEntered", new_id(), at, url="https://shop.example/" + "x" * 8_000) for _ in range(90)]
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    await resolve(store, *pages)
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] - before > 90 * 8_000 / (32 * 1024)


async def test_each_change_is_in_the_stream_of_changes_once(store: VisitorStore, redis: Any) -> None:
    visit_id, at = new_id(), now_ms()
    sign_in, sign_out = admitted("SignIn", visit_id, at, "ann"), admitted("SignOut", visit_id, at + 1)
    for event in (sign_in, sign_out, sign_in, admitted("PageEntered", visit_id, at)):
        await resolve(store, event)
    changes = [fields for _, fields in await redis.xrange(key("changes", visit_id))]
    assert [set(fields) for fields in changes] == [
        {b"visit", b"rev", b"kinds", sign_in.event_id.encode()},  # the visit has begun
        {b"visit", b"rev", sign_out.event_id.encode()},
    ]


async def test_a_visit_is_live_by_when_its_last_event_happened(store: VisitorStore, redis: Any) -> None:
    live, idle, now = new_id(), new_id(), now_ms()
    await resolve(store, admitted("PageEntered", live, now), admitted("PageEntered", idle, now - 31 * 60_000))
    assert await redis.zscore(f"{key('live', live)}:anonymous", live) == now
    assert await redis.zscore(f"{key('live', idle)}:anonymous", idle) is None
    await resolve(store, admitted("SignIn", live, now - 5, "ann"))
    assert await redis.zscore(f"{key('live', live)}:anonymous", live) is None
    assert await redis.zscore(f"{key('live', live)}:known", live) == now


@pytest.mark.parametrize("token_id", ["", "a" * 16])
async def test_events_before_a_tombstone_name_no_identity(store: VisitorStore, redis: Any, token_id: str) -> None:
    visit_id, erased_at = new_id(), now_ms()
    person = identity_hash(ERASURE_KEY, "ann").hex()
    await redis.hset(key("tombstones", visit_id), person, f"{erased_at:013d}")
    event = admitted("SignIn", visit_id, erased_at, "ann")
    event.assurance, event.token_id = event_pb2.ASSURANCE_PROVEN, token_id
    await resolve(store, event)
    assert not await redis.exists(f"{key('person', visit_id)}:{person}")
    [record] = await resolve(store, admitted("SignIn", visit_id, erased_at + 1, "ann"))
    assert [(t.kind, t.identity) for t in record.timeline] == [(Kind.SIGN_IN, ""), (Kind.SIGN_IN, "ann")]
    values = await redis.xrange(key("changes", visit_id))
    assert b"ann" not in repr(values[0]).encode()
