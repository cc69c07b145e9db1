"""The pages of a visit: what events say about them, and which of them are open."""

from collections.abc import Collection, Iterable, Iterator
from heapq import nlargest
from typing import Final, NamedTuple, Self
from zlib import crc32

import msgspec
from footfall.history.v1.history_service_pb2 import LiveVisit
from footfall_eventlog.events import PAGE_ENTERED, PAGE_EXITED

_MAX_URL_LENGTH: Final = 1_024
"""A longer address is not stored for each page: Redis reads all open pages of a visit at each of its events."""

_TEXT_HEADERS: Final = {0xD9: 2, 0xDA: 3}
"""Bytes before a text in MessagePack by the first of them; 1 before a short text."""

NO_TEXT: Final = msgspec.Raw(b"\xa0")
"""An empty text in MessagePack."""


class PageUpdate(msgspec.Struct, gc=False):
    """What a batch of events says about one page, in the order of merge_visits.lua. Times are 0 where no event says so.

    `active_ms` is the time of the latest event except PageExited, `exited_ms` that of the latest PageExited. The latest
    PageEntered gives `entered_ms`, `url` and `title`. `number` is the checksum of the page's id: the few pages of a
    visit differ in it.
    """

    active_ms: int
    number: int
    exited_ms: int = 0
    entered_ms: int = 0
    url: str = ""
    title: str = ""

    @classmethod
    def of(cls, page_id: str) -> Self:
        """Create an update for a page that no event has been added to."""
        return cls(0, crc32(page_id.encode()))

    def add(self, name: str, at_ms: int, url: str, title: str) -> None:
        """Add an event of the page. This runs for every event."""
        if name == PAGE_EXITED:
            self.exited_ms = max(self.exited_ms, at_ms)
            return
        self.active_ms = max(self.active_ms, at_ms)
        if name == PAGE_ENTERED:
            self.enter(at_ms, url, title)

    def enter(self, at_ms: int, url: str, title: str) -> None:
        """Add a PageEntered."""
        kept_url = url if len(url) <= _MAX_URL_LENGTH else ""
        entry = self.entered_ms, self.url, self.title
        self.entered_ms, self.url, self.title = max(entry, (at_ms, kept_url, title))

    def rank(self, leave_ms: int) -> int:
        """Return the rank of the page, as merge_visits.lua computes it."""
        return max(self.active_ms, max(self.exited_ms, self.entered_ms) + leave_ms)


def page_updates(pages: Iterable[LiveVisit.Page]) -> dict[str, PageUpdate]:
    """Return what history knows of the pages of a visit, by page id."""
    updates: dict[str, PageUpdate] = {}
    for page in pages:
        update = updates[page.page_id] = PageUpdate.of(page.page_id)
        update.active_ms, update.exited_ms = page.last_active_time_ms, page.exit_time_ms
        update.enter(page.enter_time_ms, page.url, page.title)
    return updates


def latest_pages(pages: Collection[PageUpdate], *, limit: int, leave_ms: int) -> list[PageUpdate]:
    """Return at most `limit` of these pages: those of the highest rank, because no others would be kept."""
    return [*pages] if len(pages) <= limit else nlargest(limit, pages, key=lambda page: page.rank(leave_ms))


class PageTexts(msgspec.Struct, array_like=True, frozen=True):
    """Address and title of an open page by its number."""

    number: int
    url: str
    title: str


class OpenPage(NamedTuple):
    """A page that is open, with fields as in PageUpdate."""

    active_ms: int
    number: int
    exited_ms: int
    entered_ms: int


def open_pages(records: msgspec.Raw) -> list[OpenPage]:
    """Decode the open pages of merge_visits.lua."""
    fields = [
        [int.from_bytes(record[start:end]) for start, end in ((4, 10), (0, 4), (10, 16), (16, 22))]
        for record in _records(records, 22)
    ]
    return [OpenPage(*of_page) for of_page in fields]


def last_exit_ms(records: msgspec.Raw) -> int:
    """Return when the last of the closed pages of merge_visits.lua was exited; 0 if there are none."""
    return max((int.from_bytes(record[4:]) for record in _records(records, 10)), default=0)


def _records(text: msgspec.Raw, size: int) -> Iterator[bytes]:
    """Yield the records of a text in MessagePack, which has bytes that are not UTF-8."""
    raw = bytes(text)
    for at in range(_TEXT_HEADERS.get(raw[0], 1), len(raw), size):
        yield raw[at : at + size]
