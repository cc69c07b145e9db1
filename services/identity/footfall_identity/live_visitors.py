"""Turns the live sets of all partitions into pages of visitors, latest activity first."""

import asyncio
from collections.abc import Collection
from itertools import product
from typing import Final, NamedTuple

from footfall_timeline import State

from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import Position, VisitorStore

MAX_EXAMINED: Final = 5_000
"""Visits looked at for one page. When so many do not match the filter, the page is short and there may be more."""

_MIN_VISITS_PER_READ: Final = 100


class LivePage(NamedTuple):
    """Some visits with their positions, and the position below which there may be more; None when there are none."""

    visits: list[VisitRecord]
    positions: list[Position]
    below: Position | None


async def list_live(
    visitors: VisitorStore,
    numbers: range,
    *,
    state: State | None,
    site: str,
    below: Position | None,
    size: int,
    sites: Collection[str] = (),
) -> LivePage:
    """The first `size` live visits below a position that are in a state (None: any) and on a site (empty: any).

    Also on one of `sites`, if there are any.

    A visit with new activity moves to the front: within one listing none comes twice, and who moves may be missed.
    """
    # A visit without a timeline is anonymous, but not the other way round: people are erased.
    sets = [*product(numbers, [True])] if state not in {None, State.ANONYMOUS} else [*product(numbers, [True, False])]
    found: list[VisitRecord] = []
    places: list[Position] = []
    examined = 0
    while examined < MAX_EXAMINED:
        look = max(_MIN_VISITS_PER_READ, size - len(found))
        parts = await asyncio.gather(
            *(visitors.live(number, is_known=is_known, below=below, size=look) for number, is_known in sets)
        )
        # Below the last one of a part that may go on, another part's visits are not the next ones.
        horizon = max((part[-1] for part in parts if len(part) >= look), default=None)
        positions = sorted({p for part in parts for p in part if horizon is None or p >= horizon}, reverse=True)
        records = await visitors.get(visit_id for _, visit_id in positions)
        for position in positions:
            record = records.get(position[1])
            if record is not None and _matches(record, state) and is_visible(record.site, site, sites):
                if len(found) == size:  # a token tells nothing of visits that did not match
                    return LivePage(found, places, places[-1])
                found.append(record)
                places.append(position)
            below = position
        examined += len(positions)
        if horizon is None:
            return LivePage(found, places, None)
    return LivePage(found, places, below)


def _matches(record: VisitRecord, state: State | None) -> bool:
    return state is None or record.fold.stamp.state is state


def is_visible(visit_site: str, site: str, sites: Collection[str]) -> bool:
    """Whether a visit of a site is asked for by who wants those of `site`, and may see those of `sites`; empty: all."""
    return site in {"", visit_site} and (not sites or visit_site in sites)
