"""Pages of the visitors who are live now, latest activity first, over all partitions."""

import asyncio
from collections.abc import Collection
from itertools import product
from typing import Final, NamedTuple

from footfall_timeline import State

from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import Position, VisitorStore

MAX_EXAMINED: Final = 5_000
"""Visits read for one page. If so many do not match the filter, the page is short although there may be more."""

_MIN_VISITS_PER_READ: Final = 100


class LivePage(NamedTuple):
    """Visits with their positions, and the position to continue below; None: there are no more."""

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
    """Return the first `size` live visits below a position that match the filters.

    Args: `state` None means any, `site` "" any, `sites` empty any. A visit with new activity moves to the front: while
    a caller pages, no visit appears twice, but one that moves may be missed.
    """
    # A visit without a timeline is Anonymous, but one with a timeline may be too, after an erasure.
    sets = [*product(numbers, [True])] if state not in {None, State.ANONYMOUS} else [*product(numbers, [True, False])]
    found: list[VisitRecord] = []
    found_positions: list[Position] = []
    examined = 0
    while examined < MAX_EXAMINED:
        count = max(_MIN_VISITS_PER_READ, size - len(found))
        parts = await asyncio.gather(
            *(visitors.live(number, is_known=is_known, below=below, size=count) for number, is_known in sets)
        )
        # A part that was read in full may have more visits below its last one, so only visits above that one are final.
        horizon = max((part[-1] for part in parts if len(part) >= count), default=None)
        positions = sorted({p for part in parts for p in part if horizon is None or p >= horizon}, reverse=True)
        records = await visitors.get(visit_id for _, visit_id in positions)
        for position in positions:
            record = records.get(position[1])
            if record is not None and _matches(record, state) and is_visible(record.site, site, sites):
                if len(found) == size:  # the token must not reveal visits that do not match
                    return LivePage(found, found_positions, found_positions[-1])
                found.append(record)
                found_positions.append(position)
            below = position
        examined += len(positions)
        if horizon is None:
            return LivePage(found, found_positions, None)
    return LivePage(found, found_positions, below)


def _matches(record: VisitRecord, state: State | None) -> bool:
    return state is None or record.visit_state.attribution.state is state


def is_visible(visit_site: str, site: str, sites: Collection[str]) -> bool:
    """Whether a visit of `visit_site` matches `site` ("": any) and is of one of `sites` (empty: any)."""
    return site in {"", visit_site} and (not sites or visit_site in sites)
