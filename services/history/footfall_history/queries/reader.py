"""Turns questions about stored visits into answers, by commands whose number does not grow with the answer.

(But for groups of ids and long visits, see `storage.store`, and for ranges, `storage.walk`.) Answers are messages of
the contract; lists are cut to their window.
"""

import time
from bisect import insort
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final

from footfall.history.v1 import visit_pb2 as pb
from footfall_servicekit import paging
from footfall_timeline import Session, order_key

from footfall_history.queries import resources
from footfall_history.queries.filters import Page, Window, of_sites
from footfall_history.storage import (
    PAGE_ENTERED,
    TIME_DIGITS,
    Document,
    Series,
    Store,
    Visit,
    document_id,
    event_time_ms,
    stored_event,
)

# How many events more than a page are read, so that its last millisecond is whole.
_TIES = 16
# Events may be of 64 KiB each, so a page of many is read in parts, until an answer is full.
_CHUNK = 100
IS_ENTRY: Final[Document] = {"event_name": PAGE_ENTERED, "page_id": {"$gt": ""}}
"""Of an event that began a page."""


class Reader:
    """Answers in messages of the contract. Raises `storage.Unavailable`."""

    def __init__(self, store: Store, idle_ms: int) -> None:
        self._store = store
        self._idle_ms = idle_ms

    async def meant(self, candidates: Mapping[str, Sequence[str]], sites: Sequence[str]) -> dict[str, str]:
        """By what it was asked by, the id of the visit meant: of the candidates there are, the one that arrived first.

        When there is none, the first candidate.
        """
        ids = {visit_id for of_one in candidates.values() for visit_id in of_one}
        if all(len(of_one) == 1 for of_one in candidates.values()):
            return {asked: of_one[0] for asked, of_one in candidates.items()}
        origins = await self._store.origins(ids, of_sites(sites))
        return {
            asked: min(
                origins.keys() & {*of_one}, key=lambda visit_id: (origins[visit_id], visit_id), default=of_one[0]
            )
            for asked, of_one in candidates.items()
        }

    async def visit(self, visit_id: str, sites: Sequence[str] = ()) -> tuple[pb.Visit, Visit] | None:
        """A visit, and what its timeline says; None when it is not known, here and below to these sites, if given."""
        documents = await self._store.find_visits({"_id": visit_id} | of_sites(sites), 1)
        if not documents:
            return None
        [message] = await self.visit_messages(documents)
        return message, Visit.from_document(documents[0])

    async def visits(self, conditions: Document, window: Window) -> Page[pb.Visit]:
        """Visits by start, then id."""
        where = conditions | {"start_key": window.bounds}
        found = await self._store.find_visits(where, window.size + 1)
        keys = [document["start_key"] for document in found]
        return window.cut(list(zip(keys, await self.visit_messages(found), strict=True)))

    async def visit_messages(self, documents: Sequence[Document]) -> list[pb.Visit]:
        """The messages of visits as stored."""
        last = await self._store.last_keys(documents)
        now_ms = time.time_ns() // 1_000_000
        return [resources.visit_message(each, last.get(each["_id"]), now_ms, self._idle_ms) for each in documents]

    async def session(self, session_id: str, sites: Sequence[str] = ()) -> pb.Session | None:
        """A session; None when it is not known."""
        found = await self._session(session_id, sites)
        return resources.session_message(resources.shown_id(found[0]), found[1]) if found else None

    async def _session(self, session_id: str, sites: Sequence[str]) -> tuple[Document, Session] | None:
        """A session and its visit."""
        for document in await self._store.find_visits({"session_ids": session_id} | of_sites(sites), 1):
            for session in Visit.from_document(document).fold.sessions:
                if session.session_id == session_id:
                    return document, session
        return None

    async def sessions(self, conditions: Document, identity: str, window: Window) -> Page[pb.Session]:
        """Sessions by start, then id, of the visits that match; of this identity only, if it is given.

        Visits are read by their start until those to come start after the page's last session.
        """
        found: list[tuple[str, pb.Session]] = []
        async for document in self._store.each_visit(conditions):
            if len(found) > window.size and found[-1][0][:TIME_DIGITS] < document["start_key"][:TIME_DIGITS]:
                break
            for session in Visit.from_document(document).fold.sessions:
                key = order_key(session.start_ms, session.session_id)
                if window.contains(key) and identity in {"", session.identity}:
                    insort(
                        found,
                        (key, resources.session_message(resources.shown_id(document), session)),
                        key=itemgetter(0),
                    )
            del found[window.size + 1 :]
        return window.cut(found)

    async def event(
        self, event_id: str, visit_ids: Sequence[str] = (), sites: Sequence[str] = ()
    ) -> pb.StoredEvent | None:
        """An event of one of these visits, or of any; the one received first when several have used its id."""
        ids = [document_id(visit_id, event_id) for visit_id in visit_ids]
        where: Document = {"_id": {"$in": ids}} if ids else {"event_id": event_id}
        found = await self._store.first_received(where | of_sites(sites))
        return stored_event(found) if found else None

    async def events(
        self, parent: tuple[str, str], conditions: Document, window: Window, sites: Sequence[str] = ()
    ) -> Page[pb.StoredEvent]:
        """Events of a parent, given as field and id, by event time, then id."""
        series = await self.series(*parent, conditions, sites)
        walk = self._store.walk(series, window.lower, window.upper)
        found: list[tuple[str, pb.StoredEvent]] = []
        while len(found) <= window.size:
            count = min(window.size + 1 - len(found), _CHUNK)
            more = await walk.take(count)
            found += [(event["order_key"], stored_event(event)) for event in more]
            if len(more) < count or paging.fitting([event for _, event in found]) < len(found):
                break
        return window.cut(found)

    async def page(self, page_id: str, sites: Sequence[str] = ()) -> pb.Page | None:
        """A page entry; None when it is not known."""
        keys = (await self._store.page_keys([page_id], of_sites(sites))).get(page_id)
        if not keys:
            return None
        series = Series({"page_id": page_id}, IS_ENTRY | of_sites(sites), None)
        found = await self._store.walk(series, keys.entered, "", resources.PAGE_FIELDS).take(1)
        return resources.page_message(found[0], keys.exited) if found else None

    async def pages(
        self, parent: tuple[str, str], conditions: Document, window: Window, sites: Sequence[str] = ()
    ) -> Page[pb.Page]:
        """Page entries of a parent, given as field and id, by start, then id.

        Events of one millisecond are in the order of their own ids, pages in that of the pages', so whole milliseconds
        are read.
        """
        series = await self.series(*parent, conditions | IS_ENTRY, sites)
        walk = self._store.walk(series, window.lower[:TIME_DIGITS], window.upper, resources.PAGE_FIELDS)
        found: list[tuple[str, pb.Page]] = []
        events: list[Document] = []
        while len(found) <= window.size:
            count = window.size + 1 - len(found) + _TIES
            more = await walk.take(count)
            events += more
            are_all = len(more) < count
            last = "" if are_all else more[-1]["order_key"][:TIME_DIGITS]  # of which there may be more
            whole = [event for event in events if are_all or not event["order_key"].startswith(last)]
            events = events[len(whole) :]
            keyed = [(event["order_key"][:TIME_DIGITS] + event["page_id"], event) for event in whole]
            asked = [(key, event) for key, event in keyed if window.contains(key)]
            messages = await self.page_messages([event for _, event in asked])
            found += [(key, messages[event["_id"]]) for key, event in asked if event["_id"] in messages]
            if are_all:
                break
        return window.cut(sorted(found, key=itemgetter(0)))

    async def page_messages(self, entered: Sequence[Document]) -> dict[str, pb.Page]:
        """By document id, the pages that these events began. A page that was entered twice began with the first."""
        keys = await self._store.page_keys({event["page_id"] for event in entered})
        return {
            event["_id"]: resources.page_message(event, known.exited)
            for event in entered
            if (known := keys.get(event["page_id"])) and known.entered == event["order_key"]
        }

    async def explanations(self, visit: Visit) -> list[pb.Explanation]:
        """The transitions of a visit, each with the event that is its evidence."""
        ids = [document_id(visit.visit_id, transition.event_id) for transition in visit.timeline]
        found = await self._store.read_events(ids, resources.EVIDENCE_FIELDS)
        evidence = {event["event_id"]: event for event in found}
        return list(resources.explanations(visit, evidence))

    async def identity_ids(self, conditions: Document, from_id: str, size: int) -> Page[str]:
        """The identities of visits, by id."""
        found = await self._store.identity_ids(conditions, from_id, size + 1)
        return Page(found[:size], found[size] if len(found) > size else "")

    async def series(self, field: str, parent_id: str, conditions: Document, sites: Sequence[str] = ()) -> Series:
        """The events of a visit, an identity, a session or a page that meet further conditions."""
        if field == "session_id":
            found = await self._session(parent_id, sites)
            # Of a session that is not known there are none, and no visit's id is empty.
            visit_id, start_ms = (found[0]["_id"], found[1].start_ms) if found else ("", None)
            return Series({"visit_id": visit_id}, conditions | {"session_id": parent_id}, start_ms)
        visits = {"visit_id": "_id", "identity_id": "identities"}.get(field)
        start_key = await self._store.first_start_key({visits: parent_id} | of_sites(sites)) if visits else None
        return Series({field: parent_id}, conditions, event_time_ms(start_key) if start_key else None)
