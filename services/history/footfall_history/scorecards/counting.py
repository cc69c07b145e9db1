"""Counts the visits of each day in the background, once the day is over and again while events of it may arrive.

One process counts at a time, by a lease in MongoDB. The work can be repeated: the scorecards of a day are made from the
stored visits and replace earlier ones. The process reads a few visits at a time and rests for a multiple of the time
that took, so that the log and queries come first.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog
from footfall.event.v1.event_pb2 import IgnoredReason
from footfall.identity.v1.identity_service_pb2 import CountLinksResponse
from footfall_eventlog.settings import DAY_MS, MINUTE_MS
from footfall_timeline import State, order_key
from prometheus_client import Gauge

from footfall_history import metrics
from footfall_history.scorecards.tally import RECOGNITION_BOUNDS_S, SIZE_BOUNDS, VISIT_FIELDS, Tally
from footfall_history.storage import Document, EventCursor, Store, event_time_ms

# Most events of a visit that began before midnight have arrived by then.
_COUNT_AFTER_MS: Final = 60 * MINUTE_MS
_LEASE_MS: Final = 2 * MINUTE_MS
_VISITS_PER_READ: Final = 50
# Visits have few transitions, but some have thousands. Computing a state takes a few microseconds for each.
_TRANSITIONS_PER_TURN: Final = 500
_REST: Final = 3.0
_MAX_REST_S: Final = 5.0
# A site without visits for longer is taken to be gone. Before, it gets scorecards with zeros, so that a fall shows.
_EMPTY_DAYS: Final = 7
_ALL: Final = "more"
_LINKS: Final = {
    "all": "identity_count",
    **{name: f"{name}_count" for name in ("linked", "ambiguous", "generic", "shared")},
}
"""The fields of CountLinksResponse, by the name under which each is stored and shown."""

CountLinks = Callable[[Sequence[str]], Awaitable[CountLinksResponse | None]]
"""Counts how identities are linked to contacts; None when that is not known."""

_log = structlog.get_logger()


class ScorecardLimits(NamedTuple):
    """How far back days are counted, and how much is kept.

    - `max_event_age_days`: a day is counted again until events of it are too old to be accepted.
    - `visit_days`: how long visits are kept.
    - `scorecard_days`: how long scorecards are kept.
    - `max_sites`: sites of a day, the first ones by name.
    - `sample_size`: of Tally.
    """

    max_event_age_days: int
    visit_days: int
    scorecard_days: int
    max_sites: int
    sample_size: int


class LeaseLostError(Exception):
    """Another process counts: this one has not renewed its lease in time."""


class ScorecardCounter:
    """Counts days, and shows the last one in the metrics.

    Methods raise TRANSIENT_STORE_ERRORS, and LaterVersionError for a visit that a later version has written.
    """

    def __init__(self, store: Store, limits: ScorecardLimits, count_links: CountLinks, *, rest: float = _REST) -> None:
        """`rest`: how long to rest after each step, as a multiple of the time that it took."""
        self._store = store
        self._limits = limits
        self._count_links = count_links
        self._rest = rest
        self._holder = uuid.uuid4().hex
        self._leased_until_ms = 0
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()

    async def run(self) -> None:
        """Count the days that are due now, unless another process does, and update the metrics."""
        await self.count(time.time_ns() // 1_000_000)
        await self.update_metrics()

    async def count(self, now_ms: int) -> None:
        """Count the days that are due at a time, in milliseconds since the epoch, the oldest first."""
        if not await self._store.lease_counting(self._holder, now_ms, now_ms + _LEASE_MS):
            return
        self._leased_until_ms = now_ms + _LEASE_MS
        try:
            await self._store.remove_scorecards(day_of(now_ms - self._limits.scorecard_days * DAY_MS))
            known = await self._store.scorecard_days(day_of(now_ms - self._limits.visit_days * DAY_MS))
            counted = {
                day["_id"]: day["counted_ms"] for day in known if day.get("counted_ms", -1) > day.get("changed_ms", 0)
            }
            due = [day_ms for day_ms in self._days(now_ms) if self._is_due(day_ms, counted.get(day_of(day_ms)), now_ms)]
            for day_ms in await self._since_first_visit(due, now_ms):
                await self._count_day(day_ms, now_ms)
        except LeaseLostError:
            return
        finally:
            await self._store.lease_counting(self._holder, now_ms, 0)

    async def _since_first_visit(self, due: list[int], now_ms: int) -> list[int]:
        """These days without those before the first visit, which are noted as counted, if there is no scorecard yet."""
        if not due or await self._store.find_scorecards({"_id": {"$gte": ""}}, 1):
            return due
        first = await self._begun(due[0], now_ms, "start_key").take(1)
        first_ms = event_time_ms(first[0]["start_key"]) if first else now_ms
        early = [day_ms for day_ms in due if day_ms + DAY_MS <= first_ms]
        await self._store.note_counted_days(map(day_of, early), now_ms)
        return due[len(early) :]

    def _begun(self, from_ms: int, to_ms: int, *fields: str) -> EventCursor:
        """The visits of all sites that began in this time, in order."""
        return self._store.visits_in_order({}, order_key(from_ms, ""), order_key(to_ms, ""), fields)

    def _days(self, now_ms: int) -> Iterator[int]:
        """The beginnings of the days that are over and whose visits are still kept, in milliseconds since the epoch."""
        today_ms = now_ms - now_ms % DAY_MS
        # Visits of the first kept day may have been removed in part.
        days = min(self._limits.visit_days - 1, self._limits.scorecard_days)
        yield from range(today_ms - days * DAY_MS, today_ms, DAY_MS)

    def _is_due(self, day_ms: int, counted_ms: int | None, now_ms: int) -> bool:
        end_ms = day_ms + DAY_MS
        if counted_ms is None:
            return now_ms >= end_ms + _COUNT_AFTER_MS
        return not self._is_final(day_ms, counted_ms) and now_ms >= counted_ms + DAY_MS

    def _is_final(self, day_ms: int, counted_ms: int) -> bool:
        return counted_ms >= day_ms + (1 + self._limits.max_event_age_days) * DAY_MS + _COUNT_AFTER_MS

    async def _count_day(self, day_ms: int, now_ms: int) -> None:
        day = day_of(day_ms)
        tallies: dict[str, Tally] = {}
        begun = self._begun(day_ms, day_ms + DAY_MS, "start_key", *VISIT_FIELDS)
        is_last = False
        while not is_last:
            started = time.monotonic()
            visits = await begun.take(_VISITS_PER_READ)
            is_last = len(visits) < _VISITS_PER_READ
            await self._add(tallies, visits)
            await self._end_step(started)
        for site in await self._empty_sites(day_ms):
            self._tally_of(tallies, site)
        about = {"day": day, "counted_ms": now_ms, "is_final": self._is_final(day_ms, now_ms)}
        scorecards = [
            {"_id": f"{day}/{site}", "site": site, **about, **tally.document(), **await self._links(tally)}
            for site, tally in tallies.items()
        ]
        await self._store.write_scorecards(day, now_ms, scorecards)
        _log.info("counted the visits of a day", day=day, sites=len(scorecards))

    async def _add(self, tallies: dict[str, Tally], visits: list[Document]) -> None:
        transitions = 0
        for visit in visits:
            is_staff = visit.get("staff", False)
            if not is_staff and (tally := self._tally_of(tallies, visit.get("site", ""))):
                tally.add(visit)
            transitions += len(visit["timeline"])
            if transitions > _TRANSITIONS_PER_TURN:
                transitions = 0
                await asyncio.sleep(0)

    async def _links(self, tally: Tally) -> Document:
        """How the identities of a tally are linked, as it is stored; nothing when identity does not answer."""
        started, sample = time.monotonic(), tally.identities
        counts = await self._count_links(sample.texts) if sample.texts else CountLinksResponse()
        await self._end_step(started)
        if counts is None:
            return {}
        links = {name: getattr(counts, count) * sample.one_in for name, count in _LINKS.items()}
        return {"links": links, "links_sampled_one_in": sample.one_in}

    def _tally_of(self, tallies: dict[str, Tally], site: str) -> Tally | None:
        """The tally of a site; None if there are `max_sites` before it by name.

        A site is given up for one before it. It does not come back, so the sites that are left have all their visits.
        """
        if tally := tallies.get(site):
            return tally
        if not site:
            return None
        if len(tallies) >= self._limits.max_sites:
            last = max(tallies)
            if site > last:
                return None
            del tallies[last]
        tallies[site] = Tally(self._limits.sample_size)
        return tallies[site]

    async def _empty_sites(self, day_ms: int) -> set[str]:
        """The sites that have a scorecard of a day already, or had visits on one of the days before."""
        day, first_day = day_of(day_ms), day_of(day_ms - _EMPTY_DAYS * DAY_MS)
        known = await self._store.find_scorecards({"_id": {"$gte": first_day, "$lt": f"{day}~"}}, 0)
        return {each["site"] for each in known if each["day"] == day or any(each["states"])}

    async def _end_step(self, started: float) -> None:
        await self._keep_lease()
        await asyncio.sleep(min(self._rest * (time.monotonic() - started), _MAX_REST_S))

    async def _keep_lease(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        if now_ms < self._leased_until_ms - _LEASE_MS // 2:
            return
        if not await self._store.lease_counting(self._holder, now_ms, now_ms + _LEASE_MS):
            raise LeaseLostError
        self._leased_until_ms = now_ms + _LEASE_MS

    async def update_metrics(self) -> None:
        """Show the last day that has been counted, whichever process did it."""
        now_ms = time.time_ns() // 1_000_000
        days = await self._store.scorecard_days(day_of(now_ms - self._limits.scorecard_days * DAY_MS))
        last = max((day["_id"] for day in days if "counted_ms" in day), default="")
        found = await self._store.find_scorecards({"_id": {"$gte": last, "$lt": f"{last}~"}}, 0) if last else []
        shown = {(gauge, labels): value for each in found for gauge, labels, value in _values_of(each)}
        for gauge, labels in self._shown - shown.keys():
            gauge.remove(*labels)
        for (gauge, labels), value in shown.items():
            gauge.labels(*labels).set(value)
        self._shown = {*shown}


def _values_of(scorecard: Document) -> Iterator[tuple[Gauge, tuple[str, ...], float]]:
    """What the metrics show of a scorecard."""
    site = scorecard["site"]
    yield metrics.SCORECARD_DAY, (site,), datetime.fromisoformat(f"{scorecard['day']}T00:00:00Z").timestamp()
    for state, count in zip(State, scorecard["states"], strict=True):
        yield metrics.SCORECARD_VISITS, (site, state.name), count
    yield metrics.SCORECARD_PROVEN, (site,), scorecard["proven"]
    for number, count in scorecard["ignored_by_reason"]:
        yield metrics.SCORECARD_IGNORED, (site, _reason_name(int(number))), count
    recognized = 0
    for bound, count in zip((*RECOGNITION_BOUNDS_S, _ALL), scorecard["recognition"], strict=True):
        recognized += count
        yield metrics.SCORECARD_RECOGNIZED, (site, str(bound)), recognized
    sizes = (*SIZE_BOUNDS, _ALL)
    for bound, count in zip(sizes, scorecard["identities_per_device"], strict=True):
        yield metrics.SCORECARD_DEVICES, (site, str(bound)), count
    for bound, count in zip(sizes, scorecard["devices_per_identity"], strict=True):
        yield metrics.SCORECARD_IDENTITIES, (site, str(bound)), count
    for name, count in scorecard.get("links", {}).items():
        yield metrics.SCORECARD_LINKS, (site, name), count
    yield metrics.SCORECARD_LATE, (site,), sum(scorecard["late"])
    yield metrics.SCORECARD_REPEATED, (site,), scorecard["repeated"]


def _reason_name(number: int) -> str:
    """The text of a reason in metrics; of a later version's reason, its number."""
    names = {value: name for name, value in IgnoredReason.items()}
    return names.get(number, str(number)).removeprefix("IGNORED_REASON_").lower()  # type: ignore[call-overload, no-any-return]


def day_of(at_ms: int) -> str:
    """The day of a time in milliseconds since the epoch, in UTC: `2026-11-29`."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).date().isoformat()
