"""What Footfall must say about the presence of visitors, the simple way. Shares no code with it.

Compare with "Presence" in docs/concepts.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

ENTERED, EXITED = "PageEntered", "PageExited"


class Seen(NamedTuple):
    """One event of a visit; without a page it says nothing about presence."""

    at_ms: int
    name: str
    page_id: str = ""
    url: str = ""
    title: str = ""


@dataclass
class PageEvents:
    """The events of one page; what a page sends within `leave_ms` of its PageExited is part of going away."""

    leave_ms: int
    events: list[Seen] = field(default_factory=list)

    def last(self, *names: str) -> int:
        """When the last event of these names happened, or of all names but PageExited; 0: never."""
        return max((e.at_ms for e in self.events if (e.name in names if names else e.name != EXITED)), default=0)

    @property
    def rank(self) -> int:
        """When the last event happened, where entering and leaving count as if they were `leave_ms` later."""
        return max(e.at_ms + self.leave_ms * (e.name in {ENTERED, EXITED}) for e in self.events)

    @property
    def is_open(self) -> bool:
        """It was not left, or entered since, or has sent something when it should have been gone."""
        left_ms = self.last(EXITED)
        return not left_ms or self.last(ENTERED) > left_ms or self.last() > left_ms + self.leave_ms

    @property
    def entry(self) -> Seen:
        """The PageEntered since the page was left last."""
        entries = [e for e in self.events if e.name == ENTERED and e.at_ms > self.last(EXITED)]
        return max(entries, default=Seen(0, ""), key=lambda e: (e.at_ms, e.url, e.title))


class Pages:
    """The pages of a visit. Only the `most` pages of the highest ranks count."""

    def __init__(self, events: Iterable[Seen], most: int, leave_ms: int) -> None:
        self._events = [*events]
        self._leave_ms = leave_ms
        pages: dict[str, PageEvents] = {}
        for event in self._events:
            if event.page_id:
                pages.setdefault(event.page_id, PageEvents(leave_ms)).events.append(event)
        known = sorted(pages.values(), key=lambda page: page.rank)[-most:]
        self.open = [page for page in known if page.is_open]
        self.last_exit_ms = max((page.last(EXITED) for page in known if not page.is_open), default=0)

    def presence(self, now_ms: int, idle_ms: int) -> str:
        """PRESENT, LEFT or ENDED."""
        if max(event.at_ms for event in self._events) < now_ms - idle_ms:
            return "ENDED"
        has_left = self.last_exit_ms and not self.open and now_ms - self.last_exit_ms >= self._leave_ms
        return "LEFT" if has_left else "PRESENT"

    def current(self) -> tuple[str, int]:
        """The address of the page that the visitor is on, and when it was entered; 0: not known."""
        last = max(((e.at_ms, e.url) for e in self._events if e.url), default=(0, ""))
        newest = max(self.open, default=PageEvents(self._leave_ms), key=PageEvents.last)
        is_last, entry = newest.last() == last[0], newest.entry
        if entry.url and (not is_last or newest.last() == entry.at_ms):
            return entry.url, entry.at_ms
        return last[1], entry.at_ms if is_last or entry.url == last[1] != "" else 0
