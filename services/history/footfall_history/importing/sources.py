"""Sources of visits to import, a server or a file, read from any position on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from footfall_history.importing.past_events import (
    ExplainedTransition,
    Milliseconds,
    PastEvent,
    PastVisit,
    TimedEvent,
    decode_event,
)
from footfall_history.importing.rest_client import NO_QUERY, Answer, Query, RestClient, StoppedError
from footfall_history.storage import TIME_DIGITS

_VISIT_PAGE_SIZE: Final = 1_000
_LIST_PAGE_SIZE: Final = 100
# The collector does not correct a browser's clock that differs by no more than this.
_CLOCK_TOLERANCE_MS: Final = 5_000
_LINES_PER_READ: Final = 500
_BYTES_PER_READ: Final = 4 * 1024 * 1024
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024

Part = tuple[PastVisit, list[TimedEvent]]
Parts = AsyncIterator[Part]
ReportSkipped = Callable[[str], None]
"""Called with the reason for each record that cannot be imported."""


class Position(NamedTuple):
    """A position in a source: a page's cursor (in a file: a byte offset), and the last item done of that page."""

    page: str = ""
    after: str = ""


class Source(Protocol):
    """Where visits come from."""

    def visits(self, position: Position) -> AsyncIterator[tuple[Position, Parts]]:
        """One visit or several at a time, with the position before them. Read the parts to the end.

        Raises StoppedError, also from the parts.
        """


class ListItem(msgspec.Struct, rename="camel"):
    """A visit or an identity in a list."""

    visit_id: str = ""
    start_date: Milliseconds = 0
    identity_id: str = ""
    visit_scope: str = ""

    @property
    def id(self) -> str:
        """The id of the visit or the identity."""
        return self.visit_id or self.identity_id


class _Visit(msgspec.Struct, rename="camel"):
    """A visit resource. In a file it may have further fields."""

    visit_id: str
    start_date: Milliseconds = 0
    user_agent_id: str | None = None
    events: list[msgspec.Raw] | None = None
    site: str = ""
    user_agent: str = ""
    identities: frozenset[str] | None = None


class _UserAgent(msgspec.Struct, rename="camel"):
    user_agent: str = ""


class _Evidence(msgspec.Struct, rename="camel"):
    event_id: str


class _State(msgspec.Struct, rename="camel"):
    identity_id: str | None


class _Transition(msgspec.Struct, rename="camel"):
    rule: str
    after: _State
    assurance: str | None
    assurance_reason: str | None
    evidence: list[_Evidence]


class _Explanation(msgspec.Struct):
    site: str
    transitions: list[_Transition]


class ServerSource:
    """A History REST API: that of GWE 8.5, which lists visits only by identity, or Footfall's, which lists all."""

    def __init__(self, client: RestClient, report: ReportSkipped, visit_ids: Path | None = None) -> None:
        """Import the visits whose ids are in a file, one per line, or all that the server lists."""
        self._client = client
        self._report = report
        self._visit_ids = visit_ids
        self._is_footfall = False

    async def detect(self) -> bool:
        """Whether this is a Footfall server: it explains visits and has their user agents. Raises StoppedError."""
        self._is_footfall = await lists_all_visits(self._client)
        return self._is_footfall

    async def visits(self, position: Position) -> AsyncIterator[tuple[Position, Parts]]:
        """Raises StoppedError."""
        if self._visit_ids:
            for number, line in enumerate(_lines(self._visit_ids)):
                if number >= int(position.page or 0) and (visit_id := line.decode(errors="replace").strip()):
                    yield Position(str(number)), self._parts(visit_id)
        else:
            async for before, visit in listed_visits(self._client, position, by_identity=not self._is_footfall):
                yield before, self._parts(visit.visit_id)

    async def _parts(self, visit_id: str) -> Parts:
        visit = await self._visit(visit_id)
        if visit is None:
            self._report(f"visit {visit_id}: the server does not know it")
            return
        async for events in self._events(visit):
            yield visit, events

    async def _visit(self, visit_id: str) -> PastVisit | None:
        path = f"/visits/{quote(visit_id, safe='')}"
        visit, identities, extra = await asyncio.gather(
            self._client.get(path),
            self._client.get(f"{path}/identities", page(_VISIT_PAGE_SIZE)),
            self._footfall_fields(path),
        )
        known = decode(visit, _Visit, None)
        if known is None:
            return None
        return replace(
            extra,
            visit_id=known.visit_id,
            start_ms=known.start_date,
            user_agent_id=known.user_agent_id or "",
            identities=None
            if identities is None
            else frozenset(item.id for item in decode(identities, list[ListItem], [])),
        )

    async def _footfall_fields(self, path: str) -> PastVisit:
        """The fields of a visit that only Footfall provides."""
        if not self._is_footfall:
            return PastVisit("")
        explanation, user_agent = await asyncio.gather(
            self._client.get(f"{path}/explain", base=self._client.api_v1_url), self._client.get(f"{path}/userAgent")
        )
        explained = decode(explanation, _Explanation, _Explanation("", []))
        return PastVisit(
            "",
            site=explained.site,
            user_agent=decode(user_agent, _UserAgent, _UserAgent()).user_agent,
            transitions={
                evidence.event_id: ExplainedTransition.from_resource(
                    one.rule, one.after.identity_id, one.assurance, one.assurance_reason
                )
                for one in explained.transitions
                for evidence in one.evidence
            },
        )

    async def _events(self, visit: PastVisit) -> AsyncIterator[list[TimedEvent]]:
        """The events of a visit, a page at a time."""
        path = f"/visits/{visit.visit_id}/events"
        async for start, answer in pages(self._client, path, _VISIT_PAGE_SIZE):
            events = list(_valid_events(decode(answer, list[msgspec.Raw], []), f"visit {visit.visit_id}", self._report))
            yield await self._timed(visit, path, start, events)

    async def _timed(self, visit: PastVisit, path: str, start: str, events: list[PastEvent]) -> list[TimedEvent]:
        """Events with their event time, which is not in the events but in the cursors that name them.

        It equals the browser's time unless the browser's clock was wrong. That is possible if an event arrived much
        later than its time, or before it. Then the page is read again one event at a time for the cursors.
        """
        times = {event.event_id: event.timestamp for event in events}
        first = _cursor_ms(start) or (visit.start_ms if events and events[0].event_name == "VisitStarted" else 0)
        if any(abs(event.received_ms - event.timestamp) > _CLOCK_TOLERANCE_MS for event in events):
            first = first or visit.start_ms
            for _ in events[1:]:
                answer = await self._client.get(path, page(1, start))
                start = answer.next if answer else ""
                if not _cursor_ms(start):  # the server ignores page_size, or has other cursors
                    break
                times[start.rpartition("#")[2]] = _cursor_ms(start)
        if events and first:
            times[events[0].event_id] = min([first, *(times[event.event_id] for event in events[1:2])])
        return [TimedEvent(event, times[event.event_id]) for event in events]


async def lists_all_visits(client: RestClient) -> bool:
    """Whether a server lists all visits, and not only by identity as GWE 8.5. Raises StoppedError."""
    answer = await client.get("/visits", page(1))
    return answer is not None and answer.body[:1] in {b"", b"["}


async def pages(
    client: RestClient, path: str, size: int, start: str = "", query: Query = NO_QUERY
) -> AsyncIterator[tuple[str, Answer]]:
    """The pages of a collection from a cursor on, each with its own cursor. Raises StoppedError."""
    while answer := await client.get(path, {**query, **page(size, start)}):
        if answer.next and answer.next == start:  # the server ignores its own cursors, so read all
            answer = Answer((await client.get(path, query) or answer).body, "")
        yield start, answer
        start = answer.next
        if not start:
            return


def page(size: int, start: str = "") -> Query:
    """The query parameters of a page, the first one or that of a cursor."""
    return {"page_size": size} | ({"page_start": start} if start else {})


async def listed_visits(
    client: RestClient, position: Position, query: Query = NO_QUERY, *, by_identity: bool
) -> AsyncIterator[tuple[Position, ListItem]]:
    """The visits that a server lists, from a position on; by identity, some come repeatedly. Raises StoppedError."""
    if not by_identity:
        async for before, visit in listed(client, "/visits", position, query):
            yield before, visit
        return
    async for before, identity in listed(client, "/identities", position):
        path = f"/identities/{quote(identity.identity_id, safe='@')}/visits"
        async for _, visit in listed(client, path, Position(), query):
            yield before, visit


async def listed(
    client: RestClient, path: str, position: Position, query: Query = NO_QUERY
) -> AsyncIterator[tuple[Position, ListItem]]:
    """The items of a collection from a position on, each with the position before it. Raises StoppedError."""
    after = position.after
    async for start, answer in pages(client, path, _LIST_PAGE_SIZE, position.page, query):
        items: list[ListItem] = decode(answer, list[ListItem], [])
        ids = [item.id for item in items]
        for item in items[ids.index(after) + 1 if after in ids else 0 :]:
            yield Position(start, after), item
            after = item.id
        after = ""


class FileSource:
    """A file of JSON lines. Each is an event resource, or a visit resource with its `events`, as in the History API.

    A visit may also have the fields `userAgent`, `identities` (ids of its identities) and `site`.
    """

    def __init__(self, file: Path, report: ReportSkipped) -> None:
        self._file = file
        self._report = report

    async def visits(self, position: Position) -> AsyncIterator[tuple[Position, Parts]]:
        """Raises StoppedError."""
        at, size, parts = int(position.page or 0), 0, list[Part]()
        for line in _lines(self._file, at):
            parts += self._read(line, f"the line at byte {at + size}")
            size += len(line)
            if len(parts) >= _LINES_PER_READ or size >= _BYTES_PER_READ:
                yield Position(str(at)), _each(parts)
                at, size, parts = at + size, 0, []
        yield Position(str(at)), _each(parts)

    def _read(self, line: bytes, where: str) -> list[Part]:
        if not line.strip():
            return []
        try:
            if "eventID" in msgspec.json.decode(line, type=dict[str, msgspec.Raw]):
                event = decode_event(line)
                return [(PastVisit(event.visit_id), [TimedEvent(event, event.timestamp)])]
            given = msgspec.json.decode(line, type=_Visit)
        except (ValueError, RecursionError) as error:
            self._report(f"{where}: {error}")
            return []
        visit = PastVisit(
            given.visit_id,
            site=given.site,
            user_agent_id=given.user_agent_id or "",
            user_agent=given.user_agent,
            identities=given.identities,
        )
        events = [
            TimedEvent(event, event.timestamp) for event in _valid_events(given.events or [], where, self._report)
        ]
        return [(visit, events[at : at + _VISIT_PAGE_SIZE]) for at in range(0, len(events), _VISIT_PAGE_SIZE)]


async def _each(parts: list[Part]) -> Parts:
    for part in parts:
        yield part


def _valid_events(records: list[msgspec.Raw], where: str, report: ReportSkipped) -> Iterator[PastEvent]:
    for number, record in enumerate(records, 1):
        try:
            yield decode_event(record)
        except (ValueError, RecursionError) as error:
            report(f"{where}, event {number}: {error}")


def _lines(path: Path, at: int = 0) -> Iterator[bytes]:
    """The lines of a file from a byte offset on. Raises StoppedError."""
    try:
        with path.open("rb") as file:
            file.seek(at)
            while line := file.readline(_MAX_LINE_BYTES):
                if len(line) == _MAX_LINE_BYTES:
                    raise StoppedError(
                        f"{path}: a line is longer than {_MAX_LINE_BYTES} bytes. Split the visit into several lines."
                    )
                yield line
    except OSError as error:
        raise StoppedError(f"{path}: cannot be read: {error.strerror}") from None


def _cursor_ms(cursor: str) -> int:
    """The time in a cursor, `parent#time#id`; 0 when it has none."""
    _, _, rest = cursor.rpartition("#")[0].rpartition("#")
    return int(rest) if rest.isdecimal() and len(rest) <= TIME_DIGITS else 0


def decode(answer: Answer | None, as_type: Any, otherwise: Any) -> Any:
    """The content of an answer, decoded. Raises StoppedError if it has another form."""
    if answer is None or not answer.body:
        return otherwise
    try:
        return msgspec.json.decode(answer.body, type=as_type)
    except ValueError as error:  # DecodeError is one
        raise StoppedError(f"The server's answer is not that of a History REST API ({error}). Check the URL.") from None
