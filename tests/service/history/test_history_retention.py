"""Only events older than the retention are removed."""

from footfall_eventlog.settings import DAY_MS
from footfall_history.ingest.attribution import Attributor
from footfall_history.retention import sweep
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones

from tests.tools.history import entry
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

KEPT_MS = 30 * DAY_MS
HORIZON_MS = KEPT_MS + DAY_MS


async def ids(store: Store, visit_id: str) -> set[str]:
    return {found["event_id"] async for found in store.events.find({"visit_id": visit_id})}


async def test_events_expire_by_event_time_and_visits_by_last_receipt(store: Store, attributor: Attributor) -> None:
    old, older = now_ms() - HORIZON_MS - 15_000, now_ms() - HORIZON_MS - 2 * DAY_MS
    gone = Story("ann", older, received_time_ms=older)
    young = Story("cy", now_ms() - HORIZON_MS + 10_000)
    # A visit that never ends keeps its young events, and its timeline says who they belong to.
    endless = Story("bob", older, received_time_ms=older)
    late = event("AddToCart", endless.visit_id, now_ms())
    back = event("UserInfo", endless.visit_id, old + 30_000, "bob")
    await attributor.store([gone.entry(), young.entry(), endless.entry()])
    await attributor.store([entry([back, late])])

    await sweep(store, KEPT_MS)

    assert await ids(store, gone.visit_id) == set()
    assert await ids(store, young.visit_id) == {young.event_id(n) for n in range(7)}
    assert len(await ids(store, endless.visit_id)) == 2
    assert {visit["_id"] for visit in await store.find_visits({}, 0)} == {young.visit_id, endless.visit_id}
    where = {"visit_id": endless.visit_id, "event_name": "AddToCart"}
    assert [stored["identity_id"] async for stored in store.events.find(where)] == ["bob"]


async def test_late_events_of_an_expired_visit_begin_it_again(store: Store, attributor: Attributor) -> None:
    story = Story("ann")
    await attributor.store([entry(story.events[:4])])  # the attributor caches the visit
    await store.visits.delete_one({"_id": story.visit_id})
    await attributor.store([entry(story.events[4:5]), entry(story.events[2:3])])
    [visit] = await store.read_visits([story.visit_id])
    assert list(visit["timeline"]) == [story.event_id(2)]
    events = store.events.find({"visit_id": story.visit_id, "event_name": "PageExited"})
    assert [found["identity_id"] async for found in events] == ["ann"]


async def test_an_anonymous_visit_that_expired_while_it_was_remembered_is_begun_again(
    store: Store, attributor: Attributor
) -> None:
    old = now_ms() - HORIZON_MS - DAY_MS
    story = Story("ann", old, received_time_ms=old)
    await attributor.store([entry(story.events[:2], received_time_ms=old)])
    await sweep(store, KEPT_MS)
    assert await store.read_visits([story.visit_id]) == []
    await attributor.store([entry([event("AddToCart", story.visit_id, now_ms())])])
    [visit] = await store.read_visits([story.visit_id])
    assert visit["rev"] == 0


async def test_a_visit_that_another_process_began_again_is_not_the_remembered_one_of_that_revision(
    store: Store, tombstones: Tombstones, attributor: Attributor
) -> None:
    story = Story("ann")
    await attributor.store([story.entry()])
    await store.visits.delete_one({"_id": story.visit_id})
    await store.events.delete_many({"visit_id": story.visit_id})
    again = event("SignIn", story.visit_id, now_ms(), "bob")
    await Attributor(store, tombstones, max_transitions=1_000).store([entry([again])])
    for later_ms in (1_000, 2_000):  # the first finds that the visit has changed
        await attributor.store([entry([event("AddToCart", story.visit_id, again["timestamp"] + later_ms)])])
    assert (await tombstones.read_visits([story.visit_id]))[story.visit_id].rev == 1
    events = store.events.find({"visit_id": story.visit_id}).sort("order_key")
    assert [found["identity_id"] async for found in events][-1] == "bob"
