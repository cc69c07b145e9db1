"""A visit as Redis stores it, and the update that a batch of events makes to a visit."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import LaterVersionError, Timeline, Transition, VisitState, from_fields

SUMMARY_FIELD = b"visit"
"""The field of a visit's hash that is no transition. Its name is no event id."""

_FIRST_VERSION = re.compile(rb"\d")


class Page(msgspec.Struct, array_like=True, frozen=True, order=True):
    """The page of an event. Of several, the greatest counts, which is that of the latest event."""

    time_ms: int = 0
    url: str = ""


class Title(msgspec.Struct, array_like=True, frozen=True, order=True):
    """The title of a page. Of several, the greatest counts, which is that of the latest event."""

    time_ms: int = 0
    title: str = ""
    url: str = ""


_NO_PAGE = Page()
_NO_TITLE = Title()


@dataclass(slots=True)
class VisitUpdate:
    """What a batch of events adds to one visit. Merging updates gives the same result in any order.

    `site` is the site of the event that was received first, at `received_ms`, a time that senders cannot set.
    """

    visit_id: str
    first_ms: int
    last_ms: int
    site: str
    received_ms: int
    browser_visit_id: str = ""
    global_visit_id: str = ""
    page: Page = _NO_PAGE
    title: Title = _NO_TITLE
    transitions: list[Transition] = field(default_factory=list)

    @classmethod
    def of_transitions(cls, record: "VisitRecord", transitions: list[Transition]) -> "VisitUpdate":
        """Create an update that changes only transitions of a visit."""
        return cls(
            record.visit_id,
            record.first_ms,
            record.last_ms,
            record.site,
            record.received_ms,
            record.browser_visit_id,
            transitions=transitions,
        )

    def add(self, event: Event, transition: Transition | None) -> None:
        """Add an event of the visit."""
        at_ms, global_visit_id, url = event.event_time_ms, event.global_visit_id, event.url
        self.first_ms = min(self.first_ms, at_ms)
        self.received_ms, self.site = min((self.received_ms, self.site), (event.received_time_ms, event.site))
        self.last_ms = max(self.last_ms, at_ms)
        if global_visit_id:
            self.global_visit_id = min(self.global_visit_id or global_visit_id, global_visit_id)
        if url and at_ms >= self.page.time_ms:
            self.page = max(self.page, Page(at_ms, url))
        if event.title and at_ms >= self.title.time_ms:
            self.title = max(self.title, Title(at_ms, event.title, url))
        if transition is not None:
            self.transitions.append(transition)


def visit_updates(events: Iterable[tuple[Event, Transition | None]]) -> list[VisitUpdate]:
    """Return one update per visit for these events with their transitions."""
    updates: dict[str, VisitUpdate] = {}
    for event, transition in events:
        update = updates.get(event.visit_id)
        if update is None:
            at_ms = event.event_time_ms
            update = updates[event.visit_id] = VisitUpdate(
                event.visit_id, at_ms, at_ms, event.site, event.received_time_ms, event.browser_visit_id
            )
        update.add(event, transition)
    return list(updates.values())


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """The part of a visit in Redis besides its transitions: a MessagePack array in the order of merge_visits.lua.

    `rev` counts the changes of the timeline. `bound` is the greatest rank of a transition that is kept, empty until one
    had to be left out. `received_ms` is when the first event, which decides the site, was received; 0 if an early
    version wrote it. `browser_visit_id` is empty if the visit has the id that the browser sent. The script uses an
    eleventh element, which says that the timeline has erased transitions.
    """

    first_ms: int
    last_ms: int
    rev: int
    global_visit_id: str
    site: str
    page: Page
    title: Title
    bound: str = ""
    received_ms: int = 0
    browser_visit_id: str = ""

    @classmethod
    def read(cls, raw: bytes) -> "Summary":
        """Decode what this or the first version has written. Raises LaterVersionError."""
        if _FIRST_VERSION.match(raw):
            first, last, page_ms, rev, global_visit_id, site, url = raw.decode().split("\n", 6)
            return cls(int(first), int(last), int(rev), global_visit_id, site, Page(int(page_ms), url), _NO_TITLE)
        try:
            return msgspec.msgpack.decode(raw, type=cls)
        except msgspec.DecodeError:
            raise LaterVersionError("a visit of a later version") from None


@dataclass(frozen=True)
class VisitRecord:
    """A stored visit. `rev` counts the changes of its timeline.

    `is_truncated`: the visit has had more transitions than are kept; the others do not count.
    """

    visit_id: str
    site: str
    global_visit_id: str
    first_ms: int
    last_ms: int
    url: str
    title: str
    rev: int
    is_truncated: bool
    timeline: Timeline
    received_ms: int = 0
    browser_visit_id: str = ""

    @property
    def shown_id(self) -> str:
        """The visit id that the browser sent, which all responses contain."""
        return self.browser_visit_id or self.visit_id

    @cached_property
    def visit_state(self) -> VisitState:
        """The states, sessions and associations that follow from the timeline."""
        return VisitState(self.visit_id, self.timeline)

    @classmethod
    def from_hash(cls, visit_id: str, fields: Iterable[tuple[bytes, bytes]]) -> "VisitRecord":
        """Decode a hash of merge_visits.lua. Raises LaterVersionError."""
        values = dict(fields)
        summary = Summary.read(values.pop(SUMMARY_FIELD, b""))
        page, title = summary.page, summary.title
        return cls(
            visit_id,
            summary.site,
            summary.global_visit_id,
            summary.first_ms,
            summary.last_ms,
            page.url,
            title.title if title.url == page.url else "",
            summary.rev,
            bool(summary.bound),
            from_fields((name.decode(), value.decode()) for name, value in values.items()),
            summary.received_ms,
            summary.browser_visit_id,
        )


def identities(timeline: Timeline) -> Iterator[str]:
    """Yield the identities that a timeline names, each once."""
    yield from dict.fromkeys(t.identity for t in timeline if t.identity)
