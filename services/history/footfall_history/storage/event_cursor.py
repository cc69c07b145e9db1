"""Turns "the next events in order" into questions for ranges of keys that few events match, whatever is stored.

MongoDB proper reads an index as far as a limit says. SecantusDB reads all that an index finds, and only then sorts and
cuts: of a visit of 100,000 events four seconds for any page. So a range begins with what half a second may bring, grows
while little is found, and is never left before all of it has been read. Ranges only say how much is read at a time:
what is read in what order does not depend on them.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from footfall_timeline import order_key

from footfall_history.storage.documents import Document, event_time_ms

_FIRST_SPAN_MS: Final = 500
# From half a second to a month in five steps: a visit with few events takes as many questions, of half a millisecond.
_MOST_GROWTH: Final = 32
# A range that is to bring what is missing is made a little larger, as events do not come evenly.
_MARGIN: Final = 1.25
# No event happens later than this after it was received, so what is asked for beyond needs no upper bound.
_AHEAD_MS: Final = 86_400_000

Read = Callable[[Document, int], Awaitable[list[Document]]]
"""Reads the first events in order whose key is within these bounds, so many at most."""


class Walk:
    """Events in the order of their keys, from `lower` on and below `upper`, if that is given.

    `start_ms` is when the first of them may have happened, None if that is not known. Should there be earlier ones
    they are found as well.
    """

    def __init__(self, read: Read, lower: str, upper: str, start_ms: int | None) -> None:
        self._read = read
        self._lower = lower
        self._upper = upper
        self._start_ms = start_ms
        self._span_ms: float = _FIRST_SPAN_MS
        self._is_over = False

    async def take(self, count: int) -> list[Document]:
        """The next events: fewer than `count` only if there are no more."""
        taken: list[Document] = []
        while len(taken) < count and not self._is_over:
            taken += await self._read_on(count - len(taken))
        return taken

    async def _read_on(self, missing: int) -> list[Document]:
        stop = self._stop()
        found = await self._read({"$gte": self._lower} | ({"$lt": stop} if stop else {}), missing)
        if len(found) == missing:  # and there may be more before `stop`
            first_key, last_key = found[0]["order_key"], found[-1]["order_key"]
            self._lower = last_key + "\0"
            self._span_ms = max(1, event_time_ms(last_key) - event_time_ms(first_key))
        else:
            self._lower = stop
            self._is_over = stop == self._upper
            growth = _MARGIN * (missing - len(found)) / len(found) if found else _MOST_GROWTH
            self._span_ms *= min(max(growth, 1), _MOST_GROWTH)
        return found

    def _stop(self) -> str:
        """The key to read up to: `upper` when that is the last range."""
        known = [event_time_ms(self._lower)] if self._lower else []
        known += [] if self._start_ms is None else [self._start_ms]
        if not known:
            return self._upper
        stop_ms = max(known) + int(self._span_ms)
        stop = order_key(stop_ms, "")
        is_last = stop_ms > time.time_ns() // 1_000_000 + _AHEAD_MS or bool(self._upper and stop >= self._upper)
        return self._upper if is_last else stop
