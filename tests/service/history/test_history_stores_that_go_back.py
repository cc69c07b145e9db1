"""What history does when MongoDB has gone back, and what it gives identity when Redis has."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_KEY, EventBatch
from footfall.history.v1.history_service_pb2 import LiveVisit, StreamLiveVisitsRequest
from footfall_eventlog.stream import Entry
from footfall_history.ingest.attribution import Attributor
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.storage.documents import IMPORTED
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_timeline import from_fields, normalize_uuid

from tests.service.history.conftest import IDLE_MS
from tests.tools.history import entry
from tests.tools.visits import Event, event, now_ms, transitions

MINUTE_MS = 60_000


def logged_as(number: int, batch: EventBatch) -> Entry:
    return Entry(f"{number}-0", batch.SerializeToString())


async def live_visits(stub: Any, *partitions: int) -> dict[str, LiveVisit]:
    answers = [answer async for answer in stub.StreamLiveVisits(StreamLiveVisitsRequest(partitions=partitions))]
    return {visit.visit_id: visit for answer in answers for visit in answer.visits}


async def test_an_event_that_was_attributed_by_a_lost_revision_is_attributed_again(
    consumer_with: Callable[..., LogConsumer], attributor: Attributor, store: Store
) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms()
    sign_in = event("SignIn", visit_id, at_ms, "ann")
    sign_out = event("SignOut", visit_id, at_ms + 1)
    late = event("UserInfo", visit_id, at_ms + 2, "bob")
    page = event("PageEntered", visit_id, at_ms + 3)
    again_until = ""

    async def read_again_until(_number: int) -> str:
        return again_until

    consumer = consumer_with(read_again_until=read_again_until)
    await consumer.handle(0, [logged_as(1, entry([sign_in]))])
    await consumer.handle(0, [logged_as(2, entry([sign_out]))])
    await store.events.delete_many({"visit_id": visit_id})
    await store.visits.delete_many({"_id": visit_id})
    await consumer.handle(0, [logged_as(3, entry([page]))])  # it remembers the second revision, which is lost
    again_until = "3-0/1"
    await consumer.handle(0, [logged_as(number, entry([one])) for number, one in enumerate([sign_in, sign_out, page])])
    await consumer.handle(0, [logged_as(4, entry([late]))])  # another second revision
    stored = await store.events.find_one({"event_id": normalize_uuid(page["eventID"])})
    assert stored
    assert stored["identity_id"] == "bob"


async def test_live_visits_are_given_with_all_that_live_state_needs(stub: Any, attributor: Attributor) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms() - IDLE_MS // 2
    device = str(uuid.uuid4())
    events = [
        event("VisitStarted", visit_id, at_ms, globalVisitID=device),
        event("SignIn", visit_id, at_ms + 1, "dana"),
        event("PageEntered", visit_id, at_ms + 2, url="https://shop.example/cart", data={"title": "Cart" + "!" * 300}),
        event("AddToCart", visit_id, at_ms + 3, url="https://shop.example/cart", staffReason=STAFF_REASON_KEY),
        event("PageExited", visit_id, at_ms + 3, url="", pageID="another"),
        event("SignOut", visit_id, at_ms + 4, url=""),
    ]
    await attributor.store([entry(events, received_time_ms=at_ms + 5)])
    visit = (await live_visits(stub))[visit_id]
    assert from_fields(visit.timeline.items()) == tuple(sorted(transitions(events)))
    visit.timeline.clear()
    left, cart = sorted(visit.pages, key=lambda page: page.last_active_time_ms)
    title = "Cart" + "!" * 252
    assert left == LiveVisit.Page(page_id=left.page_id, exit_time_ms=at_ms + 3)
    assert cart == LiveVisit.Page(
        page_id=cart.page_id,
        last_active_time_ms=at_ms + 4,
        enter_time_ms=at_ms + 2,
        url="https://shop.example/cart",
        title=title,
    )
    del visit.pages[:]
    assert visit == LiveVisit(
        visit_id=visit_id,
        global_visit_id=device,
        site="default",
        first_received_time_ms=at_ms + 5,
        first_event_time_ms=at_ms,
        last_event_time_ms=at_ms + 4,
        url="https://shop.example/cart",
        url_time_ms=at_ms + 3,
        title=title,
        title_url="https://shop.example/cart",
        title_time_ms=at_ms + 2,
        staff=True,
    )
    assert await live_visits(stub, 0) == await live_visits(stub)
    assert await live_visits(stub, 1) == {}


async def test_visits_that_ended_or_were_imported_are_not_live_and_long_ones_are(
    stub: Any, attributor: Attributor, store: Store, tombstones: Tombstones
) -> None:
    now, begun_ms = now_ms(), now_ms() - 5 * IDLE_MS
    ended, long, imported = [str(uuid.uuid4()) for _ in range(3)]
    importing = Attributor(store, tombstones, max_transitions=1_000, mark=IMPORTED)
    await importing.store([entry([event("PageEntered", imported, now)])])

    async def arrive(one: Event) -> None:
        await attributor.store([entry([one], received_time_ms=one["timestamp"])])

    await arrive(event("PageEntered", ended, begun_ms))
    await arrive(event("PageEntered", long, begun_ms, data={"title": "Opened long ago"}))
    await arrive(event("PageEntered", long, begun_ms, pageID="left since"))
    await arrive(event("PageExited", long, begun_ms + 1, pageID="left since"))
    await arrive(event("PageEntered", ended, now - IDLE_MS - MINUTE_MS))
    for at_ms in range(begun_ms, now - MINUTE_MS, IDLE_MS // 2):
        await arrive(event("PageEntered", long, at_ms))
    found = await live_visits(stub)
    assert long in found
    assert not found.keys() & {ended, imported}
    assert (found[long].first_event_time_ms, found[long].title_time_ms) == (begun_ms, begun_ms)
    assert found[long].title == "Opened long ago"
    left, opened = sorted(found[long].pages, key=lambda page: page.last_active_time_ms)
    assert (left.enter_time_ms, left.exit_time_ms) == (begun_ms, begun_ms + 1), "pages of long ago are given as well"
    assert (opened.exit_time_ms, opened.last_active_time_ms) == (0, found[long].last_event_time_ms)


async def test_live_visits_are_given_soon_and_the_newest_first(
    stub: Any, attributor: Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footfall_history.queries.live_visits._VISITS_PER_GROUP", 1)
    old, new = str(uuid.uuid4()), str(uuid.uuid4())
    for visit_id, at_ms in ((new, now_ms() + 2_000), (old, now_ms() + 1_000)):
        await attributor.store([entry([event("PageEntered", visit_id, at_ms)], received_time_ms=at_ms)])
    answers = [answer async for answer in stub.StreamLiveVisits(StreamLiveVisitsRequest())]
    first, second = ([visit.visit_id for visit in answer.visits] for answer in answers[:2])
    assert (first, second) == ([new], [old])


async def test_a_live_visit_with_an_erased_event_is_given(stub: Any, attributor: Attributor, store: Store) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms()
    await attributor.store([entry([event("AddToCart", visit_id, at_ms)], received_time_ms=at_ms)])
    await store._database["events"].update_one({"visit_id": visit_id}, {"$unset": {"event_name": ""}})
    answers = [answer async for answer in stub.StreamLiveVisits(StreamLiveVisitsRequest())]
    assert visit_id in {visit.visit_id for answer in answers for visit in answer.visits}
