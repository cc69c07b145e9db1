"""Pages of the visitors in live state, latest start first, over all partitions."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
from footfall_eventlog.site_groups import SiteGroups
from footfall_timeline import State
from msgspec.structs import replace

from footfall_identity.live_lists import ANY_STATE, EVERY_GROUP, Candidates, Group, LiveLists, Phase, Position
from footfall_identity.presence import Presence
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore

MAX_EXAMINED: Final = 5_000
"""Visits read for one page. If so many do not match the filters, the page is short although there may be more."""

ONLY_PRESENT: Final = frozenset([Presence.PRESENT])
"""The presences that are listed unless others are asked for."""

_SHOWN_OF_ID: Final = 18  # so half of the id of a visit that does not match is unknown to the caller

_MAX_READ: Final = 1_001  # the largest page, and one visit that says whether more follow

_PHASES: Final = {
    Presence.PRESENT: (Phase.LIVE,),
    Presence.LEFT: (Phase.LEFT,),
    Presence.ENDED: (Phase.ENDED,),
}


class VisitorFilter(msgspec.Struct, frozen=True):
    """The conditions on a visitor, all of which have to be met. None and "" are met by every visitor.

    `is_staff`: only visits of staff, or only those of customers.
    """

    states: frozenset[State] | None = None
    presences: frozenset[Presence] | None = None
    sites: frozenset[str] | None = None
    identities: frozenset[str] | None = None
    global_visit_id: str = ""
    is_staff: bool | None = None

    @property
    def groups(self) -> list[Group]:
        """The groups with matching visits. A visit that has just ended is in one of live visits."""
        states: set[int] = {*State} if self.states is None else {*self.states}
        if self.identities is not None:
            states -= {State.ANONYMOUS}
        if states:
            states.add(ANY_STATE)
        presences = frozenset(Presence) if self.presences is None else self.presences
        phases = {phase for presence in presences for phase in _PHASES[presence]}
        return [group for group in EVERY_GROUP if group.state in states and group.phase in phases]

    @property
    def lists_left(self) -> bool:
        """Whether visitors who have left are wanted, but not those who are present."""
        return self.presences is not None and Presence.LEFT in self.presences and Presence.PRESENT not in self.presences

    def of_identities(self, identities: Iterable[str]) -> "VisitorFilter":
        """Return these conditions and that the visitor is one of these identities."""
        wanted = frozenset(identities)
        return replace(self, identities=wanted if self.identities is None else wanted & self.identities)

    def parts(self, size: int) -> Iterator["VisitorFilter"]:
        """Yield filters of at most so many identities each, which together are this one."""
        if self.identities is None or len(self.identities) <= size:
            yield self
            return
        identities = sorted(self.identities)
        for start in range(0, len(identities), size):
            yield replace(self, identities=frozenset(identities[start : start + size]))

    def matches(self, record: VisitRecord) -> bool:
        """Return whether a visitor meets the conditions."""
        attribution = record.visit_state.attribution
        return (
            (self.presences is None or record.presence in self.presences)
            and (self.states is None or attribution.state in self.states)
            and (self.sites is None or record.site in self.sites)
            and (self.identities is None or attribution.identity in self.identities)
            and self.global_visit_id in {"", record.global_visit_id}
            and self.is_staff in {None, record.is_staff}
        )


class VisitorsPage(NamedTuple):
    """Visits with their positions, and the position to continue below; None: there are no more."""

    visits: list[VisitRecord]
    positions: list[Position]
    below: Position | None


class LiveVisitors:
    """Lists the visitors in live state. Raises RequestError (UNAVAILABLE) while Redis is unavailable.

    The start of a visit changes only if an earlier event arrives late. So a caller who pages misses no visit that is
    there all the time, and gets a visit twice only if its start has become earlier meanwhile.
    """

    def __init__(self, visitors: VisitorStore, lists: LiveLists) -> None:
        self._visitors = visitors
        self._lists = lists

    async def page(self, wanted: VisitorFilter, below: Position | None, size: int) -> VisitorsPage:
        """Return the first `size` matching visits below a position."""
        few = await self._few(wanted)
        if few is None and below is None and wanted.lists_left:
            await self._lists.move_left()
        found: list[tuple[VisitRecord, Position]] = []
        examined, first_below = 0, below
        while examined < MAX_EXAMINED:
            count = min(max(size + 1 - len(found), examined), _MAX_READ, MAX_EXAMINED - examined)
            candidates = await self._candidates(wanted, few, below, count)
            records = await self._visitors.get(position.visit_id for position in candidates.positions)
            for position in candidates.positions:
                record = records.get(position.visit_id)
                if record is not None and wanted.matches(record):
                    found.append((record, position))
                below = position
            examined += len(candidates.positions)
            if len(found) > size:
                return _page(found[:size], found[size - 1][1])
            if candidates.is_last:
                return _page(found, None)
        if below is not None and (not found or found[-1][1] != below):
            below = _concealed(below, first_below)
        return _page(found, below)

    async def _few(self, wanted: VisitorFilter) -> list[Position] | None:
        """Return all visits of a few identities or of a device; None if the filter names neither."""
        if wanted.identities is not None and (not wanted.identities or self._visitors.indexes_identities):
            return await self._lists.of_identities(wanted.identities)
        return await self._lists.of_device(wanted.global_visit_id) if wanted.global_visit_id else None

    async def _candidates(
        self, wanted: VisitorFilter, few: list[Position] | None, below: Position | None, count: int
    ) -> Candidates:
        """Return visits that may match, the first `count` below a position."""
        if few is not None:
            left = [position for position in few if below is None or position < below]
            return Candidates(left[:count], is_last=len(left) <= count)
        return await self._lists.of_groups(wanted.groups, wanted.sites, below, count)


def _concealed(position: Position, first: Position | None) -> Position:
    """Return a position for a token that does not reveal the id of a visit, or this one if the caller would not get on.

    A few visits with the same start and beginning of the id may be read again.
    """
    concealed = Position(position.start_ms, position.visit_id[:_SHOWN_OF_ID] + "~")
    return concealed if first is None or concealed < first else position


def _page(found: Sequence[tuple[VisitRecord, Position]], below: Position | None) -> VisitorsPage:
    return VisitorsPage([record for record, _ in found], [position for _, position in found], below)


async def find_visit(
    visitors: VisitorStore, site_groups: SiteGroups, visit_id: str, sites: Collection[str]
) -> VisitRecord | None:
    """Return the visit that this id means to these sites (empty: all): of several, the one received first."""
    found = await visitors.get(site_groups.candidates(visit_id, sites))
    records = [record for record in found.values() if is_visible(record, sites)]
    return min(records, key=lambda record: (record.received_ms, record.site, record.visit_id), default=None)


def is_visible(record: VisitRecord, sites: Collection[str]) -> bool:
    """Return whether a visit is of one of these sites (empty: any)."""
    return not sites or record.site in sites
