"""Turns an identity into all that history keeps of it: visits, sessions, pages, events and dead letters, each in order.

By commands whose number does not grow with the answer, but for groups of visits and for ranges.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall_timeline import State

from footfall_history.dead_letters import DeadLetters, stamped_letters
from footfall_history.queries import resources
from footfall_history.queries.filters import of_sites
from footfall_history.queries.reader import IS_ENTRY, Reader
from footfall_history.queries.user_agents import user_agent
from footfall_history.storage import Document, Preview, Series, Store, Tombstones, Visit, event_time_ms, stored_event

_VISITS_A_GROUP: Final = 50
_CHUNK: Final = 100
# Of a visit that is not erased only what came before it named anybody is anonymous.
_IS_ANONYMOUS: Final[Document] = {"state": int(State.ANONYMOUS), "erased": {"$ne": True}}


class Exporter:
    """Exports people. Raises `storage.Unavailable` and `log.Unavailable`."""

    def __init__(
        self, store: Store, reader: Reader, tombstones: Tombstones, letters: DeadLetters, preview: Preview
    ) -> None:
        self._store = store
        self._tombstones = tombstones
        self._reader = reader
        self._letters = letters
        self._preview = preview

    async def export(self, identity: str, sites: Sequence[str] = ()) -> AsyncGenerator[pb.ExportIdentityResponse, None]:
        """Everything that is kept of an identity, on these sites or, when none is given, on all.

        With what its visits did before they named anybody, where it is whom they named first: so that is erased too.
        """
        seen = of_sites(sites)
        visits = {"identities": identity} | seen
        async for visit in self._visits(visits):
            yield pb.ExportIdentityResponse(visit=visit)
        async for session in self._sessions(identity, visits):
            yield pb.ExportIdentityResponse(session=session)
        first_named, anonymous = await self._anonymous(identity, visits, seen)
        own = await self._reader.series("identity_id", identity, seen, sites)
        parts = [own, *self._named(identity, seen), *anonymous]
        for series in parts:
            entries = self._store.walk(series._replace(where=series.where | IS_ENTRY), "", "", resources.PAGE_FIELDS)
            while entered := await entries.take(_CHUNK):
                for page in (await self._reader.page_messages(entered)).values():
                    yield pb.ExportIdentityResponse(page=page)
        for series in parts:
            events = self._store.walk(series, "", "")
            while found := await events.take(_CHUNK):
                for event in found:
                    yield pb.ExportIdentityResponse(event=stored_event(event))
        for number in range(self._letters.partitions):
            async for unstored in self._unstored(number, identity, first_named):
                if not sites or unstored.event.event.site in sites:
                    yield pb.ExportIdentityResponse(unstored_event=unstored)

    async def _visits(self, where: Document) -> AsyncIterator[visit_pb2.Visit]:
        async for group in self._groups(where):
            for visit in await self._reader.visit_messages(group):
                if visit.user_agent:
                    visit.user_agent_details.CopyFrom(user_agent(visit.user_agent, visit.user_agent_id))
                yield visit

    async def _sessions(self, identity: str, where: Document) -> AsyncIterator[visit_pb2.Session]:
        async for group in self._groups(where):
            for document in group:
                for session in Visit.from_document(document).fold.sessions:
                    if session.identity == identity:
                        yield resources.session_message(resources.shown_id(document), session)

    def _named(self, identity: str, seen: Document) -> list[Series]:
        """What names this identity and is somebody else's all the same, by a timeline that has no room for it."""
        if not self._tombstones.has_key:
            return []
        named = {"names_hash": self._tombstones.hash_of(identity)}
        return [Series(named, {"identity_id": {"$ne": identity}} | seen, None)]

    async def _anonymous(self, identity: str, where: Document, seen: Document) -> tuple[set[str], list[Series]]:
        """The visits that named this identity first, and what they did before."""
        first_named: set[str] = set()
        series = []
        async for group in self._groups(where):
            ids = [document["_id"] for document in group if Visit.from_document(document).first_named == identity]
            if ids:
                first_named.update(ids)
                start_ms = event_time_ms(group[0]["start_key"])
                series.append(Series({"visit_id": {"$in": ids}}, _IS_ANONYMOUS | seen, start_ms))
        return first_named, series

    async def _unstored(
        self, number: int, identity: str, first_named: set[str]
    ) -> AsyncIterator[visit_pb2.UnstoredEvent]:
        """The events of a partition that lie aside and are the identity's, or name it."""
        for letter, batch, document in await stamped_letters(self._letters, self._preview, number):
            [event], [context] = batch.events, batch.contexts
            owner = document.get("identity_id") if document else None
            is_anonymous = bool(document) and owner is None and event.visit_id in first_named
            if identity in {owner, event.identity_id} or is_anonymous:
                unstored = visit_pb2.UnstoredEvent(
                    event=visit_pb2.StoredEvent(event=event, address=context.address, bot=context.bot)
                )
                unstored.event.event.visit_id = event.browser_visit_id or event.visit_id
                unstored.event.event.ClearField("browser_visit_id")
                unstored.event.received_time.FromMilliseconds(context.received_time_ms)
                unstored.dead_letter.reason = letter.reason
                unstored.dead_letter.create_time.FromMilliseconds(letter.aside_ms)
                yield unstored

    async def _groups(self, where: Document) -> AsyncIterator[list[Document]]:
        """The visits that match, as stored, in order, some at a time."""
        group: list[Document] = []
        async for document in self._store.each_visit(where):
            group.append(document)
            if len(group) == _VISITS_A_GROUP:
                yield group
                group = []
        if group:
            yield group
