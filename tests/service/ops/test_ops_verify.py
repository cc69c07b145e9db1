"""`footfall-ops verify` finds what is stored otherwise than it follows from the timelines, and only that."""

from typing import Any

import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.admitted import transition_of
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_identity.visit_record import visit_updates
from footfall_identity.visitor_store import VisitorStore

from tests.service.ops.conftest import Ops
from tests.tools.stories import Story


def with_contexts(batch: EventBatch) -> EventBatch:
    """A batch as live state needs it: with the time of receipt in each event."""
    for event in batch.events:
        event.received_time_ms = batch.contexts[event.context_index].received_time_ms
    return batch


async def merge(live: VisitorStore, *stories: Story) -> None:
    events = [event for story in stories for event in with_contexts(story.entry()).events]
    await live.merge(visit_updates((event, transition_of(event)) for event in events))


async def test_exactly_the_event_is_found_whose_attribution_was_changed(
    ops: Ops, store: Store, attributor: Attributor, live: VisitorStore, capsys: pytest.CaptureFixture[str]
) -> None:
    stories = [Story(f"person {number}") for number in range(60)]
    await attributor.store(story.entry() for story in stories)
    await merge(live, *stories)
    assert await ops("verify") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "60 visits with 420 events verified, 0 differences." in said.err
    assert "60 live visits compared, 0 differences." in said.err

    story = stories[7]
    place = {"visit_id": story.visit_id, "event_id": story.event_id(3)}
    await store.events.update_one(place, {"$set": {"state": 1}, "$unset": {"identity_id": "", "session_id": ""}})
    assert await ops("verify") == 1
    difference = f"{story.visit_id}/{story.event_id(3)}\tdiffers from the timeline: state, identity_id, session_id"
    assert capsys.readouterr().out == f"attribution\t{difference}\n"
    assert await ops("verify", "--skip-live", "--to", "2026-01-01") == 0
    assert await ops("verify", "--skip-live", "--site", "another") == 0
    assert await ops("verify", "--repair") == 0
    assert "1 differences, 1 corrected" in capsys.readouterr().err
    assert await ops("verify") == 0


async def test_indexed_fields_of_visits_and_impossible_revisions_are_found_and_corrected(
    ops: Ops, store: Store, attributor: Attributor, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = Story("ann"), Story("bob")
    await attributor.store([ann.entry(), bob.entry()])
    await store.visits.update_one({"_id": ann.visit_id}, {"$set": {"session_ids": [], "identities": []}})
    await store.events.update_one({"event_id": bob.event_id(0)}, {"$set": {"rev": 99}})
    assert await ops("verify", "--skip-live") == 1
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"attribution\t{bob.visit_id}/{bob.event_id(0)}\tdiffers from the timeline: rev",
        f"visit\t{ann.visit_id}\tdiffers from the timeline: session_ids, identities",
    ]
    assert await ops("verify", "--skip-live", "--repair") == 0
    assert await ops("verify", "--skip-live") == 0


async def test_live_visits_that_differ_are_found(
    ops: Ops,
    store: Store,
    attributor: Attributor,
    live: VisitorStore,
    *,
    redis: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stories = [Story(f"person {number}") for number in range(4)]
    only_live, shorter = Story("only live"), Story("shorter")
    await attributor.store(story.entry() for story in [*stories, shorter])
    await merge(live, *stories, only_live)
    await redis.delete(f"visit:{{p00}}:{stories[0].visit_id}")
    await redis.hdel(f"visit:{{p00}}:{stories[1].visit_id}", stories[1].event_id(2))
    shorter.events.pop()
    await merge(live, shorter)
    assert await ops("verify") == 1
    found = [tuple(line.split("\t")) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 4
    assert {*found} == {
        ("live", stories[0].visit_id, "live state does not have the visit"),
        ("live", stories[1].visit_id, "live state and history differ: timeline"),
        ("live", shorter.visit_id, "live state and history differ: timeline, last event"),
        ("live", only_live.visit_id, "history does not have the visit"),
    }
