"""Newest page entries and business events of a person's visits, read with few commands to MongoDB.

Of most visits one command reads all events, those of the last few short ones together. Pages and business events are
picked from them.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

from footfall.event.v1.event_pb2 import EVENT_TYPE_BUSINESS
from footfall.history.v1 import visit_pb2 as pb
from footfall_eventlog.events import HEARTBEAT, PAGE_ENTERED, PAGE_EXITED

from footfall_history.queries import resources
from footfall_history.queries.filters import Window, site_filter, time_key
from footfall_history.queries.reader import IS_ENTRY, Reader
from footfall_history.storage import TOUCH_INTERVAL_MS, Document, EventQuery, Store, Visit, event_time_ms, stored_event

MAX_PAGES: Final = 10
MAX_EVENTS: Final = 20

_SHORT_MS: Final = 30 * 60_000
_READ: Final = 100
"""Events that are read together."""
_TOGETHER: Final = 3
"""Visits whose events are read together. Of more visits, most of the events would often not be needed."""
_IS_BUSINESS: Final[Document] = {"event_type": EVENT_TYPE_BUSINESS, "event_name": {"$ne": HEARTBEAT}}


class Activity(NamedTuple):
    """Page entries and business events, newest first."""

    pages: Sequence[pb.Page]
    events: Sequence[pb.StoredEvent]

    def merged(self, other: "Activity") -> "Activity":
        """The newest of both."""
        pages = sorted([*self.pages, *other.pages], key=resources.page_key, reverse=True)
        events = sorted([*self.events, *other.events], key=resources.event_key, reverse=True)
        return Activity(pages[:MAX_PAGES], events[:MAX_EVENTS])

    def is_newer_than(self, key: str) -> bool:
        """Whether nothing of before this key would be added."""
        if len(self.pages) < MAX_PAGES or len(self.events) < MAX_EVENTS:
            return False
        return min(resources.page_key(self.pages[-1]), resources.event_key(self.events[-1])) > key


class RecentActivity:
    """Reads what persons did. Methods raise TRANSIENT_STORE_ERRORS."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    async def read(
        self, visits: Sequence[Document], identity_ids: Collection[str], sites: Sequence[str], since_key: str
    ) -> Activity:
        """The newest pages and events since a key. `visits`: stored visits of the person, the last active first.

        Events of other persons are left out, and anonymous ones of visits that named another person first.
        """
        found = Activity((), ())
        whole = await self._whole(visits[:_TOGETHER], sites)
        for visit in visits:
            if found.is_newer_than(time_key(last_possible_ms(visit))):
                break
            owners = _owners(visit, identity_ids)
            if (events := whole.get(visit["_id"])) is not None:
                of_visit = _activity(events, owners, since_key)
            else:
                of_visit = await self._of_visit(visit, owners, sites, since_key)
            found = found.merged(of_visit)
        return found

    async def _whole(self, visits: Sequence[Document], sites: Sequence[str]) -> dict[str, list[Document]]:
        """All events of the short ones of these visits, by visit, the newest first; none if there are many."""
        short = [visit["_id"] for visit in visits if _is_short(visit)]
        if len(short) < 2:
            return {}
        found = await self._store.events_with("visit_id", short, site_filter(sites), None, _READ)
        if len(found) == _READ:
            return {}
        found.sort(key=itemgetter("order_key"), reverse=True)
        return {visit_id: [one for one in found if one["visit_id"] == visit_id] for visit_id in short}

    async def _of_visit(
        self, visit: Document, owners: Collection[str], sites: Sequence[str], since_key: str
    ) -> Activity:
        # Without bounds one command reads a whole visit. A long one is read in ranges of time, from its end on.
        query = EventQuery({"visit_id": visit["_id"]}, site_filter(sites), None, newest_first=True)
        if not _is_short(visit):
            query = query._replace(start_ms=event_time_ms(visit["start_key"]), end_ms=last_possible_ms(visit))
        documents = await self._store.events_in_order(query, since_key, "").take(_READ)
        are_all_read = len(documents) < _READ
        if are_all_read and visit["start_key"] >= since_key:
            return _activity(documents, owners, since_key)
        entries, events = _own(documents, owners)
        if not are_all_read and (len(entries) < MAX_PAGES or len(events) < MAX_EVENTS):
            return await self._searched(query, owners, since_key)
        pages = await self._reader.page_messages(entries)
        found = _newest((pages[one["_id"]] for one in entries if one["_id"] in pages), events)
        if not are_all_read and len(found.pages) < MAX_PAGES:  # some pages were entered twice
            return await self._searched(query, owners, since_key)
        return found

    async def _searched(self, query: EventQuery, owners: Collection[str], since_key: str) -> Activity:
        """The same, by conditions: of a visit with many other events."""
        where = query.conditions | {
            "identity_id": {"$in": [owner or None for owner in owners]},
            "erased": {"$ne": True},
        }
        pages = await self._reader.pages_of(
            query._replace(conditions=where | IS_ENTRY), Window(since_key, "", MAX_PAGES, newest_first=True)
        )
        events = await self._reader.events_of(
            query._replace(conditions=where | _IS_BUSINESS), Window(since_key, "", MAX_EVENTS, newest_first=True)
        )
        return Activity(pages.items, events.items)


def _activity(whole: Sequence[Document], owners: Collection[str], since_key: str) -> Activity:
    """The pages and events of these owners since a key. `whole`: all events of a visit, newest first."""
    entries, events = _own([one for one in whole if one["order_key"] >= since_key], owners)
    exits = _exits(whole)
    entered = (resources.page_message(one, exits[one["_id"]]) for one in entries if one["_id"] in exits)
    return _newest(entered, events)


def _own(documents: Sequence[Document], owners: Collection[str]) -> tuple[list[Document], list[Document]]:
    """Of some events those that entered a page and the business events, if they are of these owners."""
    own = [one for one in documents if one.get("identity_id", "") in owners and not one.get("erased")]
    entries = [one for one in own if one.get("event_name") == PAGE_ENTERED and one.get("page_id")]
    return entries, [one for one in own if _is_business(one)]


def _newest(pages: Iterable[pb.Page], events: Iterable[Document]) -> Activity:
    """The first ones of these pages and business events."""
    return Activity([*islice(pages, MAX_PAGES)], [stored_event(one) for one in islice(events, MAX_EVENTS)])


def _is_short(visit: Document) -> bool:
    return last_possible_ms(visit) - event_time_ms(visit["start_key"]) <= _SHORT_MS


def _is_business(event: Document) -> bool:
    """Whether an event meets `_IS_BUSINESS`."""
    return event.get("event_type") == EVENT_TYPE_BUSINESS and event.get("event_name") != HEARTBEAT


def last_possible_ms(visit: Document) -> int:
    """The latest time that the last event of a stored visit may have happened, if no clock was ahead."""
    touched_ms: int = visit["touched_ms"]
    return touched_ms + TOUCH_INTERVAL_MS


def _owners(document: Document, identity_ids: Collection[str]) -> set[str]:
    """Whose events of a visit count: the person's, and anonymous ones ("") if the visit named this person first."""
    owners = {*identity_ids}
    if owners.issuperset(document["identities"]):
        return owners | {""}
    first = Visit.from_document(document).first_named
    return owners | ({""} if not first or first in owners else set())


def _exits(documents: Sequence[Document]) -> dict[str, str]:
    """By document id of the first PageEntered of each page of a visit, the key of the page's last PageExited after it.

    Empty if there is none. `documents`: all events of the visit, newest first.
    """
    entered: dict[str, Document] = {}
    exited: dict[str, str] = {}
    for event in reversed(documents):
        page_id = event.get("page_id")
        if not page_id:
            continue
        if event.get("event_name") == PAGE_ENTERED:
            entered.setdefault(page_id, event)
        elif event.get("event_name") == PAGE_EXITED:
            exited[page_id] = event["order_key"]
    exits = {}
    for page_id, event in entered.items():
        last_exit = exited.get(page_id, "")
        exits[event["_id"]] = last_exit if last_exit > event["order_key"] else ""
    return exits
