"""A visit as Redis stores it, and the update that a batch of events makes to a visit."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall.history.v1.history_service_pb2 import LiveVisit
from footfall_timeline import LaterVersionError, Timeline, Transition, VisitState, from_fields

from footfall_identity.pages import NO_TEXT, OpenPage, PageTexts, PageUpdate, last_exit_ms, open_pages, page_updates
from footfall_identity.presence import Presence, PresenceRule

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


# Of the flags in a summary.
_STAFF = 2
_BOT = 4

_MAX_NOTABLE_NAME = 64


class NotableEvent(msgspec.Struct, array_like=True, frozen=True):
    """An event that a rule of ATTENTION_FILE counts."""

    time_ms: int
    event_id: str
    name: str


_NO_PAGE = Page()
_NO_TITLE = Title()


@dataclass(slots=True)
class VisitUpdate:
    """What a batch of events adds to one visit. Merging updates gives the same result in any order.

    `site` is the site of the event that was received first, at `received_ms`, a time that senders cannot set. `pages`
    are the page entries of the events, by page id. `is_staff`: one of the events is marked as one of staff. `is_bot`:
    one comes from a robot. `notable` are the events that a rule of ATTENTION_FILE counts, as a flat list of time in
    milliseconds, event id and name.
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
    pages: dict[str, PageUpdate] = field(default_factory=dict)
    is_staff: bool = False
    is_bot: bool = False
    notable: list[int | str] = field(default_factory=list)

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

    @classmethod
    def of_history(cls, visit: LiveVisit) -> "VisitUpdate":
        """Create an update with all that history knows of a visit. Raises LaterVersionError."""
        return cls(
            visit.visit_id,
            visit.first_event_time_ms,
            visit.last_event_time_ms,
            visit.site,
            visit.first_received_time_ms,
            visit.browser_visit_id,
            visit.global_visit_id,
            Page(visit.url_time_ms, visit.url),
            Title(visit.title_time_ms, visit.title, visit.title_url),
            [*from_fields(visit.timeline.items())],
            page_updates(visit.pages),
            visit.staff,
            visit.bot,
        )

    def add(self, event: Event, transition: Transition | None) -> None:
        """Add an event of the visit."""
        at_ms, global_visit_id, page_id = event.event_time_ms, event.global_visit_id, event.page_id
        url, title = event.url, event.title
        self.first_ms = min(self.first_ms, at_ms)
        self.received_ms, self.site = min((self.received_ms, self.site), (event.received_time_ms, event.site))
        self.last_ms = max(self.last_ms, at_ms)
        if global_visit_id:
            self.global_visit_id = min(self.global_visit_id or global_visit_id, global_visit_id)
        if url and at_ms >= self.page.time_ms:
            self.page = max(self.page, Page(at_ms, url))
        if title and at_ms >= self.title.time_ms:
            self.title = max(self.title, Title(at_ms, title, url))
        if page_id:
            page = self.pages.get(page_id) or self.pages.setdefault(page_id, PageUpdate.of(page_id))
            page.add(event.event_name, at_ms, url, title)
        if transition is not None:
            self.transitions.append(transition)
        if event.staff_reason:
            self.is_staff = True

    def add_notable(self, event: Event) -> None:
        """Add an event that a rule of ATTENTION_FILE counts."""
        self.notable += (event.event_time_ms, event.event_id, event.event_name[:_MAX_NOTABLE_NAME])

    @property
    def flags(self) -> int:
        """The flags that the events set, as merge_visits.lua takes them."""
        return _STAFF * self.is_staff + _BOT * self.is_bot


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
    version wrote it. `browser_visit_id` is empty if the visit has the id that the browser sent. `flags` is a sum: 1 if
    the timeline has erased transitions, 2 if the visit is one of staff, 4 if a robot has sent an event. The pages are
    as the script writes them.
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
    flags: int | bool = False
    closed_pages: msgspec.Raw = NO_TEXT
    open_pages: msgspec.Raw = NO_TEXT
    page_texts: tuple[PageTexts, ...] = ()
    notable: tuple[NotableEvent, ...] = ()

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

    def current_page(self, newest: OpenPage | None) -> tuple[str, str, int]:
        """Return address, title and time of entry of the page that the visitor is on; 0: not known.

        It is the open page with the latest event. `page` is of the visit's last event, which may be that of a page that
        is closed since, also at the time when this one was entered.
        """
        title = self.title.title if self.title.url == self.page.url else ""
        if newest is None:
            return self.page.url, title, 0
        is_last = newest.active_ms == self.page.time_ms
        entered = self._texts_of(newest)
        if entered.url and (entered.url == self.page.url or not is_last or newest.active_ms == newest.entered_ms):
            return entered.url, entered.title, newest.entered_ms
        return self.page.url, title, newest.entered_ms if is_last else 0

    def _texts_of(self, page: OpenPage) -> PageTexts:
        """Return address and title of an open page; empty if it is not known to have been entered."""
        if not page.entered_ms:
            return PageTexts(page.number, "", "")
        of_visit = PageTexts(page.number, self.page.url, self.title.title)
        return next((texts for texts in self.page_texts if texts.number == page.number), of_visit)


@dataclass(frozen=True)
class VisitRecord:
    """A stored visit, as it was when it was read. `rev` counts the changes of its timeline.

    `is_truncated`: the visit has had more transitions than are kept; the others do not count. `url` and `title` are
    those of the page that the visitor is on, or else of the last event that has an address. The visitor entered the
    page at `page_enter_ms`; 0: not known. `last_exit_ms` is when the last of the closed pages was closed; 0: none is.
    `is_staff`: at least one of the events is one of staff. `is_bot`: at least one comes from a robot. `notable`: the
    latest events that a rule of ATTENTION_FILE counts, in order.
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
    page_enter_ms: int = 0
    open_page_count: int = 0
    last_exit_ms: int = 0
    presence: Presence = Presence.PRESENT
    is_staff: bool = False
    is_bot: bool = False
    notable: tuple[NotableEvent, ...] = ()

    @property
    def shown_id(self) -> str:
        """The visit id that the browser sent, which all responses contain."""
        return self.browser_visit_id or self.visit_id

    @property
    def leave_ms(self) -> int:
        """When the last page was left (LEFT) or the last event happened (ENDED); 0: the visitor is present."""
        return {Presence.LEFT: self.last_exit_ms, Presence.ENDED: self.last_ms}.get(self.presence, 0)

    @cached_property
    def visit_state(self) -> VisitState:
        """The states, sessions and associations that follow from the timeline."""
        return VisitState(self.visit_id, self.timeline)

    @classmethod
    def from_hash(
        cls, visit_id: str, fields: Iterable[tuple[bytes, bytes]], rule: PresenceRule, now_ms: int
    ) -> "VisitRecord":
        """Decode a hash of merge_visits.lua that is read at `now_ms`. Raises LaterVersionError."""
        values = dict(fields)
        summary = Summary.read(values.pop(SUMMARY_FIELD, b""))
        pages = open_pages(summary.open_pages)
        url, title, page_enter_ms = summary.current_page(max(pages, default=None))
        open_count, exit_ms = len(pages), last_exit_ms(summary.closed_pages)
        return cls(
            visit_id,
            summary.site,
            summary.global_visit_id,
            summary.first_ms,
            summary.last_ms,
            url,
            title,
            summary.rev,
            bool(summary.bound),
            from_fields((name.decode(), value.decode()) for name, value in values.items()),
            summary.received_ms,
            summary.browser_visit_id,
            page_enter_ms,
            open_count,
            exit_ms,
            rule.presence(last_ms=summary.last_ms, open_count=open_count, last_exit_ms=exit_ms, now_ms=now_ms),
            bool(summary.flags & _STAFF),
            bool(summary.flags & _BOT),
            summary.notable,
        )


def identities(timeline: Timeline) -> Iterator[str]:
    """Yield the identities that a timeline names, each once."""
    yield from dict.fromkeys(t.identity for t in timeline if t.identity)
