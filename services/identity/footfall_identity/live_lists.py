"""The lists of live visits in Redis, by start, by site and by device, from which ListVisitors is answered.

merge_visits.lua writes a visit into the lists, and end_visits.lua removes it some time after its end, both together
with the sets of live visits. A visit is in one group at a time, by state and phase.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import product
from typing import Final, NamedTuple

from footfall_timeline import State

from footfall_identity.partitions import PartitionKeys, Partitions, Script, translating_errors
from footfall_identity.presence import Presence
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore

# The scores of merge_visits.lua: group, in the list by site a hash of the site, and start. 53 bits are exact.
_STARTS: Final = 2**40
_FIRST_START_MS: Final = 1_600_000_000_000
_SITE_SLOTS: Final = 512
_STATES: Final = 4
END_OF_LIVE: Final = _STATES * _STARTS
"""In the list by start, visits in the phase LIVE have scores below this."""

_REPAIRED_PER_READ: Final = 200
_MARGIN: Final = 50  # visits by which a partition may have more than its share of a page


class Position(NamedTuple):
    """The position of a visit in a listing: its start in milliseconds, and its id."""

    start_ms: int
    visit_id: str


class Phase(IntEnum):
    """What is known of the presence of a visit without reading it."""

    LIVE = 0
    """The visit is live, or ended less than a sweep ago. The visitor may have left since `move_left`."""
    ENDED = 1
    """The visit has ended, and has a timeline."""
    LEFT = 2
    """The visitor has left."""


class Group(NamedTuple):
    """A part of a list. In the list by start it is one range of scores."""

    state: int
    phase: Phase

    @property
    def number(self) -> int:
        """The number in scores."""
        return self.state + _STATES * self.phase


ANY_STATE: Final = 0
"""The state in the lists of a visit with many transitions, whose state is known when it is read."""

EVERY_GROUP: Final = [Group(*one) for one in product([ANY_STATE, *State], Phase)]


class Candidates(NamedTuple):
    """Visits in the order of a listing, latest start first. `is_last`: no more follow."""

    positions: list[Position]
    is_last: bool


class LiveLists:
    """The lists of all partitions. All methods raise RequestError (UNAVAILABLE) while Redis is unavailable."""

    def __init__(self, partitions: Partitions, visitors: VisitorStore) -> None:
        self._partitions = partitions
        self._visitors = visitors
        self._list_visits = partitions.script("list_visits.lua")
        self._visits_naming = partitions.script("visits_naming.lua")
        self._visits_on_device = partitions.script("visits_on_device.lua")

    async def of_groups(
        self, groups: Sequence[Group], sites: Collection[str] | None, below: Position | None, size: int
    ) -> Candidates:
        """Return the first visits of these groups below a position, at most `size`, of some sites (None: of all).

        There may be visits of other sites among them.
        """
        ranges = {group.number for group in groups}
        if sites is not None:
            ranges = {one * _SITE_SLOTS + _slot(site) for one, site in product(ranges, sites)}
        if not ranges:
            return Candidates([], is_last=True)
        count = min(size, size // len(self._partitions.numbers) + _MARGIN)
        parts = await asyncio.gather(
            *(
                self._first(number, sorted(ranges), below, count, is_by_site=sites is not None)
                for number in self._partitions.numbers
            )
        )
        # A part of full length may have more visits below its last one, so only those above that one are final.
        horizon = max((part[count - 1] for part in parts if len(part) >= count), default=None)
        positions = sorted(
            {position for part in parts for position in part if horizon is None or position >= horizon}, reverse=True
        )
        return Candidates(positions[:size], is_last=horizon is None and len(positions) <= size)

    async def _first(
        self, number: int, ranges: Sequence[int], below: Position | None, size: int, *, is_by_site: bool
    ) -> list[Position]:
        """Return the first visits of some ranges of a partition's list: at least `size` if there are so many."""
        keys = self._partitions.keys[number]
        key = keys.by_site if is_by_site else keys.by_start
        last = _start(below.start_ms) if below else _STARTS - 1
        bounds = [score for one in ranges for score in (one * _STARTS + last, one * _STARTS)]
        count = size
        while True:
            async with translating_errors():
                answer = await self._list_visits(number, [key], [count, *bounds])
            rows = sorted(_positions(answer), reverse=True)[:count]
            found = [one for one in rows if below is None or one < below]
            # Visits of the same millisecond as `below` may precede it.
            if len(found) >= size or len(rows) < count:
                return found
            count *= 2

    async def move_left(self) -> None:
        """Move visitors who have left since the last sweep to their phase, unless they did something since."""
        await asyncio.gather(*map(self._visitors.move_left, self._partitions.numbers))

    async def of_identities(self, identities: Iterable[str]) -> list[Position]:
        """Return the visits that name one of these identities. Needs an erasure key."""
        hashes = [self._visitors.hash_of(identity) for identity in identities]
        return await self._all(
            self._visits_naming, lambda keys: (keys.by_start, *(keys.naming_visits + hashed for hashed in hashes))
        )

    async def of_device(self, global_visit_id: str) -> list[Position]:
        """Return the visits on a device. There may be visits on other devices among them."""
        score = _device_score(global_visit_id)
        return await self._all(self._visits_on_device, lambda keys: (keys.by_start, keys.by_device), score)

    async def _all(
        self, script: Script, keys: Callable[[PartitionKeys], Sequence[str]], *arguments: int
    ) -> list[Position]:
        """Return the visits that a script finds in all partitions, in the order of a listing."""
        async with translating_errors():
            answers = await asyncio.gather(
                *(script(number, keys(of_number), arguments) for number, of_number in enumerate(self._partitions.keys))
            )
        return sorted({position for flat in answers for position in _positions(flat)}, reverse=True)

    async def repair(self, number: int) -> None:
        """Make the lists of a partition complete if a process of an earlier version has written visits."""
        keys = self._partitions.keys[number]
        live = (keys.live_anonymous, keys.live_known)
        *listed, anonymous, known = await self._partitions.execute(
            [(number, "ZCARD", key) for key in (keys.by_start, keys.by_site, *live)]
        )
        if {*listed} == {anonymous + known}:
            return
        lists = (keys.by_start, keys.by_site, keys.by_device)
        surplus = await self._partitions.execute([(number, "ZDIFF", 3, key, *live) for key in lists])
        await self._partitions.execute(
            [(number, "ZREM", key, *visits) for key, visits in zip(lists, surplus, strict=True) if visits]
        )
        [*missing] = await self._partitions.execute([(number, "ZDIFF", 2, key, keys.by_start) for key in live])
        visit_ids = [visit_id.decode() for part in missing for visit_id in part]
        for start in range(0, len(visit_ids), _REPAIRED_PER_READ):
            records = await self._visitors.get(visit_ids[start : start + _REPAIRED_PER_READ])
            await self._partitions.execute(
                [command for record in records.values() for command in self._entries(number, record)]
            )

    def _entries(self, number: int, record: VisitRecord) -> Iterator[tuple[int | str, ...]]:
        """Yield the commands that write a visit into the lists, unless a merge has done it meanwhile."""
        keys = self._partitions.keys[number]
        phase = Phase.ENDED if record.presence is Presence.ENDED else Phase.LIVE
        group = Group(record.visit_state.attribution.state, phase).number
        start = _start(record.first_ms)
        yield number, "ZADD", keys.by_start, "NX", group * _STARTS + start, record.visit_id
        by_site = (group * _SITE_SLOTS + _slot(record.site)) * _STARTS + start
        yield number, "ZADD", keys.by_site, "NX", by_site, record.visit_id
        if record.global_visit_id:
            yield number, "ZADD", keys.by_device, "NX", _device_score(record.global_visit_id), record.visit_id


def _start(start_ms: int) -> int:
    return max(0, min(start_ms - _FIRST_START_MS, _STARTS - 1))


def _slot(site: str) -> int:
    return int(_sha1(site)[:3], 16) % _SITE_SLOTS


def _device_score(global_visit_id: str) -> int:
    return int(_sha1(global_visit_id)[:13], 16)


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _positions(flat: Sequence[bytes]) -> Iterator[Position]:
    """Yield the positions in a flat list of visits and scores."""
    for visit_id, score in zip(flat[::2], flat[1::2], strict=True):
        yield Position(int(float(score)) % _STARTS + _FIRST_START_MS, visit_id.decode())
