"""Paging while events are written neither skips nor repeats events that existed at the start."""

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Erasure
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.erasure.eraser import Eraser
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.tombstones import Tombstones

from tests.tools.history import entry
from tests.tools.variants import further
from tests.tools.visits import Event, event, now_ms

PERSON = "dana"
START_MS = now_ms() - 600_000


def visit_of(person: str, chance: random.Random) -> list[Event]:
    """A visit that begins with its sign-in; many of its events share a millisecond."""
    visit_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    events = [event("SignIn", visit_id, START_MS, person)]
    return events + [event("AddToCart", visit_id, START_MS + chance.randint(1, 9)) for _ in range(30)]


async def all_pages(stub: Any, request: Any, proceed: Callable[[Any, Any], bool]) -> list[str]:
    """All events, page by page."""
    found: list[str] = []
    while True:
        answer = await stub.ListEvents(request)
        found += [stored.event.event_id for stored in answer.events]
        if not proceed(request, answer):
            return found


def by_token(request: Any, answer: Any) -> bool:
    request.page_token = answer.next_page_token
    return bool(answer.next_page_token)


def by_position(request: Any, answer: Any) -> bool:
    request.start.CopyFrom(answer.next)
    return bool(answer.HasField("next"))


@pytest.mark.parametrize("proceed", [by_token, by_position])
@pytest.mark.parametrize("parent", ["visit_id", "identity_id"])
async def test_pages_neither_skip_nor_repeat_while_events_arrive(
    stub: Any, attributor: Attributor, parent: str, proceed: Callable[[Any, Any], bool]
) -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable
    events = visit_of(PERSON, chance)
    visit_id = events[0]["visitID"]
    await attributor.store([entry(events)])
    written: list[Event] = []

    async def write() -> None:
        """Add events before, between and after the existing ones, and sometimes a late transition."""
        while True:
            more = [event("AddToCart", visit_id, START_MS + chance.choice([-5, 1, 5, 20])) for _ in range(3)]
            more += visit_of(PERSON, chance)[:3]
            if chance.random() < 0.3:
                more.append(event("UserInfo", visit_id, START_MS - chance.randint(1, 5), "another person"))
            await attributor.store([entry(more)])
            written.extend(more)

    writing = asyncio.create_task(write())
    walks = 0
    try:
        while walks < 3 or not written:
            walks += 1
            before = {stored["eventID"] for stored in [*events, *written] if stored["timestamp"] >= START_MS}
            owned = {visit_id: "visit_id", PERSON: "identity_id"}
            [parent_id] = [value for value, field in owned.items() if field == parent]
            request: dict[str, Any] = {parent: parent_id, "page_size": 4}
            found = await all_pages(stub, pb.ListEventsRequest(**request), proceed)
            assert len(found) == len(set(found))
            there = {str(uuid.UUID(event_id)) for event_id in before}
            missing = there - set(found)
            others = {str(uuid.UUID(e["eventID"])) for e in written if e["visitID"] != visit_id}
            assert missing <= (others if parent == "visit_id" else set())
    finally:
        writing.cancel()
        await asyncio.wait([writing])


async def listed(stub: Any, method: str, field: str, proceed: Callable[[Any, Any], bool], **fields: Any) -> list[Any]:
    """All items of a list, page by page."""
    request, found = getattr(pb, f"{method}Request")(**fields), []
    while True:
        try:
            answer = await getattr(stub, method)(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:  # not on these websites
                return []
            raise
        found += getattr(answer, field)
        if not proceed(request, answer):
            return found


LISTS = {
    "ListEvents": ("events", "event_time_ms", ("visit_id", "identity_id", "session_id", "page_id")),
    "ListPages": ("pages", "start_time", ("visit_id", "identity_id", "session_id")),
    "ListSessions": ("sessions", "start_time", ("visit_id", "identity_id")),
    "ListVisits": ("visits", "start_time", ("identity_id",)),
}


@pytest.mark.parametrize("seed", [0, further(1), further(2)])
async def test_the_newest_first_is_the_reverse_of_the_oldest_first(
    stub: Any, attributor: Attributor, eraser: Eraser, tombstones: Tombstones, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable
    people = [f"person {uuid.UUID(int=chance.getrandbits(128))}" for _ in range(2)]
    # Within milliseconds, seconds, and a day, up to what is still to come.
    spans = (8, 3_000, 86_400_000)
    ids, entries = {"visit_id": "", "page_id": ""}, []
    for _ in range(5):
        visit_id, span_ms = str(uuid.UUID(int=chance.getrandbits(128), version=4)), chance.choice(spans)
        browser_pages = [f"{chance.getrandbits(128):032X}" for _ in range(4)]
        events = [event("SignIn", visit_id, START_MS - chance.randrange(span_ms), chance.choice(people))]
        for _ in range(20):
            name = chance.choice(["PageEntered", "PageEntered", "PageExited", "AddToCart", "SignIn", "SignOut"])
            at_ms = START_MS - chance.randrange(span_ms) + chance.choice([0, 0, 0, 900_000])
            person = chance.choice(people) if name == "SignIn" else None
            events.append(event(name, visit_id, at_ms, person, pageID=chance.choice(browser_pages)))
        ids["visit_id"] = visit_id
        site = chance.choice(["shop", "bank"])
        entries.append(entry([one | {"site": site} for one in events]))
    assert (await attributor.store(entries)).unstorable == []
    [session, *_] = await listed(stub, "ListSessions", "sessions", by_token, identity_id=people[0])
    [page, *_] = await listed(stub, "ListPages", "pages", by_token, visit_id=ids["visit_id"])
    ids |= {"identity_id": people[0], "session_id": session.session_id, "page_id": page.page_id}
    identity_hash = bytes.fromhex(tombstones.hash_of(people[1]))
    erasure = Erasure(identity_hash=identity_hash, erasure_id=str(uuid.uuid4()), erase_time_ms=START_MS)
    assert (await eraser.erase(people[1], erasure))[1]
    for method, (field, own_name, parents) in LISTS.items():
        for parent in parents:
            for sites in ([], [chance.choice(["shop", "bank"])]):
                of = {parent: ids[parent], "sites": sites}
                oldest_first = await listed(stub, method, field, by_token, **of, page_size=1_000)
                assert oldest_first or sites or parent != "identity_id", method
                for size in {1, len(oldest_first), *chance.sample(range(2, len(oldest_first) + 4), 2)}:
                    order = chance.choice(["event_time desc", f" {own_name}  desc"])
                    proceed = chance.choice([by_token, by_position])
                    found = await listed(stub, method, field, proceed, **of, page_size=size, order_by=order)
                    assert found == oldest_first[::-1], (method, parent, sites, size)


async def test_the_newest_first_within_times_is_the_reverse(stub: Any, attributor: Attributor) -> None:
    events = visit_of(PERSON, random.Random(5))  # noqa: S311 - repeatable
    await attributor.store([entry(events)])
    scope = pb.Scope()
    scope.start_time.FromMilliseconds(START_MS + 3)
    scope.end_time.FromMilliseconds(START_MS + 7)
    of = {"visit_id": events[0]["visitID"], "scope": scope, "page_size": 3}
    found = await listed(stub, "ListEvents", "events", by_token, **of, order_by="event_time desc")
    assert found
    assert found == (await listed(stub, "ListEvents", "events", by_token, **of))[::-1]


async def test_a_page_of_large_events_is_cut_to_what_a_message_holds(stub: Any, attributor: Attributor) -> None:
    visit_id = str(uuid.uuid4())
    large = [event("AddToCart", visit_id, START_MS + n, data={"text": "x" * 60_000}) for n in range(120)]
    await attributor.store([entry(large)])
    request = pb.ListEventsRequest(visit_id=visit_id, page_size=1000)
    assert await all_pages(stub, request, by_token) == [str(uuid.UUID(one["eventID"])) for one in large]


async def test_a_page_token_is_valid_for_its_request_only(stub: Any, attributor: Attributor) -> None:
    await attributor.store([entry(visit_of(PERSON, random.Random(1)))])  # noqa: S311
    answer = await stub.ListEvents(pb.ListEventsRequest(identity_id=PERSON, page_size=5))
    for other in (
        pb.ListEventsRequest(identity_id=PERSON, url="x", page_token=answer.next_page_token),
        pb.ListEventsRequest(identity_id="ann", page_token=answer.next_page_token),
        pb.ListEventsRequest(identity_id=PERSON, order_by="event_time desc", page_token=answer.next_page_token),
        pb.ListEventsRequest(identity_id=PERSON, start=answer.next, page_token=answer.next_page_token),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListEvents(other)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match="page_token"):
        await stub.ListSessions(pb.ListSessionsRequest(identity_id=PERSON, page_token=answer.next_page_token))


async def test_pages_of_one_millisecond_come_in_the_order_of_their_ids(stub: Any, attributor: Attributor) -> None:
    visit_id = str(uuid.uuid4())
    entered = [event("PageEntered", visit_id, START_MS + n // 25, pageID=uuid.uuid4().hex) for n in range(75)]
    twice = event("PageEntered", visit_id, START_MS + 5, pageID=entered[0]["pageID"])
    await attributor.store([entry([*entered, twice])])
    pages: list[Any] = []
    request = pb.ListPagesRequest(visit_id=visit_id, page_size=7)
    while True:
        answer = await stub.ListPages(request)
        pages += answer.pages
        if not answer.HasField("next"):
            break
        request.start.CopyFrom(answer.next)
    keys = [(page.start_time.ToMilliseconds(), page.page_id) for page in pages]
    assert keys == sorted(keys)
    assert {page.browser_page_id for page in pages} == {e["pageID"] for e in entered}
    assert len(pages) == len(entered)


async def test_visits_and_sessions_are_paged_in_order(stub: Any, attributor: Attributor) -> None:
    person, chance = str(uuid.uuid4()), random.Random(3)  # noqa: S311
    visits = [visit_of(person, chance)[:1] for _ in range(23)]
    await attributor.store([entry(events) for events in visits])
    for method, request, field in (
        ("ListVisits", pb.ListVisitsRequest(identity_id=person, page_size=5), "visits"),
        ("ListSessions", pb.ListSessionsRequest(identity_id=person, page_size=5), "sessions"),
    ):
        found: list[str] = []
        while True:
            answer = await getattr(stub, method)(request)
            found += [item.visit_id for item in getattr(answer, field)]
            request.start.CopyFrom(answer.next)
            if not answer.HasField("next"):
                break
        assert sorted(found) == sorted(events[0]["visitID"] for events in visits)
        assert field == "sessions" or found == sorted(found)
