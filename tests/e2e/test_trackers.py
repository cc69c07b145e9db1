"""Visits that other trackers report through a bad network: history has the visit that happened."""

import asyncio
import random
from functools import partial

import grpc
import httpx
import pytest
from footfall.history.v1 import history_service_pb2, history_service_pb2_grpc
from footfall_timeline import State

from tests.tools.eventually import eventually
from tests.tools.reference import Reference
from tests.tools.suite import Suite
from tests.tools.trackers import SDKS, Message, Sdk, Visit, random_visit
from tests.tools.visits import live_state, now_ms, scattered

pytestmark = pytest.mark.long

VISITS = 10
DAY_MS = 86_400_000


@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: str(sdk.name))
async def test_what_each_sdk_sends_twice_late_and_shuffled_is_the_visit_that_happened(suite: Suite, sdk: Sdk) -> None:
    chance = random.Random(sdk.name)  # noqa: S311 - repeatable, not secret
    start_ms = max(now_ms() - 600_000, now_ms() // DAY_MS * DAY_MS) // 1_000 * 1_000  # on this day
    visits = [random_visit(chance, start_ms) for _ in range(VISITS)]
    requests = [
        messages
        for visit in visits
        for messages in scattered([sdk.message(visit, step) for step in visit.steps], chance)
    ]
    chance.shuffle(requests)
    async with suite.http() as http, suite.channel("history") as history:
        await asyncio.gather(*(_send(http, sdk, messages) for messages in requests))
        for visit in visits:
            await eventually(partial(_is_right, http, history, sdk, visit))


async def _send(http: httpx.AsyncClient, sdk: Sdk, messages: list[Message]) -> None:
    method, path, body = sdk.request(messages, now_ms())
    answer = await http.request(method, path, content=body)
    assert answer.status_code == 200, answer.text


async def _is_right(http: httpx.AsyncClient, history: grpc.aio.Channel, sdk: Sdk, visit: Visit) -> None:
    """Compare the events of a visit, their attributions and its live state with the reference."""
    visit_id = sdk.visit_id(visit)
    events = [event for step in visit.steps for event in sdk.events(step)]
    reference = Reference(visits={visit_id: {event.event_id: event for event in events}})
    walk = reference.walk(visit_id)
    stub = history_service_pb2_grpc.HistoryServiceStub(history)
    answer = await stub.ListEvents(history_service_pb2.ListEventsRequest(visit_id=visit_id, page_size=1_000), timeout=5)
    stored = [
        (one.event.event_time_ms, one.event.event_name, State(one.stamp.state).name, one.stamp.identity_id)
        for one in answer.events
    ]
    assert stored == sorted((event.at_ms, event.name, *walk.stamps[event.event_id][:2]) for event in events)
    seen = await live_state(http, visit_id)
    assert (seen["state"], seen["identityId"] or "") == walk.last[:2]
    assert (seen["site"], seen["globalVisitId"]) == ("shop", visit.device)
