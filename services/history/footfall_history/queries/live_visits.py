"""Streams what live state has to know of the visits that are live."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from footfall.history.v1.history_service_pb2 import LiveVisit
from footfall_eventlog.events import PAGE_ENTERED, PAGE_EXITED
from footfall_timeline import partition

from footfall_history.queries.filters import time_key
from footfall_history.storage import TIME_DIGITS, TOUCH_INTERVAL_MS, Document, Store, event_time_ms

_VISITS_PER_GROUP: Final = 50
_NEWEST: Final = 1_000
_MAX_TITLE_LENGTH: Final = 256
"""Of the title in an event of the log; history stores titles as they were sent."""
_MAX_PAGES: Final = 1_000
"""Of a visit: identity keeps fewer."""
_FIELDS: Final = ("visit_id", "order_key", "url", "title", "page_id", "event_name")
_IS_LIVE: Final[Document] = {"imported": {"$ne": True}}
"""Nothing that was imported is live."""
_NONE: Final[Mapping[str, Any]] = {}


class LiveVisits:
    """Visits whose last event happened less than `idle_ms` ago. Raises TRANSIENT_STORE_ERRORS."""

    def __init__(self, store: Store, partitions: int, idle_ms: int) -> None:
        self._store = store
        self._partitions = partitions
        self._idle_ms = idle_ms

    async def stream(self, numbers: Collection[int]) -> AsyncIterator[list[LiveVisit]]:
        """The live visits of these partitions, in groups; of all if there are none given.

        Some of the newest come first, for those who ask about visitors now. Then all come, these included.
        """
        now_ms = time.time_ns() // 1_000_000
        live_key = time_key(now_ms - self._idle_ms)
        touched_ms = now_ms - self._idle_ms - TOUCH_INTERVAL_MS
        for newest in (_NEWEST, 0):
            async for group in self._store.touched_visits(touched_ms, _VISITS_PER_GROUP, newest):
                visits = {
                    visit["_id"]: visit
                    for visit in group
                    if not numbers or partition(visit["_id"], self._partitions) in numbers
                }
                yield await self._live_of(visits, live_key)

    async def _live_of(self, visits: Mapping[str, Document], live_key: str) -> list[LiveVisit]:
        """Those of these visits that have an event at or after a key."""
        recent = {"order_key": {"$gte": live_key}, **_IS_LIVE}
        events = await self._store.events_with("visit_id", visits, recent, _FIELDS, 0)
        events.sort(key=itemgetter("order_key"))
        last = {event["visit_id"]: event for event in events}
        # Of these visits, some events are not recent.
        older = [visit_id for visit_id in last if visits[visit_id]["start_key"] < live_key]
        paged = await self._last_with("url", events, older)
        titled = await self._last_with("title", events, older)
        pages = _pages(await self._page_events(older, live_key) + events)
        found = []
        for visit_id, event in last.items():
            message = _message(visits[visit_id], event, paged.get(visit_id, _NONE), titled.get(visit_id, _NONE))
            message.pages.extend(sorted(pages[visit_id].values(), key=_last_ms)[-_MAX_PAGES:])
            found.append(message)
        return found

    async def _page_events(self, older: list[str], live_key: str) -> list[Document]:
        """The events of these visits by which pages were entered or left before they were recent, in order."""
        where = {"event_name": {"$in": [PAGE_ENTERED, PAGE_EXITED]}, "order_key": {"$lt": live_key}, **_IS_LIVE}
        events = await self._store.events_with("visit_id", older, where, _FIELDS, 0)
        return sorted(events, key=itemgetter("order_key"))

    async def _last_with(self, field: str, recent: list[Document], older: list[str]) -> dict[str, Document]:
        """The last event of each visit that has a field: of its recent events, else of the older ones."""
        found = {event["visit_id"]: event for event in recent if event.get(field)}
        missing = [visit_id for visit_id in older if visit_id not in found]
        return found | await self._store.last_events(missing, {field: {"$gt": ""}, **_IS_LIVE}, _FIELDS)


def _message(visit: Document, last: Document, paged: Mapping[str, Any], titled: Mapping[str, Any]) -> LiveVisit:
    received = visit.get("site_key", "")[:TIME_DIGITS]  # an early version did not store it
    return LiveVisit(
        visit_id=visit["_id"],
        browser_visit_id=visit.get("browser_visit_id", ""),
        global_visit_id=visit.get("global_visit_id", ""),
        site=visit.get("site", ""),
        first_received_time_ms=int(received or 0),
        first_event_time_ms=event_time_ms(visit["start_key"]),
        last_event_time_ms=event_time_ms(last["order_key"]),
        url=paged.get("url", ""),
        url_time_ms=_time_ms(paged),
        title=titled.get("title", "")[:_MAX_TITLE_LENGTH],
        title_url=titled.get("url", ""),
        title_time_ms=_time_ms(titled),
        timeline=visit["timeline"],
        staff=visit.get("staff", False),
        bot=visit.get("bot", False),
    )


def _pages(events: Iterable[Document]) -> dict[str, dict[str, LiveVisit.Page]]:
    """The pages of events in order, by visit and page id."""
    pages: dict[str, dict[str, LiveVisit.Page]] = defaultdict(dict)
    for event in events:
        page_id, name, at_ms = event.get("page_id", ""), event.get("event_name", ""), _time_ms(event)  # erased: no name
        if not page_id:
            continue
        page = pages[event["visit_id"]].setdefault(page_id, LiveVisit.Page(page_id=page_id))
        if name == PAGE_EXITED:
            page.exit_time_ms = at_ms
        else:
            page.last_active_time_ms = at_ms
        if name == PAGE_ENTERED:
            page.enter_time_ms, page.url = at_ms, event.get("url", "")
            page.title = event.get("title", "")[:_MAX_TITLE_LENGTH]
    return pages


def _last_ms(page: LiveVisit.Page) -> int:
    return max(page.last_active_time_ms, page.exit_time_ms)


def _time_ms(event: Mapping[str, Any]) -> int:
    return event_time_ms(event["order_key"]) if event else 0
