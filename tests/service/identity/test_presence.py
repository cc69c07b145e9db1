"""Whether visitors are on the website, by the pages they have entered and left, in any order of events."""

import asyncio
import os
import random
from typing import Any

from footfall.event.v1.event_pb2 import Event
from footfall.history.v1.history_service_pb2 import LiveVisit
from footfall.identity.v1 import visitor_pb2
from footfall_identity import messages
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.partitions import Partitions
from footfall_identity.presence import Presence
from footfall_identity.visit_record import VisitUpdate
from footfall_identity.visitor_store import REPORT_MS, VisitorStore

from tests.service.identity.conftest import visitor_notices, visitor_store
from tests.tools.identity import IDLE_MS, LEAVE_MS, admitted, new_id, resolve
from tests.tools.presence import Pages, Seen
from tests.tools.visits import now_ms, scattered

EXAMPLES = int(os.environ.get("FOOTFALL_EXAMPLES", "50"))
MINUTE_MS = 60_000


def random_visit(chance: random.Random, began_ms: int) -> list[Event]:
    """Return events of up to six pages of a visit, each of which may be entered, left and seen several times."""
    visit_id, pages = new_id(), [new_id() for _ in range(chance.randint(1, 6))]
    events = []
    for _ in range(chance.randint(1, 16)):
        name = chance.choice(["PageEntered", "PageExited", "PageExited", "AddToCart", "SignIn"])
        number = chance.randrange(len(pages) + 1)
        page_id = [*pages, ""][number]
        # No two pages have the same time: which of them is forgotten first is left open.
        at_ms = began_ms + 10 * number + chance.choice([0, 1, LEAVE_MS, LEAVE_MS + 1, 500 * chance.randint(0, 40)])
        url = chance.choice([f"https://shop.example/{page_id}", ""])
        person = "ann" if name == "SignIn" else ""
        events.append(admitted(name, visit_id, at_ms, person, page_id=page_id, url=url, title=page_id[:4]))
    return events


async def test_any_order_of_events_gives_the_presence_of_the_reference(
    partitions: Partitions, store: VisitorStore
) -> None:
    chance = random.Random(EXAMPLES)  # noqa: S311
    stores = {most: visitor_store(partitions, max_pages=most) for most in (1, 2, 3, 32)}
    for _ in range(EXAMPLES):
        most = chance.choice([*stores])
        events = random_visit(
            chance, now_ms() - chance.choice([0, MINUTE_MS, IDLE_MS - MINUTE_MS, IDLE_MS + MINUTE_MS])
        )
        for batch in scattered(events, chance):
            await resolve(stores[most], *batch)
        record = (await store.get([events[0].visit_id]))[events[0].visit_id]
        pages = Pages((Seen(e.event_time_ms, e.event_name, e.page_id, e.url) for e in events), most, LEAVE_MS)
        found = record.open_page_count, record.last_exit_ms, record.presence.name
        of_events = f"{most} pages of {sorted((e.event_time_ms, e.event_name, e.page_id[:4], e.url) for e in events)}"
        assert found == (len(pages.open), pages.last_exit_ms, pages.presence(now_ms(), IDLE_MS)), of_events
        if most == 32:
            assert (record.url, record.page_enter_ms) == pages.current(), of_events


async def test_another_tab_that_is_closed_leaves_the_visitor_on_the_open_page(store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms() - MINUTE_MS
    loans, cars = new_id(), new_id()

    async def current(*events: Event) -> tuple[str, str, int, int, str]:
        await resolve(store, *events)
        record = (await store.get([visit_id]))[visit_id]
        return record.url, record.title, record.page_enter_ms - at, record.open_page_count, record.presence.name

    def page_event(name: str, page_id: str, seconds: int) -> Event:
        page = "loans" if page_id == loans else "cars"
        title = page.title() if name == "PageEntered" else ""
        url = f"https://shop.example/{page}"
        return admitted(name, visit_id, at + seconds * 1_000, url=url, title=title, page_id=page_id)

    on_loans = "https://shop.example/loans", "Loans", 0
    on_cars = "https://shop.example/cars", "Cars", 1_000
    assert await current(page_event("PageEntered", loans, 0)) == (*on_loans, 1, "PRESENT")
    assert await current(page_event("PageEntered", cars, 1)) == (*on_cars, 2, "PRESENT")
    assert await current(page_event("Scrolled", loans, 2)) == (*on_loans, 2, "PRESENT")
    assert await current(page_event("Scrolled", cars, 3)) == (*on_cars, 2, "PRESENT")
    assert await current(page_event("PageExited", cars, 4)) == (*on_loans, 1, "PRESENT")
    left = 0 - at, 0, "LEFT"
    assert await current(page_event("PageExited", loans, 5)) == (on_loans[0], "", *left)
    going_away = page_event("Unloaded", cars, 6), page_event("Unloaded", loans, 10)
    assert await current(*going_away) == (on_loans[0], "", *left), "pages may send events while they go away"
    assert await current(page_event("PageEntered", cars, 11)) == (on_cars[0], "Cars", 11_000, 1, "PRESENT")
    assert await current(page_event("PageEntered", loans, 12)) == (on_loans[0], "Loans", 12_000, 2, "PRESENT")
    same_time = page_event("PageExited", loans, 13), page_event("PageEntered", cars, 13)
    assert await current(*same_time) == (on_cars[0], "Cars", 13_000, 1, "PRESENT")


async def test_open_pages_forget_what_erased_persons_have_seen(partitions: Partitions, store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms() - MINUTE_MS
    page = {"page_id": new_id(), "url": "https://shop.example/of-ann", "title": "Of Ann"}
    await resolve(store, admitted("SignIn", visit_id, at, "ann"), admitted("PageEntered", visit_id, at + 1, **page))
    other = {"page_id": new_id(), "url": "https://shop.example/of-bob", "title": "Of Bob"}
    await resolve(
        store, admitted("SignIn", visit_id, at + 2, "bob"), admitted("PageEntered", visit_id, at + 3, **other)
    )
    number = partitions.number_of(visit_id)
    await IdentityIndex(partitions, store).erase(number, store.hash_of("ann"), at + 1)
    stored = await partitions.redis[number].hget(partitions.keys[number].visit + visit_id, "visit")
    assert b"of-bob" in stored
    assert b"of-ann" not in stored
    assert b"Of Ann" not in stored
    await resolve(store, admitted("PageExited", visit_id, at + 4, **other))
    record = (await store.get([visit_id]))[visit_id]
    assert (record.open_page_count, record.url) == (1, other["url"])


async def test_visitors_who_leave_and_visits_that_end_are_noted_once(partitions: Partitions) -> None:
    store, at = visitor_store(partitions, leave_ms=500, idle_ms=60_000), now_ms()
    notices = [visitor_notices(partitions, store) for _ in range(2)]
    leaving, staying, known, ended, left_before = [new_id() for _ in range(5)]

    async def happens(name: str, visit_id: str, at_ms: int, user: str = "") -> None:
        await resolve(store, admitted(name, visit_id, at_ms, user, page_id=visit_id))

    async def noted() -> list[tuple[str, ...]]:
        await asyncio.gather(*(one.note_due(number) for number in partitions.numbers for one in notices))
        changes = [one for number in partitions.numbers for one in await store.changes(number, "0-0", 100)]
        return sorted((change.visit_id, *change.kinds) for change in changes if change.kinds & {*"LER"})

    assert await noted() == []
    for visit_id in (leaving, staying, left_before):
        await happens("PageEntered", visit_id, at)
    await happens("SignIn", known, at - 57_500, "ann")
    await happens("PageEntered", ended, at - 57_500)
    await happens("PageExited", left_before, at)
    await happens("PageExited", left_before, at)  # repeated
    assert await noted() == []
    await asyncio.sleep(1)
    await happens("PageExited", leaving, at)
    left = sorted([(leaving, "L"), (left_before, "L")])
    assert await noted() == left
    await happens("PageEntered", leaving, now_ms())
    assert await noted() == sorted([*left, (leaving, "R")])
    await asyncio.sleep(3)
    assert await noted() == sorted([*left, (leaving, "R"), (known, "E"), (ended, "E")])
    number = partitions.number_of(ended)
    await visitor_store(partitions, idle_ms=-2 * REPORT_MS).remove_expired(number)
    assert await partitions.redis[number].zrange(partitions.keys[number].live_anonymous, 0, -1) == []


async def test_pages_that_history_knows_come_back(store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms() - MINUTE_MS
    left, opened = new_id(), new_id()
    pages = [
        LiveVisit.Page(page_id=left, last_active_time_ms=at, enter_time_ms=at, exit_time_ms=at + 1, url="/left"),
        LiveVisit.Page(page_id=opened, last_active_time_ms=at + 2, enter_time_ms=at + 2, url="/open", title="Open"),
    ]
    visit: dict[str, Any] = {
        "visit_id": visit_id,
        "site": "default",
        "first_event_time_ms": at,
        "last_event_time_ms": at + 3,
    }
    lost = LiveVisit(**visit, url="/left", url_time_ms=at + 3, pages=pages)
    for _ in range(2):
        await store.merge([VisitUpdate.of_history(lost)])
    record = (await store.get([visit_id]))[visit_id]
    assert (record.url, record.title, record.page_enter_ms) == ("/open", "Open", at + 2)
    assert (record.open_page_count, record.last_exit_ms, record.leave_ms) == (1, at + 1, 0)
    await resolve(store, admitted("PageExited", visit_id, at + 4, page_id=opened))
    record = (await store.get([visit_id]))[visit_id]
    assert (record.presence, record.leave_ms) == (Presence.LEFT, at + 4)


async def test_an_ended_visit_says_so(store: VisitorStore) -> None:
    visit_id, at = new_id(), now_ms() - 3 * IDLE_MS
    await resolve(store, admitted("SignIn", visit_id, at, "ann", page_id=new_id()))
    visitor = messages.visitor((await store.get([visit_id]))[visit_id], {})
    assert visitor.presence == visitor_pb2.VISITOR_PRESENCE_ENDED
    assert (visitor.leave_time.ToMilliseconds(), visitor.open_page_count) == (at, 1)
    assert (visitor.state, visitor.identity_id) == (visitor_pb2.VISITOR_STATE_AUTHENTICATED, "ann")
