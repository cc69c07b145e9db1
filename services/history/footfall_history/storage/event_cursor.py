"""Reads events or visits in key order by ranges of keys, so that a page costs the same however many there are.

MongoDB proper reads an index as far as the limit says. SecantusDB's server reads everything that an index finds, then
sorts and cuts: half a second for any page of a visit of 100,000 events. So the first range covers half a second. Ranges
grow while they find little, and each is read to its end before the next. They only determine how much is read at a
time: the result does not depend on them.
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
"""Reads the first events in the cursor's order whose key is within these bounds, at most this many."""


class EventCursor:
    """Events in the order of their keys, from `lower` on and, if `upper` is not empty, below `upper`.

    - `start_ms` and `end_ms` are the times of the first and the last event as far as known, else None. Earlier and
      later events are found as well.
    - `newest_first`: the other way round, from the last event to the first.
    - `key`: the field with the key.

    Visits are read in the same way, by another key.
    """

    def __init__(
        self,
        read: Read,
        lower: str,
        upper: str,
        start_ms: int | None,
        end_ms: int | None = None,
        *,
        newest_first: bool = False,
        key: str = "order_key",
    ) -> None:
        self._read = read
        self._key = key
        self._lower = lower
        self._upper = upper
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._newest_first = newest_first
        self._span_ms: float = _FIRST_SPAN_MS
        self._is_over = False

    async def take(self, count: int) -> list[Document]:
        """The next events; fewer than `count` only when there are no more. Raises what `read` raises."""
        taken: list[Document] = []
        while len(taken) < count and not self._is_over:
            taken += await self._read_range(count - len(taken))
        return taken

    async def _read_range(self, missing: int) -> list[Document]:
        stop = self._stop_before() if self._newest_first else self._stop_after()
        lower, upper = (stop, self._upper) if self._newest_first else (self._lower, stop)
        found = await self._read({"$gte": lower} | ({"$lt": upper} if upper else {}), missing)
        if len(found) == missing:  # there may be more before `stop`
            first_key, last_key = found[0][self._key], found[-1][self._key]
            self._go_on(last_key if self._newest_first else last_key + "\0")
            self._span_ms = max(1, abs(event_time_ms(last_key) - event_time_ms(first_key)))
        else:
            self._is_over = stop == (self._lower if self._newest_first else self._upper)
            self._go_on(stop)
            growth = _MARGIN * (missing - len(found)) / len(found) if found else _MAX_GROWTH
            self._span_ms *= min(max(growth, 1), _MAX_GROWTH)
        return found

    def _go_on(self, key: str) -> None:
        """Let the next range begin at a key."""
        if self._newest_first:
            self._upper = key
        else:
            self._lower = key

    def _stop_after(self) -> str:
        """The key at which the next range ends: `upper` for the last one."""
        known = [event_time_ms(self._lower)] if self._lower else []
        known += [] if self._start_ms is None else [self._start_ms]
        if not known:
            return self._upper
        stop_ms = max(known) + int(self._span_ms)
        stop = order_key(stop_ms, "")
        is_last = stop_ms > time.time_ns() // 1_000_000 + _MAX_AHEAD_MS or bool(self._upper and stop >= self._upper)
        return self._upper if is_last else stop

    def _stop_before(self) -> str:
        """The key at which the next range ends, newest first: `lower` for the last one."""
        known = [event_time_ms(self._upper)] if self._upper else []
        known += [] if self._end_ms is None else [self._end_ms]
        if not known:
            return self._lower
        stop_ms = min(known) - int(self._span_ms)
        is_last = stop_ms <= (self._start_ms or 0) or order_key(stop_ms, "") <= self._lower
        return self._lower if is_last else order_key(stop_ms, "")
