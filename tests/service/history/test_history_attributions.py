"""What a caller gets of the attributions of events stays right while transitions arrive late and in any order."""

import random
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import VISITOR_STATE_ANONYMOUS
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.arrivals import Unstorable
from footfall_servicekit.errors import details_of
from footfall_timeline import normalize_uuid

from tests.tools.batches import context
from tests.tools.history import entry, logged
from tests.tools.visits import Event, event, new_id, now_ms, random_visit, scattered


class Caller:
    """Asks for the events of each beacon, and keeps what it has got, as the relay does."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.known: dict[str, pb.StreamAttributionsRequest.ReportedVisit] = {}
        self.stamps: dict[str, tuple[int, str, str]] = {}
        self.revised: list[str] = []

    async def ask(self, beacon: list[Event]) -> None:
        visit_id = normalize_uuid(beacon[0]["visitID"])
        asked = pb.StreamAttributionsRequest.ReportedVisit(visit_id=visit_id)
        if before := self.known.get(visit_id):
            asked.CopyFrom(before)
        asked.event_ids[:] = [normalize_uuid(one["eventID"]) for one in beacon]
        last = (asked.last.time_ms, asked.last.id)
        async for answer in self._stub.StreamAttributions(pb.StreamAttributionsRequest(visits=[asked])):
            for item in answer.items:
                kind = item.WhichOneof("item")
                if kind == "attribution":
                    asked.attribution = item.attribution
                    continue
                found = getattr(item, kind).event
                self.stamps[found.event.event_id] = (found.stamp.state, found.stamp.identity_id, found.stamp.session_id)
                if kind == "revised":
                    assert found.event.event_id not in asked.event_ids
                    self.revised.append(found.event.event_id)
                last = max(last, (found.event.event_time_ms, found.event.event_id))
        asked.last.time_ms, asked.last.id = last
        self.known[visit_id] = asked


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("forgets", [False, True])
async def test_the_last_that_a_caller_got_of_each_event_is_what_is_stored(
    stub: Any, attributor: Attributor, seed: int, forgets: bool
) -> None:
    chance = random.Random(seed)  # noqa: S311
    events, caller = random_visit(chance), Caller(stub)
    for number, beacon in enumerate(scattered(events, chance)):
        beacon = [*{one["eventID"]: one for one in beacon}.values()]  # noqa: PLW2901
        await attributor.store([entry(beacon, received_time_ms=now_ms() + number)])
        await caller.ask(beacon)
        if forgets and {state for state, _, _ in caller.stamps.values()} == {VISITOR_STATE_ANONYMOUS}:
            caller.known.clear()
    listed = (await stub.ListEvents(pb.ListEventsRequest(visit_id=events[0]["visitID"]))).events
    stored = {one.event.event_id: (one.stamp.state, one.stamp.identity_id, one.stamp.session_id) for one in listed}
    assert caller.stamps == stored != {}


async def test_events_in_order_revise_nothing_and_a_late_sign_in_only_what_it_changes(
    stub: Any, attributor: Attributor
) -> None:
    visit_id, begin_ms, caller = new_id(), now_ms() - 60_000, Caller(stub)
    pages = [event("PageEntered", visit_id, begin_ms + 1_000 * number) for number in range(4)]
    first, late = event("SignIn", visit_id, begin_ms + 2_500, "Dana"), event("SignIn", visit_id, begin_ms + 500, "Bob")
    for number, one in enumerate([pages[0], pages[1], pages[2], first, pages[3]]):
        await attributor.store([entry([one], received_time_ms=begin_ms + number)])
        await caller.ask([one])
    assert caller.revised == []
    await attributor.store([entry([late], received_time_ms=begin_ms + 9)])
    await caller.ask([late])
    assert caller.revised == [normalize_uuid(one["eventID"]) for one in pages[1:3]]
    await caller.ask([late])
    assert len(caller.revised) == 2


async def test_a_caller_that_has_forgotten_an_anonymous_visit_gets_what_was_received_before(
    stub: Any, attributor: Attributor
) -> None:
    visit_id, begin_ms, caller = new_id(), now_ms() - 60_000, Caller(stub)
    pages = [event("PageEntered", visit_id, begin_ms + 1_000 * number) for number in range(3)]
    for number, one in enumerate(pages):
        await attributor.store([entry([one], received_time_ms=begin_ms + 10 * number)])
    await caller.ask(pages[:2])
    caller.known.clear()
    late = event("SignIn", visit_id, begin_ms - 500, "Dana")
    await attributor.store([entry([late], received_time_ms=begin_ms + 15)])
    await caller.ask([late])
    assert caller.revised == [normalize_uuid(one["eventID"]) for one in pages[:2]]


async def test_an_event_that_is_not_stored_is_named_and_whether_it_is_a_dead_letter(
    stub: Any, attributor: Attributor, dead_letters: DeadLetterQueue
) -> None:
    visit_id = new_id()
    stored, dead, unknown = (event("PageEntered", visit_id, now_ms()) for _ in range(3))
    await attributor.store([entry([stored])])
    await dead_letters.put(0, [Unstorable(logged(dead), context(), "any")])
    asked = pb.StreamAttributionsRequest.ReportedVisit(
        visit_id=normalize_uuid(visit_id), event_ids=[normalize_uuid(one["eventID"]) for one in (stored, dead, unknown)]
    )
    answers = [one async for one in stub.StreamAttributions(pb.StreamAttributionsRequest(visits=[asked]))]
    missing = [item.missing for answer in answers for item in answer.items if item.HasField("missing")]
    assert [(one.event_id, one.dead_letter) for one in missing] == [
        (normalize_uuid(dead["eventID"]), True),
        (normalize_uuid(unknown["eventID"]), False),
    ]


@pytest.mark.parametrize(
    ("visit", "field"),
    [
        ({"visit_id": "x"}, "visits.visit_id"),
        ({"visit_id": new_id(), "attribution": b"x"}, "visits.attribution"),
        ({"visit_id": new_id(), "event_ids": ["x"] * 10_001}, "visits"),
    ],
)
async def test_a_malformed_request_is_refused(
    stub: Any, attributor: Attributor, visit: dict[str, Any], field: str
) -> None:
    if visit["visit_id"] != "x":
        visit = visit | {"visit_id": normalize_uuid(visit["visit_id"])}
        await attributor.store([entry([event("PageEntered", visit["visit_id"], now_ms())])])
    asked = pb.StreamAttributionsRequest.ReportedVisit(**visit)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in stub.StreamAttributions(pb.StreamAttributionsRequest(visits=[asked])):
            pass
    assert [name for name, _ in details_of(refused.value).violations] == [field]
