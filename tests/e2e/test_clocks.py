"""Clocks that jump in the middle of a visit: the browser's, and the server's that says when something arrived."""

import uuid
from typing import Any

import pytest
from footfall.collector.v1.collector_service_pb2 import CollectRequest
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2 import ListEventsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall_timeline import State

from tests.tools.batches import batch, context, message
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


async def stored(suite: Suite, visit_id: str, count: int) -> list[tuple[str, State, int]]:
    """The name, state and event time of a visit's events in order, once there are so many."""
    async with suite.channel("history") as channel:

        async def events() -> list[Any]:
            answer = await HistoryServiceStub(channel).ListEvents(ListEventsRequest(visit_id=visit_id), timeout=5)
            assert len(answer.events) == count
            return list(answer.events)

        found = await eventually(events, timeout=20)
    return [(each.event.event_name, State(each.stamp.state), each.event.event_time_ms) for each in found]


async def test_a_browsers_clock_that_jumps_is_believed_by_hours_and_corrected_by_days(suite: Suite) -> None:
    visit_id, now = str(uuid.uuid4()), now_ms()
    jumps = [("SignIn", 0), ("PageEntered", 5 * HOUR_MS), ("AddToCart", 3 * DAY_MS), ("PageExited", -5 * HOUR_MS)]
    async with suite.http() as http:
        for name, jump_ms in jumps:
            user = "dana" if name == "SignIn" else None
            sent = {"sentAt": now_ms() + jump_ms, "events": [event(name, visit_id, now + jump_ms, user)]}
            assert (await http.post("/beacon", json=sent)).status_code == 204
    events = await stored(suite, visit_id, len(jumps))
    # Three days are no way a clock may go, so the cart is where it was by everybody else's clock.
    assert [(name, state) for name, state, _ in events] == [
        ("PageExited", State.ANONYMOUS),
        ("SignIn", State.AUTHENTICATED),
        ("AddToCart", State.AUTHENTICATED),
        ("PageEntered", State.AUTHENTICATED),
    ]
    assert [at_ms for _, _, at_ms in events] == pytest.approx(
        [now - 5 * HOUR_MS, now, now, now + 5 * HOUR_MS], abs=9_000
    )


async def test_a_servers_clock_that_is_set_back_changes_no_order_and_loses_nothing(suite: Suite) -> None:
    visit_id, now = str(uuid.uuid4()), now_ms()
    async with suite.channel("collector") as channel:
        for number, (name, jump_ms) in enumerate([("SignIn", 0), ("AddToCart", -2 * HOUR_MS), ("SignOut", -HOUR_MS)]):
            data = {"userID": "dana"} if name == "SignIn" else {}
            one = message(name, data, visit_id=visit_id, timestamp_ms=now + number)
            sent = batch(one, contexts=[context(received_time_ms=now + jump_ms, sent_time_ms=now)])
            answer = await CollectorServiceStub(channel).Collect(CollectRequest(batch=sent), timeout=10)
            assert answer.stored_count == 1
    assert await stored(suite, visit_id, 3) == [
        ("SignIn", State.AUTHENTICATED, now),
        ("AddToCart", State.AUTHENTICATED, now + 1),
        ("SignOut", State.RECOGNIZED, now + 2),
    ]
    async with suite.http() as http:
        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
    assert visitor["state"] == "RECOGNIZED"
