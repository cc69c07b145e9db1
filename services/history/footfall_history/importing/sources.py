"""Turns an old server, or a file, into past visits with their events, from any place in it on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from footfall_history.importing.past_events import Milliseconds, PastEvent, PastVisit, Timed, Told, decode_event
from footfall_history.importing.rest_client import NO_QUERY, Answer, Query, RestClient, StoppedError
from footfall_history.storage import TIME_DIGITS

_ITEMS_OF_A_VISIT: Final = 1_000
_ITEMS_A_PAGE: Final = 100
_RIGHT_WITHIN_MS: Final = 5_000
"""A clock that seems as far off is taken for right by the collector, whatever the sender said of it."""
_LINES_A_READ: Final = 500
_BYTES_A_READ: Final = 4 * 1024 * 1024
_LONGEST_LINE: Final = 16 * 1024 * 1024

Item = TypeVar("Item")
Part = tuple[PastVisit, list[Timed]]
Parts = AsyncIterator[Part]
Report = Callable[[str], None]
"""Takes the reason why a record cannot be brought."""


class Place(NamedTuple):
    """How far a source has been read: a page of it (or of a file the byte), and what of that page is done."""

    page: str = ""
    after: str = ""


class Source(Protocol):
    """Where visits come from."""

    def visits(self, place: Place) -> AsyncIterator[tuple[Place, Parts]]:
        """What there is from a place on: a visit, or several, with the place before. Parts are to be read to the end.

        Raises StoppedError, and so do the parts.
        """


class Listed(msgspec.Struct, rename="camel"):
    """What is read of a visit or an identity in a list."""

    visit_id: str = ""
    start_date: Milliseconds = 0
    identity_id: str = ""
    visit_scope: str = ""

    @property
    def id(self) -> str:
        """What names it."""
        return self.visit_id or self.identity_id


class _Visit(msgspec.Struct, rename="camel"):
    """A visit resource; in a file with what else is known of it."""

    visit_id: str
    start_date: Milliseconds = 0
    user_agent_id: str | None = None
    events: list[msgspec.Raw] | None = None
    site: str = ""
    user_agent: str = ""
    identities: list[str] | None = None


class _UserAgent(msgspec.Struct, rename="camel"):
    user_agent: str = ""


class _Evidence(msgspec.Struct, rename="camel"):
    event_id: str


class _Moment(msgspec.Struct, rename="camel"):
    identity_id: str | None


class _Transition(msgspec.Struct, rename="camel"):
    rule: str
    after: _Moment
    assurance: str | None
    assurance_reason: str | None
    evidence: list[_Evidence]


class _Explanation(msgspec.Struct):
    site: str
    transitions: list[_Transition]


class OldServer:
    """A History REST API: the original's, which lists visits by identity alone, or Footfall's, which lists them all."""

    def __init__(self, client: RestClient, report: Report, visit_ids: Path | None = None) -> None:
        """Take the visits whose ids a file holds, one a line, or all that the server lists."""
        self._client = client
        self._report = report
        self._visit_ids = visit_ids
        self._is_footfall = False

    async def begin(self) -> bool:
        """Ask whether it is a Footfall: only that explains its visits too, and knows their user agents."""
        self._is_footfall = await lists_all(self._client)
        return self._is_footfall

    async def visits(self, place: Place) -> AsyncIterator[tuple[Place, Parts]]:
        """Raises StoppedError."""
        if self._visit_ids:
            for number, line in enumerate(_lines(self._visit_ids)):
                if number >= int(place.page or 0) and (visit_id := line.decode(errors="replace").strip()):
                    yield Place(str(number)), self._parts(visit_id)
        else:
            async for before, visit in listed_visits(self._client, place, by_identity=not self._is_footfall):
                yield before, self._parts(visit.visit_id)

    async def _get(self, path: str, query: Query = NO_QUERY) -> Answer:
        return await self._client.get(path, query) or Answer(b"", "")

    async def _parts(self, visit_id: str) -> Parts:
        visit = await self._visit(visit_id)
        if visit is None:
            self._report(f"visit {visit_id}: the server does not know it")
            return
        async for events in self._events(visit):
            yield visit, events

    async def _visit(self, visit_id: str) -> PastVisit | None:
        path = f"/visits/{quote(visit_id, safe='')}"
        visit, identities, told = await asyncio.gather(
            self._client.get(path), self._client.get(f"{path}/identities", page(_ITEMS_OF_A_VISIT)), self._told(path)
        )
        known = decoded(visit, _Visit, None)
        if known is None:
            return None
        return replace(
            told,
            visit_id=known.visit_id,
            start_ms=known.start_date,
            user_agent_id=known.user_agent_id or "",
            identities=None
            if identities is None
            else frozenset(item.id for item in decoded(identities, list[Listed], [])),
        )

    async def _told(self, path: str) -> PastVisit:
        """What Footfall alone tells of a visit."""
        if not self._is_footfall:
            return PastVisit("")
        explanation, user_agent = await asyncio.gather(
            self._client.get(f"{path}/explain", base=self._client.api_v1_url), self._get(f"{path}/userAgent")
        )
        explained = decoded(explanation, _Explanation, _Explanation("", []))
        return PastVisit(
            "",
            site=explained.site,
            user_agent=decoded(user_agent, _UserAgent, _UserAgent()).user_agent,
            transitions={
                evidence.event_id: Told.of(one.rule, one.after.identity_id, one.assurance, one.assurance_reason)
                for one in explained.transitions
                for evidence in one.evidence
            },
        )

    async def _events(self, visit: PastVisit) -> AsyncIterator[list[Timed]]:
        """The events of a visit, a page at a time."""
        path = f"/visits/{visit.visit_id}/events"
        async for start, answer in pages(self._client, path, _ITEMS_OF_A_VISIT):
            events = list(_good(decoded(answer, list[msgspec.Raw], []), f"visit {visit.visit_id}", self._report))
            yield await self._timed(visit, path, start, events)

    async def _timed(self, visit: PastVisit, path: str, start: str, events: list[PastEvent]) -> list[Timed]:
        """When events happened. That is not in them, but in the cursors that name them.

        By the clock of the browser, unless that was wrong; it may have been where an event says that it arrived much
        later than it happened, or before. Then the page is read again, one by one, for a cursor before each of them.
        """
        times = {event.event_id: event.timestamp for event in events}
        first = _cursor_ms(start) or (visit.start_ms if events and events[0].event_name == "VisitStarted" else 0)
        if any(abs(event.received_ms - event.timestamp) > _RIGHT_WITHIN_MS for event in events):
            first = first or visit.start_ms
            for _ in events[1:]:
                start = (await self._get(path, page(1, start))).next
                if not _cursor_ms(start):  # it takes no page_size, or has cursors of another kind
                    break
                times[start.rpartition("#")[2]] = _cursor_ms(start)
        if events and first:
            times[events[0].event_id] = min([first, *(times[event.event_id] for event in events[1:2])])
        return [Timed(event, times[event.event_id]) for event in events]


async def lists_all(client: RestClient) -> bool:
    """Whether a server lists all visits, not by identity alone as the original does. Raises StoppedError."""
    answer = await client.get("/visits", page(1))
    return answer is not None and answer.body[:1] in {b"", b"["}


async def pages(
    client: RestClient, path: str, size: int, start: str = "", query: Query = NO_QUERY
) -> AsyncIterator[tuple[str, Answer]]:
    """All of a collection or a resource from a cursor on, each page with its own. Raises StoppedError."""
    while answer := await client.get(path, {**query, **page(size, start)}):
        if answer.next and answer.next == start:  # it does not take what it gives: then all at once
            answer = Answer((await client.get(path, query) or answer).body, "")
        yield start, answer
        start = answer.next
        if not start:
            return


def page(size: int, start: str = "") -> Query:
    """The parameters that ask for a page, the first or that of a cursor."""
    return {"page_size": size} | ({"page_start": start} if start else {})


async def listed_visits(
    client: RestClient, place: Place, query: Query = NO_QUERY, *, by_identity: bool
) -> AsyncIterator[tuple[Place, Listed]]:
    """The visits that a server lists, from a place on; by identity some come several times. Raises StoppedError."""
    if not by_identity:
        async for before, visit in listed(client, "/visits", place, query):
            yield before, visit
        return
    async for before, identity in listed(client, "/identities", place):
        path = f"/identities/{quote(identity.identity_id, safe='@')}/visits"
        async for _, visit in listed(client, path, Place(), query):
            yield before, visit


async def listed(
    client: RestClient, path: str, place: Place, query: Query = NO_QUERY
) -> AsyncIterator[tuple[Place, Listed]]:
    """The items of a collection from a place on, each with the place before it. Raises StoppedError."""
    after = place.after
    async for start, answer in pages(client, path, _ITEMS_A_PAGE, place.page, query):
        items: list[Listed] = decoded(answer, list[Listed], [])
        ids = [item.id for item in items]
        for item in items[ids.index(after) + 1 if after in ids else 0 :]:
            yield Place(start, after), item
            after = item.id
        after = ""


class PastFile:
    """JSON lines. Each is an event resource, or a visit resource with its `events`, as the History API has them.

    A visit may also say `userAgent`, `identities` (the ids of those it names) and `site`.
    """

    def __init__(self, file: Path, report: Report) -> None:
        self._file = file
        self._report = report

    async def visits(self, place: Place) -> AsyncIterator[tuple[Place, Parts]]:
        """Raises StoppedError."""
        at, size, parts = int(place.page or 0), 0, list[Part]()
        for line in _lines(self._file, at):
            parts += self._read(line, f"the line at byte {at + size}")
            size += len(line)
            if len(parts) >= _LINES_A_READ or size >= _BYTES_A_READ:
                yield Place(str(at)), _each(parts)
                at, size, parts = at + size, 0, []
        yield Place(str(at)), _each(parts)

    def _read(self, line: bytes, where: str) -> list[Part]:
        if not line.strip():
            return []
        try:
            if "eventID" in msgspec.json.decode(line, type=dict[str, msgspec.Raw]):
                event = decode_event(line)
                return [(PastVisit(event.visit_id), [Timed(event, event.timestamp)])]
            given = msgspec.json.decode(line, type=_Visit)
        except (ValueError, RecursionError) as error:
            self._report(f"{where}: {error}")
            return []
        visit = PastVisit(
            given.visit_id,
            site=given.site,
            user_agent_id=given.user_agent_id or "",
            user_agent=given.user_agent,
            identities=None if given.identities is None else frozenset(given.identities),
        )
        events = [Timed(event, event.timestamp) for event in _good(given.events or [], where, self._report)]
        return [(visit, events[at : at + _ITEMS_OF_A_VISIT]) for at in range(0, len(events), _ITEMS_OF_A_VISIT)]


async def _each(parts: list[Part]) -> Parts:
    for part in parts:
        yield part


def _good(records: list[msgspec.Raw], where: str, report: Report) -> Iterator[PastEvent]:
    for number, record in enumerate(records, 1):
        try:
            yield decode_event(record)
        except (ValueError, RecursionError) as error:
            report(f"{where}, event {number}: {error}")


def _lines(path: Path, at: int = 0) -> Iterator[bytes]:
    """The lines of a file from a byte on. Raises StoppedError."""
    try:
        with path.open("rb") as file:
            file.seek(at)
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise StoppedError(f"{path}: a line is longer than {_LONGEST_LINE} bytes")
                yield line
    except OSError as error:
        raise StoppedError(f"{path} cannot be read: {error.strerror}") from None


def _cursor_ms(cursor: str) -> int:
    """The time in a cursor, `parent#time#id`; 0 when it has none."""
    _, _, rest = cursor.rpartition("#")[0].rpartition("#")
    return int(rest) if rest.isdecimal() and len(rest) <= TIME_DIGITS else 0


async def groups(items: AsyncIterator[Item], size: int) -> AsyncIterator[list[Item]]:
    """The items in order, in lists of this size; the last may be shorter."""
    group: list[Item] = []
    async for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def decoded(answer: Answer | None, as_type: Any, otherwise: Any) -> Any:
    """What an answer holds. Raises StoppedError when it is something else altogether."""
    if answer is None or not answer.body:
        return otherwise
    try:
        return msgspec.json.decode(answer.body, type=as_type)
    except ValueError as error:  # DecodeError is one
        raise StoppedError(f"the server's answer is not that of a History API: {error}") from None
