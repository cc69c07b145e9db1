"""Reads events in key order by ranges of keys, so that a page costs the same however many events there are.

MongoDB proper reads an index as far as the limit says. SecantusDB reads everything that an index finds, then sorts and
cuts: four seconds for any page of a visit of 100,000 events. So the first range covers half a second. Ranges grow while
they find little, and each is read to its end before the next. They only determine how much is read at a time: the
result does not depend on them.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from footfall_timeline import order_key

from footfall_history.storage.documents import Document, event_time_ms

_FIRST_SPAN_MS: Final = 500
# Five steps from half a second to a month: a visit with few events takes that many queries, of half a millisecond each.
_MAX_GROWTH: Final = 32
# Events are not spread evenly, so a range is this much larger than what the missing events should need.
_MARGIN: Final = 1.25
# Admission accepts no event that is dated later than this after its receipt, so later ranges need no upper bound.
_MAX_AHEAD_MS: Final = 86_400_000

Read = Callable[[Document, int], Awaitable[list[Document]]]
"""Reads the first events in order whose key is within these bounds, at most this many."""


class EventCursor:
    """Events in the order of their keys, from `lower` on and, if `upper` is not empty, below `upper`.

    `start_ms` is the time of the first event as far as known, else None. Earlier events are found as well.
    """

    def __init__(self, read: Read, lower: str, upper: str, start_ms: int | None) -> None:
        self._read = read
        self._lower = lower
        self._upper = upper
        self._start_ms = start_ms
        self._span_ms: float = _FIRST_SPAN_MS
        self._is_over = False

    async def take(self, count: int) -> list[Document]:
        """The next events; fewer than `count` only when there are no more. Raises what `read` raises."""
        taken: list[Document] = []
        while len(taken) < count and not self._is_over:
            taken += await self._read_range(count - len(taken))
        return taken

    async def _read_range(self, missing: int) -> list[Document]:
        stop = self._stop()
        found = await self._read({"$gte": self._lower} | ({"$lt": stop} if stop else {}), missing)
        if len(found) == missing:  # there may be more before `stop`
            first_key, last_key = found[0]["order_key"], found[-1]["order_key"]
            self._lower = last_key + "\0"
            self._span_ms = max(1, event_time_ms(last_key) - event_time_ms(first_key))
        else:
            self._lower = stop
            self._is_over = stop == self._upper
            growth = _MARGIN * (missing - len(found)) / len(found) if found else _MAX_GROWTH
            self._span_ms *= min(max(growth, 1), _MAX_GROWTH)
        return found

    def _stop(self) -> str:
        """The key at which the next range ends: `upper` for the last one."""
        known = [event_time_ms(self._lower)] if self._lower else []
        known += [] if self._start_ms is None else [self._start_ms]
        if not known:
            return self._upper
        stop_ms = max(known) + int(self._span_ms)
        stop = order_key(stop_ms, "")
        is_last = stop_ms > time.time_ns() // 1_000_000 + _MAX_AHEAD_MS or bool(self._upper and stop >= self._upper)
        return self._upper if is_last else stop
