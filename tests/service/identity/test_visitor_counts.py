"""How many visitors are on the website, now and in past minutes: exact, with any number of processes."""

import asyncio
import random
from collections import Counter
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.admitted import transition_of
from footfall_identity import visitor_counts
from footfall_identity.live_lists import LiveLists
from footfall_identity.live_visitors import ONLY_PRESENT, LiveVisitors, VisitorFilter
from footfall_identity.partitions import Partitions
from footfall_identity.visit_record import visit_updates
from footfall_identity.visitor_counts import Minute, StateCounts, VisitorCounts
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import details_of
from google.protobuf.timestamp_pb2 import Timestamp

from tests.service.identity.conftest import visitor_store
from tests.service.identity.test_presence import EXAMPLES, MINUTE_MS, random_visit
from tests.tools.eventually import eventually
from tests.tools.identity import IDLE_MS, admitted, new_id, resolve
from tests.tools.process import Running
from tests.tools.visits import now_ms

SITES = ["bank", "shop"]


def counts_of(partitions: Partitions, store: VisitorStore, **settings: Any) -> VisitorCounts:
    defaults: dict[str, Any] = {"max_sites": 100, "retention_days": 8, "idle_ms": IDLE_MS}
    return VisitorCounts(partitions, store, **(defaults | settings))


async def listed(partitions: Partitions, store: VisitorStore) -> dict[str, StateCounts]:
    """What a reader of the whole list of visitors counts."""
    live, seen = LiveVisitors(store, LiveLists(partitions, store)), Counter[tuple[str, int]]()
    below = None
    while True:
        page = await live.page(VisitorFilter(presences=ONLY_PRESENT, is_staff=False), below, 50)
        people = [record for record in page.visits if not record.is_bot]
        seen.update((record.site, record.visit_state.attribution.state) for record in people)
        if (below := page.below) is None:
            break
    return {site: StateCounts(*(seen[site, state] for state in (1, 2, 3))) for site in {site for site, _ in seen}}


async def merged(store: VisitorStore, events: list[Event], *, is_bot: bool) -> None:
    """Merge the events of one visit, of a robot or a person."""
    [update] = visit_updates((event, transition_of(event)) for event in events)
    update.is_bot = is_bot
    await store.merge([update])


async def test_the_counts_are_those_of_the_whole_list(partitions: Partitions, store: VisitorStore) -> None:
    chance = random.Random(EXAMPLES)  # noqa: S311
    for number in range(2 * EXAMPLES):
        events = random_visit(
            chance, now_ms() - chance.choice([0, MINUTE_MS, IDLE_MS - MINUTE_MS, IDLE_MS + MINUTE_MS])
        )
        for event in events:
            event.site = SITES[number % 2]
            event.staff_reason = int(number % 7 == 0)  # type: ignore[assignment]
        await merged(store, events, is_bot=number % 5 == 0)
    for is_bot in (False, True):  # so many events that their state is not in the lists
        many = new_id()
        events = [admitted("SignIn", many, now_ms() - n, "ann", site="shop") for n in range(40)]
        await merged(store, events, is_bot=is_bot)

    async def same() -> None:  # a visitor may leave between the two
        counted = await counts_of(partitions, store).now()
        assert counted.by_site == await listed(partitions, store)
        assert sum(one.total for one in counted.by_site.values()) > EXAMPLES / 4, "the test needs visitors"

    await eventually(same)


async def test_two_processes_count_a_minute_once(
    partitions: Partitions, store: VisitorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = now_ms() // MINUTE_MS * MINUTE_MS
    monkeypatch.setattr(visitor_counts, "now_ms", lambda: start + 10)
    one, other = counts_of(partitions, store), counts_of(partitions, visitor_store(partitions))
    await resolve(store, admitted("PageEntered", new_id(), start, site="shop"))
    await asyncio.gather(one.count_minute(), other.count_minute())
    await resolve(store, admitted("SignIn", new_id(), start, "ann", site="bank"))
    await asyncio.gather(one.count_minute(), other.count_minute())  # done already
    [shop, bank] = await other.minutes(SITES[::-1], (), start, start + MINUTE_MS)
    assert shop == [Minute(start, StateCounts(anonymous=1))]
    assert bank == [Minute(start, StateCounts())], "nobody was there when the minute was counted"

    monkeypatch.setattr(visitor_counts, "now_ms", lambda: start + 3 * MINUTE_MS)
    await other.count_minute()
    [series] = await one.minutes((), (), start, start + 4 * MINUTE_MS)
    assert [(minute.start_ms - start, minute.counts.total) for minute in series] == [(0, 1), (3 * MINUTE_MS, 2)], (
        "a minute that nobody counted is left out"
    )


async def test_a_minute_of_a_process_that_died_is_counted_by_another(
    partitions: Partitions, store: VisitorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor_counts, "_CLAIM_MS", 300)
    dying, other = counts_of(partitions, store), counts_of(partitions, store)
    counting = asyncio.Event()

    async def hang() -> None:
        counting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(dying, "_count", hang)
    hanging = asyncio.create_task(dying.count_minute())
    await counting.wait()
    await other.count_minute()
    until = now_ms() + MINUTE_MS
    assert await other.minutes((), (), until - 2 * MINUTE_MS, until) == [[]], "the first one has claimed the minute"

    async def counted() -> None:
        await other.count_minute()
        assert await other.minutes((), (), until - 2 * MINUTE_MS, until) != [[]]

    await eventually(counted)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_sites_beyond_the_limit_are_counted_together(partitions: Partitions, store: VisitorStore) -> None:
    sizes = {"a": 3, "b": 2, "c": 1, "d": 1}
    at = now_ms()
    visits = [admitted("PageEntered", new_id(), at, site=site) for site, size in sizes.items() for _ in range(size)]
    await resolve(store, *visits)
    counts = counts_of(partitions, store, max_sites=2)
    named, others = counts.named(await counts.now(), ())
    assert [(site, one.total) for site, one in named] == [("a", 3), ("b", 2)]
    assert others.total == 2
    await counts.count_minute()
    until = now_ms() + MINUTE_MS
    [a, c, nobody] = await counts.minutes(["a", "c", "nobody"], (), until - 2 * MINUTE_MS, until)
    assert [minute.counts.total for minute in a] == [3]
    assert c == nobody == [], "their numbers are not known"
    [together] = await counts.minutes((), (), until - 2 * MINUTE_MS, until)
    assert [minute.counts.total for minute in together] == [7]


async def test_a_site_sees_only_its_own_numbers(running_identity: Running) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        at = now_ms()
        events = [admitted("PageEntered", new_id(), at, site=site) for site in ("shop", "bank", "bank")]
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))

        async def counted() -> None:
            everything = await stub.CountVisitors(pb.CountVisitorsRequest())
            assert {one.site: one.anonymous_count for one in everything.counts} == {"bank": 2, "shop": 1}

        await eventually(counted)
        of_shop = await stub.CountVisitors(pb.CountVisitorsRequest(sites=["shop"]))
        assert [(one.site, one.anonymous_count) for one in of_shop.counts] == [("shop", 1)]
        assert not of_shop.HasField("others")

        async def minute_of(sites: list[str], *wanted: str) -> list[list[int]]:
            answer = await stub.GetVisitorMinutes(pb.GetVisitorMinutesRequest(in_sites=wanted, sites=sites))
            return [[minute.anonymous_count for minute in one.minutes][:1] for one in answer.series]

        # The minute may have been counted before the events came.
        [[everybody]] = await minute_of([])
        assert everybody in {0, 3}
        assert await minute_of(["shop"]) == [[everybody // 3]]
        assert await minute_of(["shop"], "shop", "bank", "none") == [[everybody // 3], [0], [0]]


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("in_sites", {"in_sites": ["a"] * 11}),
        ("start_time", {"start_time": Timestamp(seconds=1), "end_time": Timestamp(seconds=90_000)}),
        ("start_time", {"start_time": Timestamp(seconds=100), "end_time": Timestamp(seconds=1)}),
    ],
)
async def test_minutes_are_limited(shared_stub: Any, field: str, asked: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await shared_stub.GetVisitorMinutes(pb.GetVisitorMinutesRequest(**asked))
    assert [field for field, _ in details_of(raised.value).violations] == [field]
