"""Turns questions about stored visits into answers, by commands whose number does not grow with the answer.

(But for groups of ids, see `store`.) Answers are messages of the contract; lists are cut to their window.
"""

import time
from bisect import insort
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from operator import itemgetter

from footfall.history.v1 import history_service_pb2 as pb2
from footfall.history.v1 import visit_pb2 as pb
from footfall_timeline import order_key

from footfall_history import views
from footfall_history.documents import PAGE_ENTERED, PAGE_EXITED, TIME_DIGITS, Document, document_id, stored_event
from footfall_history.query import Page, Window
from footfall_history.store import Store
from footfall_history.visit import Visit

# How many events more than a page are read, so that its last millisecond is whole.
_TIES = 16
_CHUNK = 200


class Reader:
    """Answers in messages of the contract. Raises `store.Unavailable`."""

    def __init__(self, store: Store, idle_ms: int) -> None:
        self._store = store
        self._idle_ms = idle_ms

    async def visit(self, visit_id: str) -> tuple[pb.Visit, Visit] | None:
        """A visit, and what its timeline says; None when it is not known."""
        documents = await self._store.find_visits({"_id": visit_id}, 1)
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
        last = await self._store.last_keys([document["_id"] for document in documents])
        now_ms = time.time_ns() // 1_000_000
        return [views.visit_message(each, last.get(each["_id"]), now_ms, self._idle_ms) for each in documents]

    async def session(self, session_id: str) -> pb.Session | None:
        """A session; None when it is not known."""
        for document in await self._store.find_visits({"session_ids": session_id}, 1):
            for session in Visit.from_document(document).fold.sessions:
                if session.session_id == session_id:
                    return views.session_message(document["_id"], session)
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
                    insort(found, (key, views.session_message(document["_id"], session)), key=itemgetter(0))
            del found[window.size + 1 :]
        return window.cut(found)

    async def event(self, event_id: str, visit_id: str) -> pb.StoredEvent | None:
        """An event; the one received first when no visit is given and several have used its id."""
        where = {"_id": document_id(visit_id, event_id)} if visit_id else {"event_id": event_id}
        found = await self._store.first_received(where)
        return stored_event(found) if found else None

    async def events(self, conditions: Document, window: Window) -> Page[pb.StoredEvent]:
        """Events by event time, then id."""
        found = await self._store.find_events(conditions | {"order_key": window.bounds}, window.size + 1)
        return window.cut([(event["order_key"], stored_event(event)) for event in found])

    async def page(self, page_id: str) -> pb.Page | None:
        """A page entry; None when it is not known."""
        found = await self.page_entries([page_id])
        return views.page_message(*found[page_id]) if found else None

    async def pages(self, conditions: Document, window: Window) -> Page[pb.Page]:
        """Page entries by start, then id.

        Events of one millisecond are in the order of their own ids, pages in that of the pages', so whole milliseconds
        are read.
        """
        bounds = window.bounds | {"$gte": window.lower[:TIME_DIGITS]}
        where = conditions | {"event_name": PAGE_ENTERED, "page_id": {"$gt": ""}, "order_key": bounds}
        limit = window.size + 1 + _TIES
        while True:
            events = await self._store.find_events(where, limit)
            are_all = len(events) < limit
            if not are_all:  # of the last millisecond there may be more
                last = events[-1]["order_key"][:TIME_DIGITS]
                events = [event for event in events if not event["order_key"].startswith(last)]
            keys = {event["_id"]: event["order_key"][:TIME_DIGITS] + event["page_id"] for event in events}
            page_ids = {event["page_id"] for event in events if window.contains(keys[event["_id"]])}
            found = [
                (key, views.page_message(entered, exited))
                for entered, exited in (await self.page_entries(page_ids)).values()
                # A page that was entered twice under one id is the first of the two.
                if (key := keys.get(entered["_id"])) and window.contains(key)
            ]
            if are_all or len(found) > window.size:
                return window.cut(sorted(found, key=itemgetter(0)))
            limit *= 2

    async def page_entries(self, page_ids: Iterable[str]) -> dict[str, tuple[Document, Document | None]]:
        """By page id, the PageEntered and, if it is known, the PageExited."""
        names = {"event_name": {"$in": [PAGE_ENTERED, PAGE_EXITED]}}
        return views.entries_and_exits(await self._store.events_with("page_id", page_ids, names))

    async def explanations(self, visit: Visit) -> list[pb.Explanation]:
        """The transitions of a visit, each with the event that is its evidence."""
        ids = [document_id(visit.visit_id, transition.event_id) for transition in visit.timeline]
        evidence = {event["event_id"]: event for event in await self._store.read_events(ids)}
        return list(views.explanations(visit, evidence))

    async def export(self, identity: str) -> AsyncGenerator[pb2.ExportIdentityResponse, None]:
        """Everything that is known of an identity: its visits, sessions, pages and events, each in order."""
        async for visits in _chunks(self._store.each_visit({"identities": identity})):
            for visit in await self.visit_messages(visits):
                yield pb2.ExportIdentityResponse(visit=visit)
        async for visits in _chunks(self._store.each_visit({"identities": identity})):
            for document in visits:
                for session in Visit.from_document(document).fold.sessions:
                    if session.identity == identity:
                        yield pb2.ExportIdentityResponse(session=views.session_message(document["_id"], session))
        of_identity = {"identity_id": identity}
        async for events in _chunks(self._store.each_event(of_identity | {"event_name": PAGE_ENTERED})):
            entries = await self.page_entries({event["page_id"] for event in events if "page_id" in event})
            for event in events:
                entry = entries.get(event.get("page_id", ""))
                if entry and entry[0]["_id"] == event["_id"]:
                    yield pb2.ExportIdentityResponse(page=views.page_message(*entry))
        async for event in self._store.each_event(of_identity):
            yield pb2.ExportIdentityResponse(event=stored_event(event))

    async def identity_ids(self, conditions: Document, from_id: str, size: int) -> Page[str]:
        """The identities of visits, by id."""
        found = await self._store.identity_ids(conditions, from_id, size + 1)
        return Page(found[:size], found[size] if len(found) > size else "")

    async def of_parent(self, field: str, parent_id: str) -> Document:
        """What a condition on events must say to mean those of a visit, an identity, a session or a page."""
        if field != "session_id":
            return {field: parent_id}
        visits = await self._store.find_visits({"session_ids": parent_id}, 1)
        # Of a session that is not known there are none, and no visit's id is empty.
        return {"visit_id": visits[0]["_id"] if visits else "", "session_id": parent_id}


async def _chunks(documents: AsyncIterator[Document]) -> AsyncIterator[list[Document]]:
    chunk: list[Document] = []
    async for document in documents:
        chunk.append(document)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
