"""Scorecards equal a count by plain Python, in any order of arrival and counted again; how days are counted; the list.

FOOTFALL_SCORECARD_ROUNDS=200 runs longer, FOOTFALL_SEED picks others.
"""

import itertools
import os
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_SITE
from footfall.history.v1 import history_service_pb2 as pb
from footfall.identity.v1.identity_service_pb2 import CountLinksResponse
from footfall_eventlog.settings import DAY_MS
from footfall_history.erasure.eraser import Eraser
from footfall_history.ingest.attribution import Attributor
from footfall_history.scorecards.counting import CountLinks, ScorecardCounter, ScorecardLimits
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.errors import details_of
from footfall_timeline import order_key
from prometheus_client import REGISTRY

from tests.service.history.conftest import Listener
from tests.service.history.test_history_mongodb_commands import assert_indexed
from tests.tools.batches import batch, context
from tests.tools.eventually import eventually
from tests.tools.history import entry, logged
from tests.tools.process import Running
from tests.tools.scorecards import Website, arriving, day_of_ms, random_websites
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

ROUNDS = int(os.environ.get("FOOTFALL_SCORECARD_ROUNDS", "3"))
SEED = int(os.environ.get("FOOTFALL_SEED", "1"))
HOUR_MS = 3_600_000
LIMITS = ScorecardLimits(7, 30, 400, 100, 20_000)

Make = Callable[..., ScorecardCounter]


@pytest.fixture
def counter(store: Store) -> Make:
    """Makes counters of that store, which do not rest and know no links; keywords replace limits."""

    def make(count_links: CountLinks = unknown_links, **limits: int) -> ScorecardCounter:
        return ScorecardCounter(store, LIMITS._replace(**limits), count_links, rest=0)

    return make


async def unknown_links(_identity_ids: Sequence[str]) -> CountLinksResponse | None:
    """Identity does not answer."""
    return None


async def cards(store: Store, **where: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """The stored scorecards by day and site."""
    found = await store.find_scorecards({"_id": {"$gte": ""}, **where}, 0)
    return {(card["day"], card["site"]): card for card in found}


def visit_at(at_ms: int, site: str = "shop", user: str | None = None, **more: Any) -> Any:
    """One entry of the log, with one event of a visit of its own."""
    name = "SignIn" if user else "PageEntered"
    sent = event(name, str(uuid.uuid4()), at_ms, user, site=site, **more)
    return entry([sent], received_time_ms=at_ms + 10)


def two_days_ago() -> int:
    """Noon of a day that is over."""
    now = now_ms()
    return now - now % DAY_MS - 2 * DAY_MS + DAY_MS // 2


@pytest.mark.timeout(60 + 10 * ROUNDS)
async def test_scorecards_equal_a_plain_count_in_any_order_and_when_counted_again(
    store: Store, attributor: Attributor, counter: Make
) -> None:
    counting, at_ms = counter(visit_days=9), now_ms() + HOUR_MS
    for round_ in range(ROUNDS):
        chance = random.Random(f"{SEED}/{round_}")  # noqa: S311 - repeatable, not secret
        websites = random_websites(chance)
        entries = arriving(websites, chance)
        middle = chance.randint(0, len(entries))
        for part in (entries[:middle], entries[middle:]):
            for start in range(0, len(part), 40):
                assert (await attributor.store(part[start : start + 40])).unstorable == []
            at_ms += DAY_MS // 100  # counts that are asked for within a day need a reason
            await store.note_changed_days([day_of_ms(at_ms - days * DAY_MS) for days in range(6)], at_ms - 1)
            await counting.count(at_ms)
        attributor.forget()
        await assert_right(store, websites)


async def assert_right(store: Store, websites: list[Website]) -> None:
    stored = await cards(store)
    for website in websites:
        for day, expected in website.counted().items():
            found = stored[day, website.name]
            assert {name: found[name] for name in expected} == expected, (website.name, day)
            assert (found["devices_sampled_one_in"], found["identities_sampled_one_in"]) == (1, 1)
        days = {day for day, site in stored if site == website.name and any(stored[day, site]["states"])}
        assert days == website.counted().keys()


async def test_a_day_is_counted_when_it_is_over_and_again_while_its_events_may_arrive(
    store: Store, attributor: Attributor, counter: Make
) -> None:
    day_ms = two_days_ago() - DAY_MS // 2
    end_ms, day = day_ms + DAY_MS, day_of_ms(day_ms)
    counting = counter(visit_days=30)

    async def counted(at_ms: int) -> tuple[int, bool] | None:
        await counting.count(at_ms)
        found = (await cards(store)).get((day, "shop"))
        return (sum(found["states"]), found["is_final"]) if found else None

    await attributor.store([visit_at(day_ms), visit_at(end_ms - 1), visit_at(end_ms), visit_at(day_ms - 1)])
    assert await counted(end_ms + HOUR_MS - 1) is None
    assert await counted(end_ms + HOUR_MS) == (2, False)
    await attributor.store([visit_at(day_ms + 5)])
    assert await counted(end_ms + HOUR_MS + DAY_MS - 1) == (2, False)
    assert await counted(end_ms + HOUR_MS + DAY_MS) == (3, False)
    assert await counted(end_ms + HOUR_MS + 7 * DAY_MS) == (3, True)
    await attributor.store([visit_at(day_ms + 6)])
    assert await counted(end_ms + HOUR_MS + 9 * DAY_MS) == (3, True)
    await store.note_changed_days([day], end_ms + 9 * DAY_MS + HOUR_MS)
    assert await counted(end_ms + HOUR_MS + 10 * DAY_MS) == (4, True), "visits were imported"


async def test_a_site_that_falls_silent_gets_zeros_for_a_week_and_then_nothing(
    store: Store, attributor: Attributor, counter: Make
) -> None:
    first_ms = two_days_ago() - 10 * DAY_MS
    await attributor.store([visit_at(first_ms), *(visit_at(first_ms + n * DAY_MS, "bank") for n in range(12))])
    await counter().count(now_ms() + HOUR_MS)
    found = await cards(store)
    visits = [sum(found[day, "shop"]["states"]) for day, site in sorted(found) if site == "shop"]
    assert visits == [1, 0, 0, 0, 0, 0, 0, 0]
    assert min(found)[0] == day_of_ms(first_ms), "no day before the first visit has one"


async def test_visits_of_staff_do_not_count(store: Store, attributor: Attributor, counter: Make) -> None:
    at_ms = two_days_ago()
    await attributor.store([visit_at(at_ms), visit_at(at_ms, user="ann", staffReason=STAFF_REASON_SITE)])
    await counter().count(now_ms())
    [card] = [card for (day, _), card in (await cards(store)).items() if day == day_of_ms(at_ms)]
    assert sum(card["states"]) == 1


async def test_the_links_of_the_identities_of_a_day_are_counted(
    stub: Any, store: Store, attributor: Attributor, counter: Make
) -> None:
    at_ms, asked = two_days_ago(), list[list[str]]()

    async def count_links(identity_ids: Sequence[str]) -> CountLinksResponse:
        asked.append(sorted(identity_ids))
        return CountLinksResponse(
            identity_count=len(identity_ids), linked_count=3, ambiguous_count=2, generic_count=1, shared_count=4
        )

    people = ["ann", "bob", "eve", "dan"]
    await attributor.store([visit_at(at_ms + number, user=person) for number, person in enumerate([*people, "ann"])])
    await attributor.store([visit_at(at_ms, "bank"), visit_at(at_ms, user="agent", staffReason=STAFF_REASON_SITE)])
    await counter(count_links).count(now_ms())
    assert asked == [sorted(people)]

    async def links(site: str, **request: Any) -> dict[str, int] | None:
        day = day_of_ms(at_ms)
        answer = await stub.ListScorecards(pb.ListScorecardsRequest(site=site, from_day=day, to_day=day, **request))
        [card] = answer.scorecards
        return {field.name: value for field, value in card.links.ListFields()} if card.HasField("links") else None

    known = {"identity_count": 4, "linked_count": 3, "ambiguous_count": 2, "sampled_one_in": 1}
    assert await links("shop") == known | {"generic_count": 1, "shared_count": 4}
    assert await links("shop", sites=["shop"]) == known
    assert await links("bank") == {"generic_count": 0, "shared_count": 0, "sampled_one_in": 1}
    await counter().count(now_ms() + 2 * DAY_MS)
    assert await links("shop") is None, "identity did not answer"


async def test_the_links_of_very_many_identities_are_estimated(
    store: Store, attributor: Attributor, counter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_history.scorecards.tally._MAX_IDENTITIES", 20)
    counts = list[int]()

    async def count_links(identity_ids: Sequence[str]) -> CountLinksResponse:
        counts.append(len(identity_ids))
        return CountLinksResponse(identity_count=len(identity_ids), linked_count=1)

    at_ms = two_days_ago()
    await attributor.store([visit_at(at_ms + number, user=f"person {number}") for number in range(100)])
    await counter(count_links).count(now_ms())
    card = (await cards(store))[day_of_ms(at_ms), "shop"]
    one_in = card["links_sampled_one_in"]
    assert one_in >= 4
    assert 0 < counts[0] <= 20
    assert (card["links"]["all"], card["links"]["linked"]) == (counts[0] * one_in, one_in)


async def test_only_the_first_sites_by_name_have_scorecards(
    store: Store, attributor: Attributor, counter: Make
) -> None:
    at_ms = two_days_ago()
    names = ["d", "b", "e", "c", "b", "f", "c"]
    await attributor.store([visit_at(at_ms + number, name) for number, name in enumerate(names)])
    await counter(max_sites=3).count(now_ms() + HOUR_MS)
    of_day = {
        site: sum(card["states"]) for (day, site), card in (await cards(store)).items() if day == day_of_ms(at_ms)
    }
    assert of_day == {"b": 2, "c": 2, "d": 1}
    await attributor.store([visit_at(at_ms, "a")])
    await counter(max_sites=3).count(now_ms() + HOUR_MS + DAY_MS)
    of_day = {
        site: sum(card["states"]) for (day, site), card in (await cards(store)).items() if day == day_of_ms(at_ms)
    }
    assert of_day == {"a": 1, "b": 2, "c": 2}


async def test_one_process_counts_at_a_time(store: Store, attributor: Attributor, counter: Make) -> None:
    now = now_ms() + HOUR_MS
    await attributor.store([visit_at(two_days_ago())])
    assert await store.lease_counting("another process", now, now + 1_000)
    await counter().count(now)
    assert await cards(store) == {}
    await counter().count(now + 1_001)
    assert await cards(store) != {}
    assert await store.lease_counting("another process", now, now + 1_000), "the lease is given back"


async def test_old_scorecards_are_removed(store: Store, attributor: Attributor, counter: Make) -> None:
    at_ms = two_days_ago()
    await attributor.store([visit_at(at_ms), visit_at(at_ms - 3 * DAY_MS)])
    await counter().count(now_ms() + HOUR_MS)
    days = {day for day, _ in await cards(store)}
    assert {day_of_ms(at_ms), day_of_ms(at_ms - 3 * DAY_MS)} <= days
    await counter(scorecard_days=4).count(now_ms() + HOUR_MS)
    left = {day for day, _ in await cards(store)}
    assert left == {day for day in days if day >= day_of_ms(now_ms() + HOUR_MS - 4 * DAY_MS)}


async def test_a_day_is_counted_in_small_steps_by_indexes(
    store: Store, attributor: Attributor, counter: Make, listener: Listener
) -> None:
    at_ms = two_days_ago()
    for start in range(0, 200, 100):
        await attributor.store([visit_at(at_ms + number * 1_000) for number in range(start, start + 100)])
    before, listener.answered = len(listener.commands), 0
    await counter().count(now_ms() + HOUR_MS)
    commands = listener.commands[before:]
    assert listener.answered < 500
    reads = [command for command in commands if command.get("find") == "visits"]
    assert all(command["limit"] <= 50 for command in reads)
    for command in commands:
        if next(iter(command)) != "getMore" and command[next(iter(command))] == "visits":
            await assert_indexed(store, command)


async def test_an_erased_person_is_in_no_scorecard(
    store: Store, attributor: Attributor, eraser: Eraser, tombstones: Tombstones, *, counter: Make
) -> None:
    at_ms, person = two_days_ago(), "dana@shop.example"
    await attributor.store([visit_at(at_ms, user=person, globalVisitID=str(uuid.uuid4()))])
    await counter().count(now_ms() + HOUR_MS)
    card = (await cards(store))[day_of_ms(at_ms), "shop"]
    assert card["states"] == [0, 0, 1]
    assert person not in str(card)
    erasure = pb.EraseIdentityRequest().erasure
    erasure.erasure_id, erasure.erase_time_ms = str(uuid.uuid4()), now_ms()
    erasure.identity_hash = bytes.fromhex(tombstones.hash_of(person))
    await eraser.erase(person, erasure)
    await counter().count(now_ms() + HOUR_MS + DAY_MS)
    card = (await cards(store))[day_of_ms(at_ms), "shop"]
    assert card["states"] == [1, 0, 0]
    assert sum(card["identities_per_device"]) == 0


async def test_marks_are_written_once_and_name_no_value_of_a_page(
    store: Store, attributor: Attributor, listener: Listener
) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms() - 2 * HOUR_MS
    ignored = {"transition": 0, "identity_id": "", "assurance": 0, "ignored_reason": 2}
    users = ["undefined", "dana@shop.example", " GUEST "]
    sent = [logged(event("SignIn", visit_id, at_ms + n, user), **ignored) for n, user in enumerate(users)]
    broken = logged(event("SignIn", visit_id, at_ms + 9, "x"), **ignored | {"data_json": b'{"userID":\xff'})
    await attributor.store([batch(*sent, broken)])
    marks = ["ignored:2", "late:3600", "placeholder:guest", "placeholder:undefined"]
    assert sorted((await store.read_visits([visit_id]))[0]["marks"]) == marks
    again = batch(*sent, contexts=[context(received_time_ms=now_ms())])
    for added in (["repeated"], []):
        before = len(listener.commands)
        await attributor.store([again])
        written = [str(command) for command in listener.commands[before:] if command.get("update") == "visits"]
        assert len([command for command in written if "$addToSet" in command]) == len(added)
        marks += added
    assert sorted((await store.read_visits([visit_id]))[0]["marks"]) == sorted(marks)


async def test_the_list_has_pages_days_and_sites(
    stub: Any, store: Store, attributor: Attributor, counter: Make
) -> None:
    at_ms = two_days_ago()
    days = [day_of_ms(at_ms - number * DAY_MS) for number in (2, 1, 0)]
    await attributor.store(
        [visit_at(at_ms - number * DAY_MS, site, "ann") for number in range(3) for site in ("bank", "shop")]
    )
    await counter(visit_days=5).count(now_ms() + HOUR_MS)

    async def listed(**request: Any) -> list[tuple[str, str]]:
        found, token = [], ""
        while True:
            answer = await stub.ListScorecards(pb.ListScorecardsRequest(page_token=token, **request))
            found += [(card.day, card.site) for card in answer.scorecards if card.visit_count]
            token = answer.next_page_token
            if not token:
                return found

    everything = [(day, site) for day in days for site in ("bank", "shop")]
    assert await listed() == await listed(page_size=1) == everything
    assert await listed(site="shop", page_size=2) == [(day, "shop") for day in days]
    assert await listed(sites=["bank"]) == [(day, "bank") for day in days]
    assert await listed(sites=["bank"], site="shop") == []
    assert await listed(from_day=days[1]) == everything[2:]
    assert await listed(from_day=days[1], to_day=days[1], sites=["shop", "bank"], page_size=1) == everything[2:4]
    assert await listed(to_day="1999-12-31") == []
    [card] = (await stub.ListScorecards(pb.ListScorecardsRequest(site="shop", to_day=days[0]))).scorecards
    assert (card.visit_count, card.authenticated_count, card.proven_count) == (1, 1, 0)
    assert [(bucket.upper_bound, bucket.count) for bucket in card.recognition_seconds.buckets][:2] == [(1, 1), (10, 0)]
    assert [bucket.upper_bound for bucket in card.late_seconds.buckets] == [3_600, 86_400, 0]


async def test_a_day_that_is_none_is_refused(stub: Any) -> None:
    arabic = "2026-11-29".translate({digit: digit + 0x630 for digit in range(ord("0"), ord("9") + 1)})
    days = ("yesterday", "2026-13-01", "20261129", "2026-11-29T00:00", arabic)
    for field, day in itertools.product(("from_day", "to_day"), days):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListScorecards(pb.ListScorecardsRequest(**{field: day}))  # type: ignore[arg-type]
        assert details_of(refused.value).violations == ((field, "must be a day as 2026-11-29"),)


async def test_a_process_counts_at_its_start(running_history: Running, store: Store, attributor: Attributor) -> None:
    story = Story("ann", two_days_ago(), received_time_ms=two_days_ago())
    await attributor.store([story.entry()])

    async def listed() -> None:
        answer = await stub.ListScorecards(pb.ListScorecardsRequest(site="default"), wait_for_ready=True)
        assert [card.day for card in answer.scorecards if card.visit_count] == [day_of_ms(story.at_ms)]

    async with running_history() as history, history.stub() as stub:
        await eventually(listed)
    assert "Traceback" not in history.output()


async def test_metrics_show_the_last_counted_day_and_forget_sites_that_are_gone(
    store: Store, attributor: Attributor, counter: Make
) -> None:
    day_ms = two_days_ago() - DAY_MS // 2
    site = f"shop-{uuid.uuid4().hex[:8]}"
    await attributor.store([visit_at(day_ms, site), visit_at(day_ms, site, "ann")])
    counting = counter()
    await counting.count(day_ms + DAY_MS + HOUR_MS)
    await counting.update_metrics()

    def shown(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"footfall_history_scorecard_{name}", {"site": site, **labels})

    assert shown("visits", state="AUTHENTICATED") == shown("visits", state="ANONYMOUS") == 1
    assert shown("recognized_visits", seconds="1") == shown("recognized_visits", seconds="more") == 1
    assert shown("day_timestamp_seconds") == day_ms / 1000
    await store.remove_scorecards("9999-12-31")
    await counting.update_metrics()
    assert shown("visits", state="AUTHENTICATED") is None


async def test_visits_are_read_in_order_whatever_their_distance(store: Store, attributor: Attributor) -> None:
    chance, day_ms = random.Random(SEED), two_days_ago() - DAY_MS // 2  # noqa: S311 - repeatable, not secret
    times = [*(chance.randrange(DAY_MS) for _ in range(30)), *range(60), DAY_MS - 1]
    await attributor.store(
        [visit_at(day_ms + at_ms) for at_ms in times] + [visit_at(day_ms - 1), visit_at(day_ms + DAY_MS)]
    )
    lower, upper = order_key(day_ms, ""), order_key(day_ms + DAY_MS, "")
    cursor, found = store.visits_in_order({}, lower, upper, ["site", "start_key"]), []
    while visits := await cursor.take(7):
        found += visits
    assert [visit["start_key"][:13] for visit in found] == sorted(order_key(day_ms + at_ms, "")[:13] for at_ms in times)
    assert {*found[0]} == {"_id", "site", "start_key"}
