"""Turns what two History APIs say of one day into lines about what differs.

Two systems that run side by side on one site give a visit two ids. So they are compared by numbers: visits by hour,
state and whom they name, their events by hour, name and page. Visits may also have one id in both, as in a copy. Then
those that one of them lacks are told, and of two Footfalls each resource is compared byte for byte.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Final

from footfall_history.importing.past_events import PastEvent
from footfall_history.importing.rest_client import RestClient
from footfall_history.importing.sources import Listed, Place, decoded, groups, listed_visits, lists_all, pages
from footfall_history.storage import PAGE_ENTERED

_VISITS_AT_ONCE: Final = 8
_PAGE_SIZE: Final = 1_000
_PARTS: Final = ("", "/identities", "/events", "/pages", "/sessions")
_STATES: Final = ("Authenticated", "Recognized")


class Survey:
    """The visits that began on one day on one server, and what they did, in numbers."""

    def __init__(self) -> None:
        self.visit_ids: set[str] = set()
        self.numbers: Counter[tuple[str, str]] = Counter()

    async def count(self, client: RestClient, day: date, *, by_identity: bool) -> None:
        """Ask a server. Raises StoppedError."""
        async for group in groups(_began_on(client, day, by_identity=by_identity), _VISITS_AT_ONCE):
            new = {visit.visit_id: visit for visit in group if visit.visit_id not in self.visit_ids}
            self.visit_ids |= new.keys()
            async with asyncio.TaskGroup() as tasks:
                for visit in new.values():
                    tasks.create_task(self._add(client, visit))

    async def _add(self, client: RestClient, visit: Listed) -> None:
        path = f"/visits/{visit.visit_id}"
        identities: list[Listed] = []
        async for _, answer in pages(client, f"{path}/identities", _PAGE_SIZE):
            identities += decoded(answer, list[Listed], [])
        scopes = {identity.visit_scope for identity in identities}
        numbers = self.numbers
        numbers["visits by hour", _hour(visit.start_date)] += 1
        numbers["visits by state", next((state for state in _STATES if state in scopes), "Anonymous")] += 1
        for identity in identities:
            numbers[f"visits by identity, {identity.visit_scope}", identity.identity_id] += 1
        async for _, answer in pages(client, f"{path}/events", _PAGE_SIZE):
            for event in decoded(answer, list[PastEvent], []):
                numbers["events by hour", _hour(event.timestamp)] += 1
                numbers["events by name", event.event_name or ""] += 1
                if event.event_name == PAGE_ENTERED:
                    numbers["pages entered by url", event.url or ""] += 1


async def differences(old: RestClient, new: RestClient, day: date) -> AsyncIterator[str]:
    """A line for each difference, its fields separated by tabs: what, where, how many in the old and in the new one.

    When one of them lists visits by identity alone, only such are looked at in both. Raises StoppedError.
    """
    by_identity = not (await lists_all(old) and await lists_all(new))
    one, other = Survey(), Survey()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(one.count(old, day, by_identity=by_identity))
        tasks.create_task(other.count(new, day, by_identity=by_identity))
    for what, where in sorted(one.numbers.keys() | other.numbers.keys()):
        counts = one.numbers[what, where], other.numbers[what, where]
        if counts[0] != counts[1]:
            yield f"{what}\t{where}\t{counts[0]}\t{counts[1]}"
    common = sorted(one.visit_ids & other.visit_ids)
    if common:
        for visit_id in sorted(one.visit_ids ^ other.visit_ids):
            yield f"visit\t{visit_id}\t{int(visit_id in one.visit_ids)}\t{int(visit_id in other.visit_ids)}"
    for visit_id in common if not by_identity else ():
        for part in _PARTS:
            path = f"/visits/{visit_id}{part}"
            before, after = [[each async for each in pages(client, path, _PAGE_SIZE)] for client in (old, new)]
            if before != after:
                yield f"bytes of\t{path}\tdiffer"


async def _began_on(client: RestClient, day: date, *, by_identity: bool) -> AsyncIterator[Listed]:
    """The visits that began on a day, in UTC. The original knows no other limit of time than `age`."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    from_ms, to_ms = (int(moment.timestamp() * 1000) for moment in (begin, begin + timedelta(days=1)))
    limits: dict[str, int] = {"from": from_ms, "to": to_ms}
    if by_identity:
        limits = {"age": max(1, int(time.time() - from_ms / 1000) + 1)}
    async for _, visit in listed_visits(client, Place(), limits, by_identity=by_identity):
        if from_ms <= visit.start_date < to_ms:
            yield visit


def _hour(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H}h"
