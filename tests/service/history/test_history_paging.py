"""Paging while events are written neither skips nor repeats events that existed at the start."""

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor

from tests.tools.history import entry
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
        pb.ListEventsRequest(identity_id=PERSON, start=answer.next, page_token=answer.next_page_token),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListEvents(other)
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


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
