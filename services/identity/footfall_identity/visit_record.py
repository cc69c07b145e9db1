"""Turns admitted events into what they bring to each visit, and a visit as Redis keeps it into a record."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Fold, LaterVersionError, Timeline, Transition, from_fields

SUMMARY_FIELD = b"visit"
"""The one field of a visit's hash that is no transition. No event id looks like it."""

_FIRST_VERSION = re.compile(rb"\d")


class Page(msgspec.Struct, array_like=True, frozen=True, order=True):
    """A page that an event tells of. Of several the greatest counts: that of the latest event."""

    time_ms: int = 0
    url: str = ""


class Title(msgspec.Struct, array_like=True, frozen=True, order=True):
    """The title of a page that an event tells of. Of several the greatest counts."""

    time_ms: int = 0
    title: str = ""
    url: str = ""


_NO_PAGE = Page()
_NO_TITLE = Title()


@dataclass(slots=True)
class VisitUpdate:
    """What a batch brings to one visit. Parts that disagree merge to the same whatever their order.

    `site` is that of the event received first, at `received_ms`: the one thing about it that no sender can set.
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
    def of(cls, record: "VisitRecord", transitions: list[Transition]) -> "VisitUpdate":
        """What only changes transitions of a visit."""
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
        """Take in an event of the visit."""
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
    """What the events, each with its transition, bring to the visits they belong to."""
    found: dict[str, VisitUpdate] = {}
    for event, transition in events:
        update = found.get(event.visit_id)
        if update is None:
            at_ms = event.event_time_ms
            update = found[event.visit_id] = VisitUpdate(
                event.visit_id, at_ms, at_ms, event.site, event.received_time_ms, event.browser_visit_id
            )
        update.add(event, transition)
    return list(found.values())


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """What Redis keeps of a visit besides its transitions: a MessagePack array, in the order of merge.lua.

    `rev` counts the changes of the timeline. `bound` is empty until a transition had to be left out; then none that
    sorts behind it is kept. `received_ms` is when the first event was received, whose site it is; 0 of versions that
    did not note it. `browser_visit_id` is empty when the visit has the id that the browser sent. An eleventh element
    says that there are erased markers; only the script asks.
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
        """Read what this version or the first one has written. Raises LaterVersionError."""
        if _FIRST_VERSION.match(raw):
            first, last, page_ms, rev, global_visit_id, site, url = raw.decode().split("\n", 6)
            return cls(int(first), int(last), int(rev), global_visit_id, site, Page(int(page_ms), url), _NO_TITLE)
        try:
            return msgspec.msgpack.decode(raw, type=cls)
        except msgspec.DecodeError:
            raise LaterVersionError("a visit of a later version") from None


@dataclass(frozen=True)
class VisitRecord:
    """A visit as far as it is remembered. `rev` counts the changes of its timeline.

    `is_truncated`: it had more transitions than are kept, and those beyond do not count.
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
        """The id that the browser knows the visit by, and so do all answers."""
        return self.browser_visit_id or self.visit_id

    @cached_property
    def fold(self) -> Fold:
        """Its timeline, read from beginning to end."""
        return Fold(self.visit_id, self.timeline)

    @classmethod
    def from_hash(cls, visit_id: str, fields: Iterable[tuple[bytes, bytes]]) -> "VisitRecord":
        """Read what merge.lua keeps. Raises LaterVersionError."""
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
    """Whom a timeline names, each once."""
    yield from dict.fromkeys(t.identity for t in timeline if t.identity)
