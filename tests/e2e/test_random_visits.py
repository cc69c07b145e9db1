"""Random visits through a bad network into the real suite: each attribution in history follows from the sorted events.

FOOTFALL_RANDOM_VISITS=2000 runs the long form; `make test` runs a short one.
"""

import asyncio
import os
import random
from functools import partial

import grpc
import pytest
from footfall.history.v1 import history_service_pb2, history_service_pb2_grpc
from footfall.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from footfall_timeline import Attribution, State, VisitState, merge, normalize_uuid

from tests.conftest import TRANSITIONS_KEPT
from tests.tools.attributions import attribution_at
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import Event, random_visit, scattered, transitions

pytestmark = pytest.mark.long

VISITS = int(os.environ.get("FOOTFALL_RANDOM_VISITS", "60"))
# Everything late, shuffled and about everybody is the most that history can be asked to do.
DRAINED_S = 60 + VISITS / 10


def expected_stamps(events: list[Event]) -> dict[str, Attribution]:
    """By event id, what the pure rules say of each event."""
    folded = VisitState(events[0]["visitID"], merge(transitions(events))[:TRANSITIONS_KEPT])
    ids = [(normalize_uuid(e["eventID"]), e["timestamp"]) for e in events]
    return {event_id: attribution_at(folded, at_ms, event_id) for event_id, at_ms in ids}


@pytest.mark.timeout(60 + VISITS)
async def test_every_stamp_is_the_fold_of_the_sorted_events(bounded_suite: Suite) -> None:
    suite = bounded_suite
    chance = random.Random(int(os.environ.get("FOOTFALL_SEED", "1")))  # noqa: S311 - repeatable, not secret
    visits = [random_visit(chance) for _ in range(VISITS)]
    beacons = [beacon for events in visits for beacon in scattered(events, chance)]
    chance.shuffle(beacons)

    async with suite.http() as http, suite.channel("history") as history, suite.channel("identity") as identity:
        waiting = asyncio.Semaphore(32)

        async def post(beacon: list[Event]) -> None:
            async with waiting:
                answer = await http.post("/beacon", json=beacon)
                assert answer.status_code == 204, answer.text

        quarter = len(beacons) // 4
        for start in range(0, len(beacons), quarter or 1):
            await asyncio.gather(*map(post, beacons[start : start + (quarter or 1)]))
            await eventually(partial(is_killed, suite))  # as soon as it is started again after the last time

        for events in visits:
            await eventually(partial(stamps_are_right, history, events), timeout=DRAINED_S)
            await live_state_is_right(identity, events)


def is_killed(suite: Suite) -> bool:
    try:
        suite.kill("history")
    except ProcessLookupError:
        return False
    return True


async def stamps_are_right(channel: grpc.aio.Channel, events: list[Event]) -> None:
    """Compare all of a visit's events in history with what the pure rules say."""
    stub = history_service_pb2_grpc.HistoryServiceStub(channel)
    request = history_service_pb2.ListEventsRequest(visit_id=events[0]["visitID"], page_size=1000)
    try:
        answer = await stub.ListEvents(request, timeout=5, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        raise AssertionError(f"history answers {error.code()}") from error
    stored = {e.event.event_id: (State(e.stamp.state), e.stamp.identity_id, e.stamp.session_id) for e in answer.events}
    assert stored == {event_id: stamp[:3] for event_id, stamp in expected_stamps(events).items()}
    keys = [(e.event.event_time_ms, e.event.event_id) for e in answer.events]
    assert keys == sorted(keys)


async def live_state_is_right(channel: grpc.aio.Channel, events: list[Event]) -> None:
    """Compare the live state of a visit with what the pure rules say."""
    stub = identity_service_pb2_grpc.IdentityServiceStub(channel)
    request = identity_service_pb2.GetVisitorRequest(visit_id=events[0]["visitID"])
    visitor = (await stub.GetVisitor(request, timeout=5)).visitor
    expected = VisitState(events[0]["visitID"], merge(transitions(events))[:TRANSITIONS_KEPT]).attribution
    assert (State(visitor.state), visitor.identity_id, visitor.session_id) == expected[:3]
