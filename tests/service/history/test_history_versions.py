"""History together with an older or newer version: in the log, and in visits in the same MongoDB."""

from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_servicekit.errors import details_of
from footfall_timeline import LaterVersionError, State

from tests.tools.batches import new_uuid
from tests.tools.history import entry
from tests.tools.later import later
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms


async def test_an_entry_of_a_later_collector_is_stored(attributor: Attributor, stub: Any) -> None:
    story = Story("dana")
    batch = story.entry()
    strange = later(
        EventBatch(contexts=[later(one) for one in batch.contexts], events=[later(one) for one in batch.events])
    )
    assert (await attributor.store([EventBatch.FromString(strange.SerializeToString())])).unstorable == []
    answer = await stub.ListEvents(pb.ListEventsRequest(visit_id=story.visit_id))
    assert len(answer.events) == len(story.events)
    assert answer.events[2].stamp.identity_id == "dana"


async def test_an_entry_of_an_earlier_collector_is_stored(attributor: Attributor, stub: Any) -> None:
    bare = Event(event_id=new_uuid(), event_name="PageEntered", visit_id=new_uuid(), event_time_ms=now_ms())
    assert (await attributor.store([EventBatch(events=[bare])])).unstorable == []
    [stored] = (await stub.ListEvents(pb.ListEventsRequest(visit_id=bare.visit_id))).events
    assert (stored.event.event_id, stored.stamp.state) == (bare.event_id, State.ANONYMOUS)
    assert (await stub.GetVisit(pb.GetVisitRequest(visit_id=bare.visit_id))).visit.visit_id == bare.visit_id


async def test_a_visit_written_by_a_later_version_is_not_changed(
    attributor: Attributor, store: Store, stub: Any
) -> None:
    story, other = Story("dana"), Story("ann")
    await attributor.store([story.entry()])
    timeline = {new_uuid(): "!2|1700000000000|2|1|dana"}
    await store.visits.update_one({"_id": story.visit_id}, {"$set": {"timeline": timeline}, "$inc": {"rev": 1}})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetVisit(pb.GetVisitRequest(visit_id=story.visit_id))
    details = details_of(refused.value)
    assert details.code is grpc.StatusCode.UNAVAILABLE
    assert details.retry_ms
    more = entry([event("SignIn", story.visit_id, now_ms(), "ann")])
    with pytest.raises(LaterVersionError):  # so the entries stay for who can read it
        await attributor.store([other.entry(), more])
    [visit] = await store.read_visits([story.visit_id])
    assert visit["timeline"] == timeline
