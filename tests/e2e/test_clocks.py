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

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


async def stored(suite: Suite, visit_id: str, count: int) -> list[tuple[str, State, int]]:
    """The name, state and event time of a visit's events in order, once there are so many."""
    async with suite.channel("history") as channel:

        async def events() -> list[Any]:
            request = ListEventsRequest(visit_id=visit_id)
            answer: Any = await HistoryServiceStub(channel).ListEvents(request, timeout=5)
            assert len(answer.events) == count
            return list(answer.events)

        found = await eventually(events, timeout=20)
    return [(each.event.event_name, State(each.stamp.state), each.event.event_time_ms) for each in found]


async def test_a_browsers_clock_that_jumps_changes_no_order(suite: Suite) -> None:
    visit_id, began = str(uuid.uuid4()), now_ms()
    jumps = [("SignIn", 0), ("PageEntered", 5 * HOUR_MS), ("AddToCart", 3 * DAY_MS), ("PageExited", -5 * HOUR_MS)]
    async with suite.http() as http:
        for name, jump_ms in jumps:
            at_ms, user = now_ms() + jump_ms, "dana" if name == "SignIn" else None
            sent = {"sentAt": at_ms, "events": [event(name, visit_id, at_ms, user)]}
            assert (await http.post("/beacon", json=sent)).status_code == 204
    events = await stored(suite, visit_id, len(jumps))
    assert [(name, state) for name, state, _ in events] == [(name, State.AUTHENTICATED) for name, _ in jumps]
    assert all(began <= at_ms <= now_ms() for _, _, at_ms in events)


@pytest.mark.parametrize("jump_ms", [-31 * MINUTE_MS, 5 * HOUR_MS])
async def test_a_visitor_whose_clock_is_wrong_is_here_now_and_not_for_longer(suite: Suite, jump_ms: int) -> None:
    visit_id, site, began = str(uuid.uuid4()), f"shop-{uuid.uuid4().hex[:12]}", now_ms()
    names = {"PageEntered": began - HOUR_MS, "PageExited": began}
    events = [event(name, visit_id, at_ms + jump_ms, site=site) for name, at_ms in names.items()]
    async with suite.http() as http:
        beacon = {"sentAt": began + jump_ms, "events": events}
        assert (await http.post("/beacon", json=beacon)).status_code == 204
        by = now_ms()

        async def is_listed() -> None:
            visitors = (await http.get("/api/v1/visitors", params={"site": site})).json()["visitors"]
            assert [began <= visitor["lastEventTime"] <= by for visitor in visitors] == [True]

        await eventually(is_listed)
    queued, _ = await stored(suite, visit_id, 2)  # for an hour, by any clock
    assert (queued[0], began <= queued[2] + HOUR_MS <= by) == ("PageEntered", True)


@pytest.mark.parametrize(
    ("jumps_ms", "tells_its_clock"), [((0, -4_000, -2_000), True), ((0, -2 * HOUR_MS, -HOUR_MS), False)]
)
async def test_a_servers_clock_that_is_set_back_changes_no_order_and_loses_nothing(
    suite: Suite, jumps_ms: tuple[int, ...], tells_its_clock: bool
) -> None:
    visit_id, now = str(uuid.uuid4()), now_ms()
    async with suite.channel("collector") as channel:
        for number, (name, jump_ms) in enumerate(zip(("SignIn", "AddToCart", "SignOut"), jumps_ms, strict=True)):
            data = {"userID": "dana"} if name == "SignIn" else {}
            one = message(name, data, visit_id=visit_id, timestamp_ms=now + number)
            sent = batch(one, contexts=[context(received_time_ms=now + jump_ms, sent_time_ms=now * tells_its_clock)])
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
