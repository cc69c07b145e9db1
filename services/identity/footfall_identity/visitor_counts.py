"""How many visitors are on the website now, and how many were in each past minute, by site and state.

A minute is counted once, by the process that is the first to begin with it. Its numbers are one hash in Redis,
`minutes:{p00}:<minute since the epoch>`, with a field for each site and one, `""`, for all. Why here, and why counted
and not summed up from changes: docs/adr/0047.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Final, NamedTuple

from footfall_eventlog.settings import DAY_MS, MINUTE_MS
from footfall_servicekit.background import attempt
from footfall_servicekit.errors import RequestError
from footfall_timeline import State

from footfall_identity.live_lists import END_OF_LIVE
from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.presence import Presence
from footfall_identity.visitor_store import VisitorStore, now_ms

MAX_MINUTES: Final = 1_440
"""Minutes of one answer."""

_VISITS_PER_CALL: Final = 200  # a few milliseconds of Redis
_MIN_AGE_S: Final = 2.0
_SHARE_OF_COUNTING: Final = 1 / 50  # of the time
_LOOK_EVERY_S: Final = 5.0
_CLAIM_MS: Final = 20_000
_ALL: Final = ""


class StateCounts(NamedTuple):
    """Visitors by state."""

    anonymous: int = 0
    recognized: int = 0
    authenticated: int = 0

    @property
    def total(self) -> int:
        """In any state."""
        return sum(self)

    def plus(self, other: "StateCounts") -> "StateCounts":
        """The sums by state."""
        return StateCounts(*(one + another for one, another in zip(self, other, strict=True)))


NONE: Final = StateCounts()


class Counted(NamedTuple):
    """The visitors of all sites that have some, at a time."""

    at_ms: int
    by_site: Mapping[str, StateCounts]


class Minute(NamedTuple):
    """The visitors at a minute, which is given by its beginning."""

    start_ms: int
    counts: StateCounts


class VisitorCounts:
    """Counts visitors. All methods but `run` raise RequestError (UNAVAILABLE) while Redis is unavailable."""

    def __init__(
        self, partitions: Partitions, visitors: VisitorStore, *, max_sites: int, retention_days: int, idle_ms: int
    ) -> None:
        """Keep minutes for `retention_days`, with the numbers of the `max_sites` sites that have most visitors."""
        self._partitions = partitions
        self._visitors = visitors
        self._max_sites = max_sites
        self._retention_ms = retention_days * DAY_MS
        self._idle_ms = idle_ms
        self._count_visits = partitions.script("count_visits.lua")
        self._keep_minute = partitions.script("keep_minute.lua")
        self._counting: asyncio.Task[Counted] | None = None
        self._count_again_at = 0.0

    async def now(self) -> Counted:
        """Return the visitors who are on the website. Counted before, if that is not long ago; see CountVisitors."""
        if time.monotonic() < self._count_again_at and self._counting:
            return self._counting.result()
        if self._counting is None or self._counting.done():
            # Not in the context of this call: the count goes on after its deadline, for the next call.
            self._counting = asyncio.create_task(self._count_for_a_while(), context=Context())
        return await asyncio.shield(self._counting)

    async def _count_for_a_while(self) -> Counted:
        """Count, and say until when the result may be used."""
        began = time.monotonic()
        counted = await self._count()
        took_s = time.monotonic() - began
        self._count_again_at = began + took_s + max(_MIN_AGE_S, took_s / _SHARE_OF_COUNTING)
        return counted

    def named(self, counted: Counted, sites: Collection[str]) -> tuple[list[tuple[str, StateCounts]], StateCounts]:
        """Return the sites to name with their visitors, most first, and the visitors of the others.

        `sites`: only of these; empty: of all.
        """
        found = [(site, of) for site, of in counted.by_site.items() if not sites or site in sites]
        found.sort(key=lambda one: (-one[1].total, one[0]))
        others = NONE
        for _, counts in found[self._max_sites :]:
            others = others.plus(counts)
        return found[: self._max_sites], others

    async def minutes(
        self, wanted: Sequence[str], sites: Collection[str], from_ms: int, until_ms: int
    ) -> list[list[Minute]]:
        """Return the counted minutes that begin in a time, for each of some sites; if none is given, for all together.

        `sites`: the only ones that are read; empty: all. A site that is not among them looks like one without visitors.
        """
        starts = range(-(-from_ms // MINUTE_MS) * MINUTE_MS, until_ms, MINUTE_MS)
        read = [site for site in (wanted or sites) if not sites or site in sites]
        fields = [_ALL, *read]
        answers = await self._partitions.execute([(0, "HMGET", self._key(start), *fields) for start in starts])
        series: list[list[Minute]] = [[] for _ in wanted or [_ALL]]
        for start, (total, *values) in zip(starts, answers, strict=True):
            if total is None:
                continue
            *of_all, unnamed = map(int, total.split())
            absent = None if unnamed else NONE  # a site that is not named has no visitors, or fewer than those named
            of_site = {site: _read(value) if value else absent for site, value in zip(read, values, strict=True)}
            if wanted:
                found = [of_site.get(site, absent) for site in wanted]
            else:
                found = [_sum(of_site.values()) if sites else StateCounts(*of_all)]
            for of, counts in zip(series, found, strict=True):
                if counts is not None:
                    of.append(Minute(start, counts))
        return series

    async def run(self) -> None:
        """Background work: count each minute, unless another process does."""
        while True:
            await attempt(RequestError, self.count_minute)
            into_minute_s = time.time() % 60
            await asyncio.sleep(min(_LOOK_EVERY_S, 60 - into_minute_s))

    async def count_minute(self) -> None:
        """Count the current minute and keep the numbers, unless that was done or another process is about to do it."""
        start_ms = now_ms() // MINUTE_MS * MINUTE_MS
        key, claim = self._key(start_ms), f"{self._partitions.keys[0].minutes}claim"
        [is_kept] = await self._partitions.execute([(0, "EXISTS", key)])
        if is_kept:
            return
        [is_mine] = await self._partitions.execute([(0, "SET", claim, start_ms, "NX", "PX", _CLAIM_MS)])
        if not is_mine:
            return  # if that process dies, the next look of this one finds the claim gone
        try:
            counted = await self._count()
            if counted.at_ms < start_ms + MINUTE_MS:  # else this minute is over, and its numbers are not known
                await self._keep(key, counted)
        finally:
            with suppress(RequestError):
                await self._partitions.execute([(0, "DEL", claim)])

    async def _keep(self, key: str, counted: Counted) -> None:
        named, others = self.named(counted, ())
        total = _sum(counted.by_site.values()) or NONE
        values: list[str | int | bytes] = [_ALL, _written(total, others.total)]
        for site, counts in named:
            values += (site, _written(counts))
        async with translating_errors():
            await self._keep_minute(0, [key], [self._retention_ms, *values])

    async def _count(self) -> Counted:
        """Count now. Each visit is read one time, so that none counts twice that changes meanwhile."""
        at_ms = now_ms()
        by_site: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for number, keys in enumerate(self._partitions.keys):
            async with translating_errors():
                visits = await self._partitions.redis[number].zrangebyscore(keys.by_start, 0, f"({END_OF_LIVE}")
            for start in range(0, len(visits), _VISITS_PER_CALL):
                await self._count_part(number, visits[start : start + _VISITS_PER_CALL], by_site)
        return Counted(at_ms, {site: StateCounts(*counts) for site, counts in by_site.items() if any(counts)})

    async def _count_part(self, number: int, visits: Sequence[bytes], by_site: dict[str, list[int]]) -> None:
        keys, now = self._partitions.keys[number], now_ms()
        times = now - self._idle_ms, now, self._visitors.presence_rule.leave_ms
        async with translating_errors():
            counts, others = await self._count_visits(number, [keys.by_start, keys.visit], [*times, *visits])
        for site, state, count in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
            by_site[site.decode()][state - 1] += count
        if others:
            for record in (await self._visitors.get(one.decode() for one in others)).values():
                if record.presence is Presence.PRESENT and not record.is_staff:
                    by_site[record.site][State(record.visit_state.attribution.state) - 1] += 1

    def _key(self, start_ms: int) -> str:
        return f"{self._partitions.keys[0].minutes}{start_ms // MINUTE_MS}"


def _sum(found: Collection[StateCounts | None]) -> StateCounts | None:
    """Return the sums; None if one of them is not known."""
    total = NONE
    for counts in found:
        if counts is None:
            return None
        total = total.plus(counts)
    return total


def _written(counts: StateCounts, *further: int) -> str:
    return " ".join(map(str, (*counts, *further)))


def _read(value: bytes) -> StateCounts:
    return StateCounts(*map(int, value.split()))
