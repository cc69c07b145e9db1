"""Reads visits, sessions, pages and events as messages of the contract.

The number of commands to MongoDB does not grow with the answer, except for groups of 50 ids (`storage.store`) and
ranges of keys (`storage.event_cursor`).
"""

import asyncio
import time
from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from typing import Final

from footfall.history.v1 import visit_pb2 as pb
from footfall_eventlog.events import PAGE_ENTERED
from footfall_servicekit import paging
from footfall_timeline import Session, Step, order_key, until

from footfall_history.queries import resources
from footfall_history.queries.filters import Moment, Page, Window, site_filter, time_key
from footfall_history.storage import (
    TIME_DIGITS,
    Document,
    EventQuery,
    Store,
    Visit,
    document_id,
    event_time_ms,
    stored_event,
)

# Events read beyond a page, so that its last millisecond is complete.
_TIES = 16
# An event may have 64 KiB, so a large page is read in parts until the response is full.
_EVENTS_PER_READ = 100
# An identity's last event is most likely in one of the visits that started last. Only of a few of them it is worth
# finding the last event; of the others, a key that is noted (`ingest.last_keys`) is enough.
_LAST_VISITS: Final = 20
_EXACT_ENDS: Final = 3
IS_ENTRY: Final[Document] = {"event_name": PAGE_ENTERED, "page_id": {"$gt": ""}}
"""The condition on events that began a page."""


class Reader:
    """Methods raise TRANSIENT_STORE_ERRORS. `sites`: those the caller may see, all if empty."""

    def __init__(self, store: Store, idle_ms: int) -> None:
        self._store = store
        self._idle_ms = idle_ms

    async def resolve_visits(self, candidates: Mapping[str, Sequence[str]], sites: Sequence[str]) -> dict[str, str]:
        """The stored id of each visit, by the id in the request, from the stored ids that it may stand for.

        Of several that exist, the visit received first; of none, the first candidate.
        """
        ids = {visit_id for of_one in candidates.values() for visit_id in of_one}
        if all(len(of_one) == 1 for of_one in candidates.values()):
            return {asked: of_one[0] for asked, of_one in candidates.items()}
        origins = await self._store.origins(ids, site_filter(sites))
        return {
            asked: min(
                origins.keys() & {*of_one}, key=lambda visit_id: (origins[visit_id], visit_id), default=of_one[0]
            )
            for asked, of_one in candidates.items()
        }

    async def visit(self, visit_id: str, sites: Sequence[str] = ()) -> tuple[pb.Visit, Visit] | None:
        """A visit as message and with its timeline; None when there is none."""
        documents = await self._store.find_visits({"_id": visit_id} | site_filter(sites), 1)
        if not documents:
            return None
        [message] = await self.visit_messages(documents)
        return message, Visit.from_document(documents[0])

    async def visits(self, conditions: Document, window: Window) -> Page[pb.Visit]:
        """Visits by start, then id."""
        where = conditions | {"start_key": window.bounds}
        found = await self._store.find_visits(where, window.size + 1, newest_first=window.newest_first)
        keys = [document["start_key"] for document in found]
        return window.cut(list(zip(keys, await self.visit_messages(found), strict=True)))

    async def visit_messages(self, documents: Sequence[Document]) -> list[pb.Visit]:
        """The messages of visit documents."""
        last = await self._store.last_keys(documents)
        now_ms = time.time_ns() // 1_000_000
        return [resources.visit_message(each, last.get(each["_id"]), now_ms, self._idle_ms) for each in documents]

    async def session(self, session_id: str, sites: Sequence[str] = ()) -> pb.Session | None:
        """A session; None when there is none."""
        found = await self._session(session_id, sites)
        return resources.session_message(*found) if found else None

    async def _session(self, session_id: str, sites: Sequence[str]) -> tuple[Document, Session] | None:
        """A session and its visit."""
        for document in await self._store.find_visits({"session_ids": session_id} | site_filter(sites), 1):
            for session in Visit.from_document(document).visit_state.sessions:
                if session.session_id == session_id:
                    return document, session
        return None

    async def sessions(self, conditions: Document, identities: Collection[str], window: Window) -> Page[pb.Session]:
        """Sessions of matching visits by start, then id; only of these identities if there are any.

        Visits are read in order of their start, until they start after the last session of the page. For the newest
        sessions all are read, because a session may begin long after its visit.
        """
        found: list[tuple[str, pb.Session]] = []
        surplus = slice(0, -window.size - 1) if window.newest_first else slice(window.size + 1, None)
        async for document in self._store.each_visit(conditions):
            is_full = len(found) > window.size and not window.newest_first
            if is_full and found[-1][0][:TIME_DIGITS] < document["start_key"][:TIME_DIGITS]:
                break
            for session in Visit.from_document(document).visit_state.sessions:
                key = order_key(session.start_ms, session.session_id)
                if window.contains(key) and (not identities or session.identity in identities):
                    insort(found, (key, resources.session_message(document, session)), key=itemgetter(0))
            del found[surplus]
        return window.cut(found[::-1] if window.newest_first else found)

    async def event(
        self, event_id: str, visit_ids: Sequence[str] = (), sites: Sequence[str] = ()
    ) -> pb.StoredEvent | None:
        """An event of one of these visits, or of any. Of several events with one id, the one received first."""
        ids = [document_id(visit_id, event_id) for visit_id in visit_ids]
        where: Document = {"_id": {"$in": ids}} if ids else {"event_id": event_id}
        found = await self._store.first_received(where | site_filter(sites))
        return stored_event(found) if found else None

    async def events(
        self, parent: tuple[str, str], conditions: Document, window: Window, sites: Sequence[str] = ()
    ) -> Page[pb.StoredEvent]:
        """Events of a parent (field and id) by event time, then id."""
        query = await self.event_query(*parent, conditions, sites, newest_first=window.newest_first)
        return await self.events_of(query, window)

    async def events_of(self, query: EventQuery, window: Window) -> Page[pb.StoredEvent]:
        """The events of a query, in its order."""
        cursor = self._store.events_in_order(query, window.lower, window.upper)
        found: list[tuple[str, pb.StoredEvent]] = []
        while len(found) <= window.size:
            count = min(window.size + 1 - len(found), _EVENTS_PER_READ)
            more = await cursor.take(count)
            found += [(event["order_key"], stored_event(event)) for event in more]
            if len(more) < count or paging.fitting([event for _, event in found]) < len(found):
                break
        return window.cut(found)

    async def page(self, page_id: str, sites: Sequence[str] = ()) -> pb.Page | None:
        """A page entry; None when there is none."""
        keys = (await self._store.page_keys([page_id], site_filter(sites))).get(page_id)
        if not keys:
            return None
        query = EventQuery({"page_id": page_id}, {"event_name": PAGE_ENTERED} | site_filter(sites), None)
        found = await self._store.events_in_order(query, keys.entered, "", resources.PAGE_FIELDS).take(1)
        return resources.page_message(found[0], keys.exited) if found else None

    async def pages(
        self, parent: tuple[str, str], conditions: Document, window: Window, sites: Sequence[str] = ()
    ) -> Page[pb.Page]:
        """Page entries of a parent (field and id) by start, then id.

        Events of one millisecond are ordered by event id and pages by page id, so whole milliseconds are read.
        """
        query = await self.event_query(*parent, conditions | IS_ENTRY, sites, newest_first=window.newest_first)
        return await self.pages_of(query, window)

    async def pages_of(self, query: EventQuery, window: Window) -> Page[pb.Page]:
        """The page entries that the events of a query began, in its order."""
        # Keys of all events of a millisecond are less than its digits and "~".
        upper = window.upper and window.upper[:TIME_DIGITS] + "~"
        cursor = self._store.events_in_order(query, window.lower[:TIME_DIGITS], upper, resources.PAGE_FIELDS)
        found: list[tuple[str, pb.Page]] = []
        events: list[Document] = []
        while len(found) <= window.size:
            count = window.size + 1 - len(found) + _TIES
            more = await cursor.take(count)
            events += more
            is_last = len(more) < count
            last = "" if is_last else more[-1]["order_key"][:TIME_DIGITS]  # which may not be complete
            whole = [event for event in events if is_last or not event["order_key"].startswith(last)]
            events = events[len(whole) :]
            keyed = [(event["order_key"][:TIME_DIGITS] + event["page_id"], event) for event in whole]
            selected = [(key, event) for key, event in keyed if window.contains(key)]
            messages = await self.page_messages([event for _, event in selected])
            found += [(key, messages[event["_id"]]) for key, event in selected if event["_id"] in messages]
            if is_last:
                break
        return window.cut(sorted(found, key=itemgetter(0), reverse=window.newest_first))

    async def page_messages(self, entered: Sequence[Document]) -> dict[str, pb.Page]:
        """The pages that these events began, by document id. A page that was entered twice began the first time."""
        keys = await self._store.page_keys({event["page_id"] for event in entered})
        return {
            event["_id"]: resources.page_message(event, known.exited)
            for event in entered
            if (known := keys.get(event["page_id"])) and known.entered == event["order_key"]
        }

    async def has_parent(self, field: str, parent_id: str, sites: Sequence[str] = ()) -> bool:
        """Whether the parent of a list (field and id) is known: for a list without items."""
        visits = {"visit_id": "_id", "identity_id": "identities"}.get(field)
        if visits:
            return bool(await self._store.first_start_key({visits: parent_id} | site_filter(sites)))
        if field == "session_id":
            return bool(await self._session(parent_id, sites))
        return bool(await self._store.page_keys([parent_id], site_filter(sites)))

    async def seen(self, visit: Visit, moment: Moment) -> Visit:
        """A visit with the transitions that had happened and been received at a moment."""
        timeline = visit.timeline if moment.as_of_ms is None else until(visit.timeline, moment.as_of_ms)
        if moment.known_at_ms is not None:
            ids = [document_id(visit.visit_id, transition.event_id) for transition in timeline]
            events = await self._store.read_events(ids, ("event_id", "received_ms"))
            received = {event["event_id"] for event in events if event["received_ms"] <= moment.known_at_ms}
            timeline = tuple(transition for transition in timeline if transition.event_id in received)
        return replace(visit, timeline=timeline)

    async def explanations(self, visit: Visit, window: Window, moment: Moment) -> Page[pb.Explanation]:
        """The transitions of a visit `seen` at a moment, and ignored events, each with its event."""
        inside = (step for step in visit.visit_state.steps if window.contains(step.transition.order_key))
        steps = [*islice(inside, window.size + 1)]
        ids = [document_id(visit.visit_id, step.transition.event_id) for step in steps[: window.size]]
        fields = ("order_key", *resources.EVIDENCE_FIELDS)
        conditions: Document = {"order_key": window.bounds}
        if moment.as_of_ms is not None:
            conditions["order_key"] |= {"$lt": time_key(moment.as_of_ms + 1)}
        if moment.known_at_ms is not None:
            conditions["received_ms"] = {"$lte": moment.known_at_ms}
        found, ignored = await asyncio.gather(
            self._store.read_events(ids, fields),
            self._store.ignored_events(visit.visit_id, conditions, window.size + 1, fields),
        )
        evidence = {event["event_id"]: event for event in found}
        similar = resources.similar_identities(visit)

        def explained(step: Step, event: Document) -> pb.Explanation:
            has_similar = step.transition.identity in similar
            return resources.explanation(step, event, visit.rev, has_similar=has_similar)

        # An event that was sent again under another policy may be a transition all the same.
        transitions = {transition.event_id for transition in visit.timeline}
        parts = (
            Page(
                [explained(step, evidence.get(step.transition.event_id, {})) for step in steps[: window.size]],
                steps[window.size].transition.order_key if len(steps) > window.size else "",
            ),
            Page(
                [
                    explained(resources.ignored_step(visit, event), event)
                    for event in ignored[: window.size]
                    if event["event_id"] not in transitions
                ],
                ignored[window.size]["order_key"] if len(ignored) > window.size else "",
            ),
        )
        return window.merged(parts, resources.explanation_key)

    async def identity_ids(self, conditions: Document, from_id: str, size: int) -> Page[str]:
        """The identities of matching visits, by id."""
        found = await self._store.identity_ids(conditions, from_id, size + 1)
        return Page(found[:size], found[size] if len(found) > size else "")

    async def event_query(
        self,
        field: str,
        parent_id: str,
        conditions: Document,
        sites: Sequence[str] = (),
        *,
        newest_first: bool = False,
    ) -> EventQuery:
        """The query for events of a visit, an identity, a session or a page that meet further conditions."""
        if field == "session_id":
            found = await self._session(parent_id, sites)
            # No visit has an empty id, so there are no events of an unknown session.
            conditions = conditions | {"session_id": parent_id}
            if not found:
                return EventQuery({"visit_id": ""}, conditions, None)
            visit, session = found
            end_ms = (session.end_ms or await self._end_ms([visit])) if newest_first else None
            return EventQuery({"visit_id": visit["_id"]}, conditions, session.start_ms, end_ms, newest_first)
        visits = {"visit_id": "_id", "identity_id": "identities"}.get(field)
        if not visits:
            return EventQuery({field: parent_id}, conditions, None, newest_first=newest_first)
        where = {visits: parent_id} | site_filter(sites)
        start_key = await self._store.first_start_key(where)
        start_ms = event_time_ms(start_key) if start_key else None
        if not start_key or not newest_first:
            return EventQuery({field: parent_id}, conditions, start_ms, newest_first=newest_first)
        last = await self._store.find_visits(where, _LAST_VISITS, ["last_key"], newest_first=True)
        return EventQuery({field: parent_id}, conditions, start_ms, await self._end_ms(last), newest_first)

    async def _end_ms(self, visits: Sequence[Document]) -> int | None:
        """About the time of the last event of visits, the one that started last first: of the others, noted keys count.

        None when none of their events is left.
        """
        known = await self._store.last_keys(visits[:_EXACT_ENDS])
        keys = [*known.values(), *(visit["last_key"] for visit in visits if "last_key" in visit)]
        return event_time_ms(max(keys)) if keys else None
