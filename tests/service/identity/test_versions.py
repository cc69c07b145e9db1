"""Identity with data of an older or a newer version, in the log and in live state."""

import json
from functools import partial
from typing import Any

import pytest
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_eventlog.stream import Entry
from footfall_identity.link_store import LinkStore
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import RequestError
from footfall_timeline import State

from tests.tools.identity import admitted, entry, key, new_id, resolve
from tests.tools.later import later
from tests.tools.visits import now_ms

LATER_SUMMARY = "!2 made by a later version"


async def test_an_entry_of_a_later_collector_is_understood(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    event = later(admitted("SignIn", new_id(), now_ms(), "ann"))
    batch = later(EventBatch(events=[event]))
    await consumer.handle(0, [Entry("1-0", batch.SerializeToString())])
    assert (await store.get([event.visit_id]))[event.visit_id].visit_state.attribution.identity == "ann"
    assert (await links.get(["ann"]))["ann"].first_ms == event.event_time_ms


async def test_an_entry_of_an_earlier_collector_is_understood(
    consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    bare = Event(
        event_id=new_id(),
        event_name="SignIn",
        visit_id=new_id(),
        event_time_ms=now_ms(),
        transition=event_pb2.TRANSITION_KIND_SIGN_IN,
        identity_id="ann",
        data_json=json.dumps({"userID": "ann"}).encode(),
    )
    await consumer.handle(0, [entry(bare)])
    stamp = (await store.get([bare.visit_id]))[bare.visit_id].visit_state.attribution
    assert (stamp.state, stamp.identity) == (State.AUTHENTICATED, "ann")
    assert (await links.get(["ann"]))["ann"].first_ms == bare.event_time_ms


@pytest.mark.parametrize("what", ["entry", "summary"])
async def test_a_visit_of_a_later_version_is_unavailable_and_unchanged(
    consumer: RecordConsumer, store: VisitorStore, redis: Any, what: str
) -> None:
    event = admitted("SignIn", new_id(), now_ms(), "ann")
    await resolve(store, event)
    visit = f"{key('visit', event.visit_id)}:{event.visit_id}"
    field, text = (event.event_id, f"!2|{event.event_time_ms}|2|1|ann") if what == "entry" else ("visit", LATER_SUMMARY)
    await redis.hset(visit, field, text)
    other = admitted("SignIn", new_id(), now_ms(), "bob")
    for attempt in (
        partial(store.get, [event.visit_id]),
        partial(resolve, store, admitted("SignOut", event.visit_id, now_ms())),
        partial(consumer.handle, 0, [entry(other, event)]),  # the entry stays for a version that can read it
    ):
        with pytest.raises(RequestError) as refused:
            await attempt()
        assert refused.value.reason == "LATER_VERSION"
    assert (await redis.hget(visit, field)).decode() == text
