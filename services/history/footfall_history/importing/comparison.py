"""Compares the visits of one day on two servers with a History REST API.

Two systems that track the same site in parallel give a visit two ids, so counts are compared: visits by hour, state and
identity, and their events by hour, name and page. If visits have the same id on both servers, as after an import, the
visits that one server lacks are reported. Of two Footfall servers, each resource is then also compared byte by byte.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Final

from footfall_eventlog.events import PAGE_ENTERED

from footfall_history.importing import sources
from footfall_history.importing.past_events import PastEvent
from footfall_history.importing.rest_client import RestClient
from footfall_history.parts import stream_in_parts

_CONCURRENT_VISITS: Final = 8
_PAGE_SIZE: Final = 1_000
_PARTS: Final = ("", "/identities", "/events", "/pages", "/sessions")
_STATES: Final = ("Authenticated", "Recognized")


class VisitStatistics:
    """Counts over the visits that began on one day on one server."""

    def __init__(self) -> None:
        self.visit_ids: set[str] = set()
        self.counts: Counter[tuple[str, str]] = Counter()

    async def count(self, client: RestClient, day: date, *, by_identity: bool) -> None:
        """Count the visits of a day on a server. Raises StoppedError."""
        async for group in stream_in_parts(_began_on(client, day, by_identity=by_identity), _CONCURRENT_VISITS):
            new = {visit.visit_id: visit for visit in group if visit.visit_id not in self.visit_ids}
            self.visit_ids |= new.keys()
            async with asyncio.TaskGroup() as tasks:
                for visit in new.values():
                    tasks.create_task(self._add(client, visit))

    async def _add(self, client: RestClient, visit: sources.ListItem) -> None:
        path = f"/visits/{visit.visit_id}"
        identities: list[sources.ListItem] = []
        async for _, answer in sources.pages(client, f"{path}/identities", _PAGE_SIZE):
            identities += sources.decode(answer, list[sources.ListItem], [])
        scopes = {identity.visit_scope for identity in identities}
        counts = self.counts
        counts["visits by hour", _hour(visit.start_date)] += 1
        counts["visits by state", next((state for state in _STATES if state in scopes), "Anonymous")] += 1
        for identity in identities:
            counts[f"visits by identity, {identity.visit_scope}", identity.identity_id] += 1
        async for _, answer in sources.pages(client, f"{path}/events", _PAGE_SIZE):
            for event in sources.decode(answer, list[PastEvent], []):
                counts["events by hour", _hour(event.timestamp)] += 1
                counts["events by name", event.event_name or ""] += 1
                if event.event_name == PAGE_ENTERED:
                    counts["pages entered by url", event.url or ""] += 1


async def differences(old: RestClient, new: RestClient, day: date) -> AsyncIterator[str]:
    """A line for each difference, as fields separated by tabs: what, where, the old and the new count.

    If one server lists visits only by identity, only visits with an identity are compared. Raises StoppedError.
    """
    by_identity = not (await sources.lists_all_visits(old) and await sources.lists_all_visits(new))
    one, other = VisitStatistics(), VisitStatistics()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.count(old, day, by_identity=by_identity))
        tasks.create_task(other.count(new, day, by_identity=by_identity))
    for what, where in sorted(one.counts.keys() | other.counts.keys()):
        counts = one.counts[what, where], other.counts[what, where]
        if counts[0] != counts[1]:
            yield f"{what}\t{where}\t{counts[0]}\t{counts[1]}"
    common = sorted(one.visit_ids & other.visit_ids)
    if common:
        for visit_id in sorted(one.visit_ids ^ other.visit_ids):
            yield f"visit\t{visit_id}\t{int(visit_id in one.visit_ids)}\t{int(visit_id in other.visit_ids)}"
    for visit_id in common if not by_identity else ():
        for part in _PARTS:
            path = f"/visits/{visit_id}{part}"
            before, after = [[each async for each in sources.pages(client, path, _PAGE_SIZE)] for client in (old, new)]
            if before != after:
                yield f"bytes of\t{path}\tdiffer"


async def _began_on(client: RestClient, day: date, *, by_identity: bool) -> AsyncIterator[sources.ListItem]:
    """The visits that began on a day, in UTC. GWE 8.5 can limit the time only by `age`."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    from_ms, to_ms = (int(moment.timestamp() * 1000) for moment in (begin, begin + timedelta(days=1)))
    limits: dict[str, int] = {"from": from_ms, "to": to_ms}
    if by_identity:
        limits = {"age": max(1, int(time.time() - from_ms / 1000) + 1)}
    async for _, visit in sources.listed_visits(client, sources.Position(), limits, by_identity=by_identity):
        if from_ms <= visit.start_date < to_ms:
            yield visit


def _hour(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H}h"
