"""How long live state keeps visits: all of a known visit's timeline, and the rest only while the visit is recent."""

import random
from typing import Any

import pytest
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import REFRESH_MS, VisitorStore
from footfall_timeline import State, identity_hash

from tests.service.identity.conftest import visitor_store
from tests.tools.eventually import eventually
from tests.tools.identity import (
    DAY_MS,
    ERASURE_KEY,
    IDLE_MS,
    KEEP_MS,
    SHORT_MS,
    admitted,
    key,
    new_id,
    random_visit,
    resolve,
    timeline_of,
)
from tests.tools.visits import now_ms, scattered

A_SECOND_MS = 1_000
LONG_URL = "https://shop.example/loans?" + "x" * 2_000


def name_of(visit_id: str) -> str:
    return f"{key('visit', visit_id)}:{visit_id}"


async def remove_expired(partitions: Partitions, **settings: int) -> None:
    """Remove what a store with these settings would not keep."""
    for number in partitions.numbers:
        await visitor_store(partitions, **settings).remove_expired(number)


async def test_timeline_and_index_outlive_the_last_update_by_the_retention(store: VisitorStore, redis: Any) -> None:
    visit_id = new_id()
    name = name_of(visit_id)
    person = f"{key('person', visit_id)}:{identity_hash(ERASURE_KEY, 'ann').hex()}"
    await resolve(store, admitted("SignIn", visit_id, now_ms(), "ann"))
    for _ in range(2):
        assert KEEP_MS <= await redis.pttl(name) <= KEEP_MS + REFRESH_MS
        assert await redis.pttl(person) > await redis.pttl(name)
        assert await redis.zrange(person, 0, -1) == [visit_id.encode()]
        # A week later; the identity is not named again.
        await redis.pexpire(name, DAY_MS)
        await redis.delete(person)
        await resolve(store, admitted("PageEntered", visit_id, now_ms()))


async def test_an_anonymous_visit_is_gone_two_hours_after_its_last_event(store: VisitorStore, redis: Any) -> None:
    visit_id, before = new_id(), now_ms()
    name = name_of(visit_id)

    async def left_after(*events: Any) -> int:
        await resolve(store, *events)
        return int(await redis.pttl(name))

    hour_ago = before - SHORT_MS // 2
    assert abs(await left_after(admitted("PageEntered", visit_id, hour_ago)) - SHORT_MS // 2) < A_SECOND_MS
    left = await left_after(admitted("PageEntered", visit_id, before))
    assert SHORT_MS - A_SECOND_MS < left <= SHORT_MS
    await redis.pexpire(name, SHORT_MS - IDLE_MS)
    assert await left_after(admitted("PageEntered", visit_id, before)) <= SHORT_MS - IDLE_MS, "enough is left"
    await redis.pexpire(name, KEEP_MS)  # as an earlier version leaves it
    assert await left_after(admitted("PageEntered", visit_id, before)) <= SHORT_MS
    assert await left_after(admitted("SignIn", visit_id, before, "ann")) >= KEEP_MS


async def test_an_anonymous_visit_of_long_ago_is_not_stored(
    store: VisitorStore, partitions: Partitions, redis: Any
) -> None:
    visit_id, at = new_id(), now_ms() - SHORT_MS - 1
    await resolve(store, admitted("PageEntered", visit_id, at))
    assert not await redis.exists(name_of(visit_id))

    await resolve(visitor_store(partitions, short_retention_ms=KEEP_MS), admitted("PageEntered", visit_id, at))
    assert await redis.pttl(name_of(visit_id)) > SHORT_MS, "as an earlier version stores it"
    await resolve(store, admitted("PageEntered", visit_id, at))
    assert not await redis.exists(name_of(visit_id))


async def test_a_visit_that_comes_back_after_its_expiry_begins_again(partitions: Partitions, redis: Any) -> None:
    store, visit_id, at = visitor_store(partitions, idle_ms=100, short_retention_ms=300), new_id(), now_ms()
    await resolve(store, admitted("PageEntered", visit_id, at, site="first", received_time_ms=at))

    async def is_gone() -> None:
        assert not await redis.exists(name_of(visit_id))

    await eventually(is_gone)
    sign_in = admitted("SignIn", visit_id, at - 5, "ann", site="second", received_time_ms=at + 300)
    await resolve(store, sign_in)
    record = (await store.get([visit_id]))[visit_id]
    assert (record.first_ms, record.last_ms, record.site) == (at - 5, at - 5, "second")
    assert record.visit_state.attribution.state is State.AUTHENTICATED


@pytest.mark.parametrize("seed", range(3))
async def test_timelines_do_not_depend_on_how_long_anonymous_visits_are_kept(
    partitions: Partitions, redis: Any, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    store = visitor_store(partitions, idle_ms=1, short_retention_ms=2)
    visits = [random_visit(chance, ["ann", "bob"]) for _ in range(5)]
    visits.append([admitted("PageEntered", new_id(), now_ms() - 60_000)])
    for batch in scattered([event for visit in visits for event in visit], chance):
        await resolve(store, *batch)
        await remove_expired(partitions, idle_ms=1, short_retention_ms=2)
    records = await store.get(visit[0].visit_id for visit in visits)
    for events in visits:
        record = records.get(events[0].visit_id)
        assert (record.timeline if record else ()) == timeline_of(events)
        assert record is None or (record.url, record.title, record.global_visit_id) == ("", "", "")


async def test_a_known_visit_keeps_its_page_for_two_hours(
    store: VisitorStore, partitions: Partitions, redis: Any
) -> None:
    visit_id, at = new_id(), now_ms()
    name, live = name_of(visit_id), f"{key('live', visit_id)}:known"
    page = admitted("PageEntered", visit_id, at, url=LONG_URL, title="Loans")
    await resolve(store, admitted("SignIn", visit_id, at - 9, "ann"), page)
    await remove_expired(partitions)
    before = (await store.get([visit_id]))[visit_id]
    assert (before.url, before.title, before.global_visit_id) == (LONG_URL, "Loans", page.global_visit_id)
    assert (await redis.zcard(live), await redis.object("ENCODING", name)) == (1, b"hashtable")

    left = await redis.pttl(name)
    await remove_expired(partitions, short_retention_ms=-A_SECOND_MS)
    after = (await store.get([visit_id]))[visit_id]
    assert (after.url, after.title, after.global_visit_id) == ("", "", "")
    assert (after.timeline, after.first_ms, after.last_ms) == (before.timeline, before.first_ms, before.last_ms)
    assert (await redis.zcard(live), await redis.object("ENCODING", name)) == (0, b"listpack")
    assert left - 60_000 < await redis.pttl(name) <= left

    two_hours_later = visitor_store(partitions, short_retention_ms=-A_SECOND_MS)
    await resolve(two_hours_later, admitted("PageEntered", visit_id, at - 5))
    assert (await store.get([visit_id]))[visit_id].url == "", "a late event brings no page back"
    await resolve(store, admitted("PageEntered", visit_id, at + 5))
    assert (await store.get([visit_id]))[visit_id].url == "https://shop.example/loans"
    assert await redis.zcard(live) == 1


async def test_changes_and_live_visits_expire_without_further_merges(
    store: VisitorStore, partitions: Partitions, redis: Any
) -> None:
    sign_in, page = admitted("SignIn", new_id(), now_ms(), "ann"), admitted("PageEntered", new_id(), now_ms())
    await resolve(store, sign_in, page)
    number = partitions.number_of(sign_in.visit_id)
    keys = partitions.keys[number]
    lists = (keys.live_known, f"{key('live', page.visit_id)}:anonymous")
    changes = 1 + (partitions.number_of(page.visit_id) == number)
    await remove_expired(partitions)
    assert (await redis.xlen(keys.changes), [await redis.zcard(name) for name in lists]) == (changes, [1, 1])
    _, last = await store.change_bounds(number)
    await redis.delete(name_of(sign_in.visit_id))

    a_minute_later = {"retention_ms": -60_000, "idle_ms": -60_000, "short_retention_ms": -60_000}
    await remove_expired(partitions, **a_minute_later)
    assert (await redis.xlen(keys.changes), [await redis.zcard(name) for name in lists]) == (0, [0, 0])
    assert await store.change_bounds(number) == (last, last), "a client that has seen less cannot resume"


async def test_a_known_visit_takes_at_most_300_bytes(store: VisitorStore, partitions: Partitions, redis: Any) -> None:
    visits, at = [new_id() for _ in range(100)], now_ms()
    url = "https://shop.example/loans/cars/compare?make=volvo&page=3&sort=price-ascending"
    for visit_id in visits:
        page = admitted("PageEntered", visit_id, at, url=url, title="Compare cars")
        await resolve(store, page, admitted("SignIn", visit_id, at, f"{visit_id[:8]}@mail.example"))
    await remove_expired(partitions, short_retention_ms=-A_SECOND_MS)
    used = [await redis.memory_usage(name_of(visit_id), samples=0) for visit_id in visits]
    assert sum(used) / len(visits) <= 300
