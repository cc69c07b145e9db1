"""Who a visitor was at a moment, as known now and as known then."""

import random
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor
from footfall_servicekit.errors import details_of
from footfall_timeline import VisitState, merge, normalize_uuid
from google.protobuf.timestamp_pb2 import Timestamp

from tests.tools.history import entry, logged
from tests.tools.visits import Event, event, new_id, now_ms, random_visit, scattered, transitions


def at(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1_000, nanos=milliseconds % 1_000 * 1_000_000)


@pytest.mark.parametrize("seed", range(6))
async def test_a_moment_is_explained_by_what_had_happened_and_been_received(
    stub: Any, attributor: Attributor, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    events = random_visit(chance)
    visit_id, begin_ms = events[0]["visitID"], now_ms()
    received: dict[str, tuple[int, Event]] = {}
    for number, beacon in enumerate(scattered(events, chance)):
        beacon = [*{one["eventID"]: one for one in beacon}.values()]  # noqa: PLW2901
        await attributor.store([entry(beacon, received_time_ms=begin_ms + number)])
        for one in beacon:
            received.setdefault(one["eventID"], (begin_ms + number, one))
    times = [one["timestamp"] for one in events] + [begin_ms]
    for _ in range(12):
        as_of_ms = chance.choice([None, chance.choice(times) + chance.choice([-1, 0])])
        known_at_ms = chance.choice([None, begin_ms + chance.randint(-1, len(events))])
        counts = [
            one
            for at_ms, one in received.values()
            if (as_of_ms is None or one["timestamp"] <= as_of_ms) and (known_at_ms is None or at_ms <= known_at_ms)
        ]
        expected = VisitState(visit_id, merge(transitions(counts)))
        request = pb.ExplainVisitRequest(
            visit_id=visit_id,
            as_of_time=None if as_of_ms is None else at(as_of_ms),
            known_at_time=None if known_at_ms is None else at(known_at_ms),
        )
        found = await stub.ExplainVisit(request)
        visit, attribution = found.visit, expected.attribution
        assert (visit.state, visit.identity_id, visit.active_session_id) == attribution[:3]
        assert visit.assurance == attribution.assurance
        assert [one.event_id for one in found.explanations] == [step.transition.event_id for step in expected.steps]


async def test_ignored_events_and_pages_of_a_moment(stub: Any, attributor: Attributor) -> None:
    visit_id, begin_ms = new_id(), now_ms() - 60_000
    ignored = [event("UserInfo", visit_id, begin_ms + number, "undefined") for number in range(4)]
    for number, one in enumerate(ignored):
        message = logged(one, identity_id="", transition=0, ignored_reason=1, assurance=0)
        batch = entry([], received_time_ms=begin_ms + 1_000 * number)
        batch.events.append(message)
        await attributor.store([batch])
    ids = [normalize_uuid(one["eventID"]) for one in ignored]
    moments: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ids),
        ({"as_of_time": at(begin_ms + 1)}, ids[:2]),
        ({"known_at_time": at(begin_ms + 2_000)}, ids[:3]),
        ({"known_at_time": at(begin_ms + 2_000), "as_of_time": at(begin_ms)}, ids[:1]),
    ]
    for moment, expected in moments:
        request = pb.ExplainVisitRequest(visit_id=visit_id, page_size=1, **moment)
        found = []
        while True:
            answer = await stub.ExplainVisit(request)
            found += [one.event_id for one in answer.explanations]
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        assert found == expected


@pytest.mark.parametrize("field", ["as_of_time", "known_at_time"])
async def test_an_impossible_time_names_the_field(stub: Any, field: str) -> None:
    request = pb.ExplainVisitRequest(visit_id=new_id())
    getattr(request, field).nanos = -1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ExplainVisit(request)
    assert details_of(refused.value).violations == ((field, "must be a time in the years 1 to 9999"),)
