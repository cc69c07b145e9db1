"""Lists of live visitors: their order, filters and cost, and pages while visitors act."""

import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.live_lists import LiveLists, Position
from footfall_identity.live_visitors import LiveVisitors, VisitorFilter
from footfall_identity.partitions import Partitions
from footfall_identity.presence import Presence
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore
from footfall_timeline import State, identity_hash

from tests.service.identity.conftest import visitor_store
from tests.tools.identity import ERASURE_KEY, LEAVE_MS, admitted, new_id, random_visit, resolve
from tests.tools.visits import now_ms, scattered

MINUTE_MS = 60_000
DEVICES = [new_id() for _ in range(3)]


def live_visitors(partitions: Partitions, store: VisitorStore) -> LiveVisitors:
    return LiveVisitors(store, LiveLists(partitions, store))


@pytest.fixture
def live(partitions: Partitions, store: VisitorStore) -> LiveVisitors:
    """The lists of this test."""
    return live_visitors(partitions, store)


async def sweep(partitions: Partitions, store: VisitorStore) -> None:
    for number in partitions.numbers:
        await store.remove_expired(number)


async def pages(live: LiveVisitors, wanted: VisitorFilter, size: int) -> AsyncIterator[list[VisitRecord]]:
    """Yield all pages of a listing."""
    below: Position | None = None
    while True:
        page = await live.page(wanted, below, size)
        assert len(page.visits) <= size
        yield page.visits
        below = page.below
        if below is None:
            return


async def listed(live: LiveVisitors, size: int = 100, **conditions: Any) -> list[str]:
    """Return all visits that a listing has, in its order."""
    return [one.visit_id async for page in pages(live, VisitorFilter(**conditions), size) for one in page]


def in_order(records: Iterable[VisitRecord]) -> list[str]:
    return [visit_id for _, visit_id in sorted(((one.first_ms, one.visit_id) for one in records), reverse=True)]


def random_events(chance: random.Random) -> list[Event]:
    """Return the events of one visit, of one site, device and page. The visitor may have left, the visit have ended."""
    minutes_ago = chance.choice([0, chance.randint(2, 28), chance.randint(32, 100)])
    visit_id, at = new_id(), now_ms() - minutes_ago * MINUTE_MS - chance.randint(0, 1)
    fields = {"site": chance.choice("xyz"), "global_visit_id": chance.choice(DEVICES), "page_id": new_id()}
    names = chance.choices(["PageEntered", "UserInfo", "SignIn", "SignOut"], [5, 1, 1, 1], k=chance.randint(1, 4))
    names = [*chance.choice([[], ["PageExited"]]), *names]
    users = [chance.choice(["ann", "bob"]) if name in {"UserInfo", "SignIn"} else "" for name in names]
    of_staff = chance.choices([event_pb2.STAFF_REASON_UNSPECIFIED, event_pb2.STAFF_REASON_SITE], [5, 1], k=len(names))
    return [
        admitted(name, visit_id, at - n, users[n], staff_reason=of_staff[n], **fields) for n, name in enumerate(names)
    ]


@pytest.mark.parametrize("size", [2, 50])
async def test_each_filter_lists_each_matching_visit_once_latest_start_first(partitions: Partitions, size: int) -> None:
    chance = random.Random(size)  # noqa: S311
    store = visitor_store(partitions, leave_ms=MINUTE_MS)
    without_key = visitor_store(partitions, leave_ms=MINUTE_MS, erasure_secret="")
    both = [live_visitors(partitions, one) for one in (store, without_key)]
    visits = [random_events(chance) for _ in range(80)]
    for batch in scattered([event for visit in visits for event in visit], chance):
        await resolve(store, *batch)
        if chance.random() < 0.1:
            await sweep(partitions, store)
    await sweep(partitions, store)
    # A visit without a timeline is not listed after its end.
    known = (await store.get(visit[0].visit_id for visit in visits)).values()
    records = [one for one in known if one.timeline or one.presence is not Presence.ENDED]
    marked = {event.visit_id for visit in visits for event in visit if event.staff_reason}
    assert {one.visit_id for one in records if one.is_staff} == marked & {one.visit_id for one in records}
    assert len({(one.visit_state.attribution.state, one.presence) for one in records}) >= 7
    for _ in range(25):
        wanted = VisitorFilter(
            states=chance.choice([None, frozenset(chance.sample(list(State), chance.randint(0, 2)))]),
            presences=chance.choice([None, frozenset(chance.sample(list(Presence), chance.randint(1, 2)))]),
            sites=chance.choice([None, frozenset(chance.sample("xyz", chance.randint(0, 2)))]),
            identities=chance.choice(
                [None, None, frozenset(chance.sample(["ann", "bob", "eve"], chance.randint(0, 2)))]
            ),
            global_visit_id=chance.choice(["", "", *DEVICES]),
            is_staff=chance.choice([None, None, False, True]),
        )
        expected = in_order(one for one in records if wanted.matches(one))
        for live in both:
            found = [one.visit_id async for page in pages(live, wanted, size) for one in page]
            assert found == expected, wanted


@pytest.mark.parametrize("seed", range(3))
async def test_no_visitor_who_acts_between_pages_is_missed_or_listed_twice(
    store: VisitorStore, live: LiveVisitors, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    start = now_ms() - 20 * MINUTE_MS
    visits = {new_id(): start + chance.choice([0, 1, number]) for number in range(90)}
    await resolve(store, *(admitted("PageEntered", visit_id, at) for visit_id, at in visits.items()))
    found: list[str] = []
    async for page in pages(live, VisitorFilter(), 7):
        found += [one.visit_id for one in page]
        for visit_id in chance.sample([*visits], 20):
            name = chance.choice(["PageEntered", "UserInfo", "SignIn", "SignOut"])
            await resolve(store, admitted(name, visit_id, now_ms(), "ann" if name in {"UserInfo", "SignIn"} else ""))
        await resolve(store, admitted("PageEntered", new_id(), now_ms()))  # has come after the first page
    assert sorted(found) == sorted(visits)


@pytest.mark.parametrize("seed", range(3))
async def test_the_lists_know_the_state_that_follows_from_any_timeline(
    partitions: Partitions, store: VisitorStore, live: LiveVisitors, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    people = ["ann", "bob"]
    visits = [random_visit(chance, people, length=chance.randint(1, 12)) for _ in range(20)]
    events = [event for visit in visits for event in visit]
    for event in events:
        if event.event_name == "SignIn" and chance.random() < 0.5:
            event.assurance, event.token_id = event_pb2.ASSURANCE_PROVEN, chance.choice(["1" * 16, "2" * 16])
    for batch in scattered(events, chance):
        await resolve(store, *batch)
        if chance.random() < 0.1:
            hashed = identity_hash(ERASURE_KEY, chance.choice(people)).hex()
            for number in partitions.numbers:
                await IdentityIndex(partitions, store).erase(number, hashed, now_ms() - 300_000)
    records = (await store.get(visit[0].visit_id for visit in visits)).values()
    for state in State:
        expected = in_order(one for one in records if one.visit_state.attribution.state is state)
        assert await listed(live, states=frozenset([state])) == expected


async def test_a_visit_of_many_transitions_is_listed_in_its_state_and_merged_as_fast(
    store: VisitorStore, live: LiveVisitors, redis: Any
) -> None:
    at, visit_id = now_ms(), new_id()
    few, many = (
        admitted("UserInfo", new_id(), at, "ann"),
        [admitted("UserInfo", visit_id, at - n, "ann") for n in range(900)],
    )
    await resolve(store, *many[1:], few)

    async def microseconds(of_visit: str) -> int:
        await redis.config_resetstat()
        for number in range(10):
            await resolve(store, admitted("UserInfo", of_visit, at + number, "ann"))
        return int((await redis.info("commandstats"))["cmdstat_evalsha"]["usec"])

    assert await listed(live, states=frozenset([State.RECOGNIZED])) == [few.visit_id, visit_id]
    assert await microseconds(visit_id) < 10 * await microseconds(few.visit_id)
    await resolve(store, admitted("SignIn", visit_id, at + 99, "ann"))
    assert await listed(live, states=frozenset([State.AUTHENTICATED])) == [visit_id]
    assert await listed(live, states=frozenset([State.RECOGNIZED])) == [few.visit_id]


async def test_a_visitor_who_comes_back_is_listed_although_clocks_of_processes_differ(
    partitions: Partitions, store: VisitorStore, live: LiveVisitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, visit_id, page_id = now_ms() - LEAVE_MS + 1_000, new_id(), new_id()
    for n, name in enumerate(("PageEntered", "PageExited")):
        await resolve(store, admitted(name, visit_id, at - 10 + n, page_id=page_id))
    with monkeypatch.context() as ahead:
        ahead.setattr("footfall_identity.visitor_store.now_ms", lambda: now_ms() + 2_000)
        await sweep(partitions, store)
    await resolve(store, admitted("PageEntered", visit_id, now_ms(), page_id=new_id()))
    assert await listed(live, presences=frozenset([Presence.PRESENT])) == [visit_id]


async def test_any_number_of_visits_may_have_the_same_start(store: VisitorStore, live: LiveVisitors) -> None:
    at, visits = now_ms(), [new_id() for _ in range(350)]
    await resolve(store, *(admitted("PageEntered", visit_id, at) for visit_id in visits))
    assert await listed(live, 30) == sorted(visits, reverse=True)


async def test_a_filter_costs_what_it_finds(
    partitions: Partitions, store: VisitorStore, live: LiveVisitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, device = now_ms(), new_id()
    many = [admitted("PageEntered", new_id(), at - n, site="big") for n in range(1_000)]
    many += [admitted("UserInfo", new_id(), at - n, f"person-{n}", site="big") for n in range(1_000)]
    rare = [admitted("SignIn", new_id(), at - 9_000 - n, "ann", site="small", global_visit_id=device) for n in range(3)]
    left = [
        admitted(name, f"{n:08}{device[8:]}", at - n - 60_000, page_id=device)
        for n in range(1_000)
        for name in ("PageEntered", "PageExited")
    ]
    for event in left[1::2]:
        event.event_time_ms += 1
    await resolve(store, *left[:1_000], *many, *rare)
    await sweep(partitions, store)
    await resolve(store, *left[1_000:])
    read: list[str] = []
    get = store.get

    async def counted(visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        wanted = [*visit_ids]
        read.extend(wanted)
        return await get(wanted)

    monkeypatch.setattr(store, "get", counted)
    for conditions in (
        {"states": frozenset([State.AUTHENTICATED])},
        {"sites": frozenset(["small"])},
        {"identities": frozenset(["ann"])},
        {"global_visit_id": device},
    ):
        read.clear()
        assert sorted(await listed(live, 50, **conditions)) == sorted(event.visit_id for event in rare)
        assert len(read) == len(rare), conditions
    read.clear()
    assert len(await listed(live, 50, presences=frozenset([Presence.PRESENT]))) == 2_003
    assert len(read) <= 2_003 + 41  # one more a page, to see whether there is another
    read.clear()
    assert len(await listed(live, 50, presences=frozenset([Presence.LEFT]))) == 1_000
    assert len(read) <= 1_000 + 20


async def test_all_who_have_left_are_listed_also_those_of_one_time(
    store: VisitorStore, live: LiveVisitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_identity.visitor_store._LEFT_PER_CALL", 2)
    at, visits = now_ms(), [new_id() for _ in range(40)]
    for name, ms in (("PageEntered", -1), ("PageExited", 0)):
        exits = enumerate(visits)
        await resolve(store, *(admitted(name, one, at + ms - n // 20 * n, page_id=one) for n, one in exits))
    left = frozenset([Presence.LEFT])
    assert await listed(live, presences=left) == []
    monkeypatch.setattr("footfall_identity.visitor_store.now_ms", lambda: now_ms() + LEAVE_MS)
    assert sorted(await listed(live, presences=left)) == sorted(visits)
    await resolve(store, admitted("PageEntered", visits[0], now_ms() + LEAVE_MS, page_id=new_id()))
    assert sorted(await listed(live, presences=left)) == sorted(visits[1:])


async def test_a_sweep_looks_at_each_ended_visit_once(partitions: Partitions, monkeypatch: pytest.MonkeyPatch) -> None:
    store = visitor_store(partitions, idle_ms=MINUTE_MS)
    monkeypatch.setattr("footfall_identity.visitor_store._ENDED_PER_CALL", 2)
    at, visits = now_ms() - 20_000, [new_id() for _ in range(40)]
    await resolve(store, *(admitted("SignIn", one, at - n // 20 * n, "ann") for n, one in enumerate(visits)))
    calls: list[Any] = []
    end_visits = store._end_script

    async def counted(number: int, keys: Any, arguments: Any) -> Any:
        answer = await end_visits(number, keys, arguments)
        calls.append(answer)
        return answer

    monkeypatch.setattr(store, "_end_script", counted)
    monkeypatch.setattr("footfall_identity.visitor_store.now_ms", lambda: now_ms() + MINUTE_MS)
    await sweep(partitions, store)
    ended = await listed(live_visitors(partitions, store), presences=frozenset([Presence.ENDED]))
    assert sorted(ended) == sorted(visits)
    calls.clear()
    await sweep(partitions, store)
    assert calls == [[0, 0, 0]] * len(partitions.numbers)


async def test_a_page_of_many_sites_reads_little_more_than_one_of_one_site(
    partitions: Partitions, store: VisitorStore, live: LiveVisitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, sites = now_ms(), [f"site-{n}" for n in range(100)]
    chance = random.Random(1)  # noqa: S311
    events = [admitted("PageEntered", new_id(), at - n // 3, site=chance.choice(sites)) for n in range(3_000)]
    await resolve(store, *events)
    expected = in_order((await store.get(event.visit_id for event in events)).values())
    read: list[int] = []
    list_visits = live._lists._list_visits

    async def counted(number: int, keys: Any, arguments: Any) -> Any:
        answer = await list_visits(number, keys, arguments)
        read.append(len(answer) // 2)
        return answer

    monkeypatch.setattr(live._lists, "_list_visits", counted)
    page = await live.page(VisitorFilter(sites=frozenset(sites)), None, 20)
    assert [one.visit_id for one in page.visits] == expected[:20]
    assert sum(read) < len(partitions.numbers) * 20 * 10
    assert await listed(live, 500, sites=frozenset(sites)) == expected


async def test_a_page_examines_a_limited_number_of_visits(
    store: VisitorStore, live: LiveVisitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_identity.live_visitors.MAX_EXAMINED", 100)
    at = now_ms()
    wanted = admitted("SignIn", new_id(), at - 10_000, "ann")
    await resolve(store, *(admitted("SignIn", new_id(), at - n, "bob") for n in range(400)), wanted)
    without_key = LiveVisitors(store, live._lists)
    monkeypatch.setattr(VisitorStore, "indexes_identities", False)
    of_ann = VisitorFilter(identities=frozenset(["ann"]))
    found = [page async for page in pages(without_key, of_ann, 10)]
    assert [one.visit_id for page in found for one in page] == [wanted.visit_id]
    assert 4 <= len(found) <= 6
    below = (await without_key.page(of_ann, None, 10)).below
    assert below is not None
    assert await store.get([below.visit_id]) == {}, "a token does not reveal a visit that does not match"


async def test_visits_of_an_earlier_version_are_added_to_the_lists_and_forgotten_ones_removed(
    partitions: Partitions, store: VisitorStore, live: LiveVisitors, redis: Any
) -> None:
    at = now_ms()
    events = [admitted("PageEntered", new_id(), at - n) for n in range(5)]
    events += [admitted("SignIn", new_id(), at - n, "ann") for n in range(5, 10)]
    await resolve(store, *events)
    expected, lists = [event.visit_id for event in events], LiveLists(partitions, store)

    async def repaired() -> list[str]:
        for number in partitions.numbers:
            await lists.repair(number)
        assert await listed(live, global_visit_id=events[0].global_visit_id) == await listed(live)
        assert await listed(live, sites=frozenset(["default"])) == await listed(live)
        return await listed(live)

    assert await repaired() == expected
    for keys in partitions.keys:
        await redis.delete(*keys.lists)
    assert await listed(live) == []
    assert await repaired() == expected
    for number, keys in enumerate(partitions.keys):
        await redis.delete(keys.live_anonymous)
        await lists.repair(number)
        assert await redis.zcard(keys.by_start) == await redis.zcard(keys.live_known)
    assert await repaired() == expected[5:]
