"""Exports what history stores about an identity: visits, sessions, pages, events, dead letters and interactions.

The number of commands to MongoDB does not grow with the answer, except for groups of visits and ranges of keys.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall_timeline import State

from footfall_history.dead_letters import DeadLetterQueue, dead_letter_documents
from footfall_history.queries import resources
from footfall_history.queries.filters import site_filter
from footfall_history.queries.interactions import InteractionReader
from footfall_history.queries.reader import IS_ENTRY, Reader
from footfall_history.queries.user_agents import user_agent
from footfall_history.storage import (
    Document,
    EventQuery,
    Preview,
    Store,
    Tombstones,
    Visit,
    event_time_ms,
    stored_event,
)

_VISITS_PER_GROUP: Final = 50
_EVENTS_PER_READ: Final = 100
# In a visit that is not erased, only events before the first identity are anonymous.
_IS_ANONYMOUS: Final[Document] = {"state": int(State.ANONYMOUS), "erased": {"$ne": True}}


class Exporter:
    """Exports identities. Raises TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        tombstones: Tombstones,
        dead_letters: DeadLetterQueue,
        preview: Preview,
        *,
        interactions: InteractionReader,
    ) -> None:
        self._store = store
        self._tombstones = tombstones
        self._reader = reader
        self._dead_letters = dead_letters
        self._preview = preview
        self._interactions = interactions

    async def export(self, identity: str, sites: Sequence[str] = ()) -> AsyncGenerator[pb.ExportIdentityResponse, None]:
        """Everything about an identity on these sites, or on all if there are none, each kind in order.

        This includes anonymous events of visits that named this identity first, because an erasure includes them too.
        """
        seen = site_filter(sites)
        visits = {"identities": identity} | seen
        async for visit in self._visits(visits):
            yield pb.ExportIdentityResponse(visit=visit)
        async for session in self._sessions(identity, visits):
            yield pb.ExportIdentityResponse(session=session)
        first_named, anonymous = await self._anonymous(identity, visits, seen)
        own = await self._reader.event_query("identity_id", identity, seen, sites)
        queries = [own, *self._named(identity, seen), *anonymous]
        for query in queries:
            entry_query = query._replace(conditions=query.conditions | IS_ENTRY)
            entries = self._store.events_in_order(entry_query, "", "", resources.PAGE_FIELDS)
            while entered := await entries.take(_EVENTS_PER_READ):
                for page in (await self._reader.page_messages(entered)).values():
                    yield pb.ExportIdentityResponse(page=page)
        for query in queries:
            events = self._store.events_in_order(query, "", "")
            while found := await events.take(_EVENTS_PER_READ):
                for event in found:
                    yield pb.ExportIdentityResponse(event=stored_event(event))
        for number in range(self._dead_letters.partitions):
            async for unstored in self._unstored(number, identity, first_named):
                if not sites or unstored.event.event.site in sites:
                    yield pb.ExportIdentityResponse(unstored_event=unstored)
        async for interaction in self._interactions.each_of_identity(identity, sites):
            yield pb.ExportIdentityResponse(interaction=interaction)

    async def _visits(self, where: Document) -> AsyncIterator[visit_pb2.Visit]:
        async for group in self._store.visit_groups(where, _VISITS_PER_GROUP):
            for visit in await self._reader.visit_messages(group):
                if visit.user_agent:
                    visit.user_agent_details.CopyFrom(user_agent(visit.user_agent, visit.user_agent_id))
                yield visit

    async def _sessions(self, identity: str, where: Document) -> AsyncIterator[visit_pb2.Session]:
        async for document in self._store.each_visit(where):
            for session in Visit.from_document(document).visit_state.sessions:
                if session.identity == identity:
                    yield resources.session_message(document, session)

    def _named(self, identity: str, seen: Document) -> list[EventQuery]:
        """Events that name this identity but have another one, because the timeline did not keep their transition."""
        if not self._tombstones.has_key:
            return []
        named = {"names_hash": self._tombstones.hash_of(identity)}
        return [EventQuery(named, {"identity_id": {"$ne": identity}} | seen, None)]

    async def _anonymous(self, identity: str, where: Document, seen: Document) -> tuple[set[str], list[EventQuery]]:
        """The visits that named this identity first, and the queries for their anonymous events."""
        first_named: set[str] = set()
        queries = []
        async for group in self._store.visit_groups(where, _VISITS_PER_GROUP):
            ids = [document["_id"] for document in group if Visit.from_document(document).first_named == identity]
            if ids:
                first_named.update(ids)
                start_ms = event_time_ms(group[0]["start_key"])
                queries.append(EventQuery({"visit_id": {"$in": ids}}, _IS_ANONYMOUS | seen, start_ms))
        return first_named, queries

    async def _unstored(
        self, number: int, identity: str, first_named: set[str]
    ) -> AsyncIterator[visit_pb2.UnstoredEvent]:
        """The dead letters of a partition whose events have this identity or name it."""
        for letter, batch, document in await dead_letter_documents(self._dead_letters, self._preview, number):
            [event] = batch.events
            owner = document.get("identity_id") if document else None
            is_anonymous = bool(document) and owner is None and event.visit_id in first_named
            if identity in {owner, event.identity_id} or is_anonymous:
                yield resources.unstored_event(letter, batch)
