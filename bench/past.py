"""Turns a number of events into a past of some days, and that into the documents history would have made of it."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import itemgetter
from typing import Any

from footfall.event.v1.event_pb2 import EventBatch
from footfall_history.ingest.last_keys import EVENTS_PER_NOTE
from footfall_history.storage.arrivals import group_by_visit
from footfall_history.storage.documents import Document
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_history.storage.visit import Visit
from footfall_timeline import order_key

from tests.tools.history import entry
from tests.tools.visits import Event, event, new_id, now_ms

DAYS = 5
VISITS_A_PERSON = 100
PAGES_A_VISIT = 2
VISITS_A_LONG_ONE = 50
PAGES_A_LONG_VISIT = 100
PAGE_MS = 8_000
EVENTS_A_PERSON = 1_000
AT_ONCE = 100
"""Visits that are under way at one time: so many come to be stored side by side."""


@dataclass(frozen=True)
class Past:
    """What was done within some days, spread evenly over them; twice as many events by twice as many people.

    In each 1,000 of `events` one person comes back 100 times and signs in, for two pages; and there are two visits of
    100 pages by people unknown. The visits of a person are as far from one another as the days allow.
    """

    events: int
    longest: int = 0
    """Events of one visit more, of one page after another."""
    start_ms: int = field(default_factory=lambda: now_ms() - (DAYS + 1) * 86_400_000)

    @cached_property
    def identities(self) -> list[str]:
        """Those who come back."""
        return [f"visitor-{number}@shop.example" for number in range(self.events // EVENTS_A_PERSON)]

    @cached_property
    def long_visits(self) -> list[str]:
        """The ids of the visits of 100 pages."""
        count = len(self.identities) * VISITS_A_PERSON // VISITS_A_LONG_ONE
        return [_id_of(f"long visit {number}") for number in range(count)]

    @cached_property
    def longest_visit(self) -> str:
        """The id of the visit of `longest` events."""
        return _id_of("longest visit")

    def visits(self) -> Iterator[EventBatch]:
        """The visits as they began, each as one entry of the log."""
        if self.longest:
            pages = _pages(self.longest_visit, self.start_ms, self.longest // 2)
            yield _entry(self.longest_visit, pages)
        count = len(self.identities) * VISITS_A_PERSON
        for number in range(count):
            at_ms = self.start_ms + number * DAYS * 86_400_000 // count
            if number % VISITS_A_LONG_ONE == 0:
                visit_id = self.long_visits[number // VISITS_A_LONG_ONE]
                yield _entry(visit_id, _pages(visit_id, at_ms, PAGES_A_LONG_VISIT))
            visit_id, identity = str(uuid.uuid4()), self.identities[number % len(self.identities)]
            first = [event("VisitStarted", visit_id, at_ms), event("SignIn", visit_id, at_ms + 1, identity)]
            yield _entry(_id_of(identity), [*first, *_pages(visit_id, at_ms + 2, PAGES_A_VISIT)])


def _id_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def _entry(device: str, events: list[Event]) -> EventBatch:
    return entry([one | {"globalVisitID": device} for one in events], received_time_ms=events[-1]["timestamp"])


def _pages(visit_id: str, at_ms: int, count: int) -> list[Event]:
    events = []
    for number in range(count):
        page: dict[str, Any] = {
            "pageID": new_id(),
            "url": f"https://www.shop.example/section-{number % 12}/{number}.html",
        }
        title = {"title": f"Article {number} of the catalogue"}
        entered_ms = at_ms + number * PAGE_MS
        events.append(event("PageEntered", visit_id, entered_ms, data=title, **page))
        events.append(event("PageExited", visit_id, entered_ms + PAGE_MS - 1_000, **page))
    return events


def documents(entries: Iterable[EventBatch], tombstones: Tombstones) -> tuple[list[Document], list[Document]]:
    """The visits and the events as history stores them, if each visit is whole and no person has been erased.

    The same steps as of `Stamper.keep`, without asking a store.
    """
    visits, events = [], []
    for visit_id, arrival in group_by_visit(entries, []).items():
        begun = Visit.new(visit_id, arrival.start | arrival.origin, arrival.received_ms, arrival.marks)
        visit = begun.merged(arrival.transitions, 1_000)
        visits.append(visit.document() | tombstones.timeline_fields(visit))
        events += [tombstones.with_hash(visit.attributed(document, {})) for document in arrival.events.values()]
    return visits, sorted(events, key=itemgetter("order_key"))


async def fill(
    store: Store, past: Past, tombstones: Tombstones, report: Callable[[int], object] = lambda _: None
) -> None:
    """Store a past in a history that has seen nothing. It must not run meanwhile.

    `report` is called with the number of events stored so far.

    Raises:
        RuntimeError: the store has not taken all of it.

    """
    entries = past.visits()

    def some() -> tuple[list[Document], list[Document]]:
        return documents(islice(entries, AT_ONCE), tombstones)

    visits, events = some()
    count = 0
    while visits:
        count += len(events)
        # The next ones are made while these are being stored.
        *_, (visits, events) = await asyncio.gather(
            store.begin_visits(visits), store.insert_events(events), asyncio.to_thread(some)
        )
        report(count)
    if await store.events.estimated_document_count() != past.events + past.longest:
        raise RuntimeError("the store has not taken all events")
    if past.longest:
        # The consumer has noted, about so many events ago, how far it had come.
        noted_ms = past.start_ms + (past.longest - EVENTS_PER_NOTE) // 2 * PAGE_MS
        await store.note_last_keys({past.longest_visit: order_key(noted_ms, "")})
