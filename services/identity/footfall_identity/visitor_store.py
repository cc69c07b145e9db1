"""The Redis store of live state: visits with their timelines, the sets of live visits, and the stream of changes.

What it writes into the lists of live visits is read by live_lists.py.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import msgspec
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_eventlog.stream import stream_info
from footfall_timeline import encode

from footfall_identity import metrics
from footfall_identity.changes import TimelineChange
from footfall_identity.pages import latest_pages
from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.presence import PresenceRule
from footfall_identity.visit_record import VisitRecord, VisitUpdate, identities

REFRESH_MS: Final = 86_400_000
"""Shortest time between two extensions of a visit's expiry: extending it costs as much as a merge."""

REPORT_MS: Final = 60_000
"""How long an ended visit without a timeline stays in its live set, so that its end is reported before."""

# A call of merge_visits.lua blocks Redis; with these limits for 5 ms at most.
_BYTES_PER_CALL: Final = 32 * 1024
_TRANSITIONS_PER_CALL: Final = 200

_PAGES_PER_SWEEP: Final = 10_000
_PAGES_PER_READ: Final = 200
_VISITS_PER_READ: Final = 200
_LEFT_PER_CALL: Final = 1_000
_CLOCK_MARGIN_MS: Final = 10_000  # of a merge whose clock is behind
_ENDED_PER_CALL: Final = 1_000  # a few milliseconds

_pack = msgspec.msgpack.Encoder().encode


class VisitorStore:
    """Reads and writes visits.

    All methods raise RequestError (UNAVAILABLE) for transient errors of Redis, and, with the reason LATER_VERSION, for
    data that a later version has written.
    """

    def __init__(
        self,
        partitions: Partitions,
        *,
        retention_ms: int,
        idle_ms: int,
        short_retention_ms: int,
        changelog_max_entries: int,
        max_transitions: int,
        max_pages: int,
        leave_ms: int,
        erasure_secret: str,
        erases_anonymous: bool = True,
    ) -> None:
        self._partitions = partitions
        self._retention_ms = retention_ms
        self._idle_ms = idle_ms
        self._short_retention_ms = short_retention_ms
        self.changelog_max_entries = changelog_max_entries
        self._max_transitions = max_transitions
        self._max_pages = max_pages
        self.presence_rule = PresenceRule(idle_ms, leave_ms)
        self._left_until_ms: dict[int, int] = {}
        self._ended_until_ms: dict[int, int] = {}
        self._erasure_keys = ErasureKeys(erasure_secret)
        self._erases_anonymous = erases_anonymous
        self._merge_script = partitions.script("merge_visits.lua")
        self._read_script = partitions.script("read_visits.lua")
        self._leave_script = partitions.script("leave_visits.lua")
        self._end_script = partitions.script("end_visits.lua")

    async def merge(self, updates: Iterable[VisitUpdate]) -> set[str]:
        """Merge updates; return the visits whose timeline has changed.

        After an error, a part may be merged. Merging is idempotent.
        """
        parts: dict[int, list[VisitUpdate]] = defaultdict(list)
        for update in updates:
            parts[self._partitions.number_of(update.visit_id)].append(update)
        changed = await asyncio.gather(*(self._merge_part(number, part) for number, part in parts.items()))
        return set().union(*changed)

    async def _merge_part(self, number: int, part: list[VisitUpdate]) -> set[str]:
        changed: set[str] = set()
        to_refresh: set[str] = set()
        for call in self._calls(part):
            async with translating_errors():
                answer = await self._merge_call(number, call)
            for visit_id, is_changed, needs_refresh, is_newly_truncated in answer:
                metrics.TIMELINES_TRUNCATED.inc(is_newly_truncated)
                if is_changed:
                    changed.add(visit_id.decode())
                if needs_refresh:
                    to_refresh.add(visit_id.decode())
        if to_refresh:
            await self.index_identities(number, (await self.get(to_refresh)).values())
        return changed

    async def _merge_call(self, number: int, call: list[tuple[str, bytes]]) -> list[tuple[bytes, int, int, int]]:
        now = now_ms()
        keys = self._partitions.keys[number]
        names: list[str] = [keys.live_anonymous, keys.live_known, keys.changes, keys.tombstones, keys.leaving]
        names += (*keys.lists, keys.pages_watched)
        arguments: list[str | int | bytes] = [now - self._idle_ms, self._retention_ms, REFRESH_MS]
        arguments += (self.changelog_max_entries, now, keys.naming_visits, self._max_transitions)
        arguments += ("1" if self._erases_anonymous else "0", self._short_retention_ms)
        arguments += (self._max_pages, self.presence_rule.leave_ms)
        names += (keys.visit + visit_id for visit_id, _ in call)
        arguments += (packed for _, packed in call)
        answer: list[tuple[bytes, int, int, int]] = await self._merge_script(number, names, arguments)
        return answer

    def _calls(self, part: list[VisitUpdate]) -> Iterator[list[tuple[str, bytes]]]:
        """Yield the visits with their arguments for the script, in calls of a limited size."""
        call: list[tuple[str, bytes]] = []
        size = 0
        for update in chain.from_iterable(map(_split_update, part)):
            packed = self._packed(update)
            if call and size + len(packed) > _BYTES_PER_CALL:
                yield call
                call, size = [], 0
            call.append((update.visit_id, packed))
            size += len(packed)
        if call:
            yield call

    def _packed(self, update: VisitUpdate) -> bytes:
        """Return the argument of merge_visits.lua for a visit."""
        transitions: list[str] = []
        for transition in update.transitions:
            hashed = self.hash_of(transition.identity)
            transitions += (transition.event_id, encode(transition), hashed, self.mark_of(hashed))
        first_ms, last_ms, site, device = update.first_ms, update.last_ms, update.site, update.global_visit_id
        others = update.received_ms, update.browser_visit_id, update.flags, update.notable
        pages = latest_pages(update.pages.values(), limit=self._max_pages, leave_ms=self.presence_rule.leave_ms)
        of_pages = chain.from_iterable(map(msgspec.structs.astuple, pages))
        return _pack((first_ms, last_ms, site, device, update.page, update.title, transitions, *others, *of_pages))

    async def index_identities(self, number: int, records: Iterable[VisitRecord]) -> None:
        """Index visits by identity, for the retention and two refreshes: so one refresh may fail."""
        prefix = self._partitions.keys[number].naming_visits
        pipeline = self._partitions.redis[number].pipeline(transaction=False)
        for record in records:
            for hashed in filter(None, map(self.hash_of, identities(record.timeline))):
                pipeline.zadd(prefix + hashed, {record.visit_id: now_ms()})
                pipeline.pexpire(prefix + hashed, self._retention_ms + 2 * REFRESH_MS)
        async with translating_errors():
            await pipeline.execute()

    @property
    def indexes_identities(self) -> bool:
        """Whether visits are found by identity, which needs an erasure key."""
        return bool(self._erasure_keys)

    def hash_of(self, identity: str) -> str:
        """Return the keyed hash (hex) of an identity; "" for none, or without an erasure key."""
        return self._erasure_keys.hash_of(identity)

    def mark_of(self, hashed: str) -> str:
        """Return how the tombstone of a hash is named; "" for none."""
        return hashed and self._erasure_keys.mark(hashed)

    async def get(self, visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        """Return the known ones of these visits, by id."""
        wanted = list(visit_ids)
        parts: dict[int, list[str]] = defaultdict(list)
        for visit_id in wanted:
            parts[self._partitions.number_of(visit_id)].append(visit_id)
        calls = [
            (number, part[start : start + _VISITS_PER_READ])
            for number, part in parts.items()
            for start in range(0, len(part), _VISITS_PER_READ)
        ]
        answers = await asyncio.gather(*(self._read_call(number, part) for number, part in calls))
        hashes = {
            visit_id: flat
            for (_, part), found in zip(calls, answers, strict=True)
            for visit_id, flat in zip(part, found, strict=True)
        }
        async with translating_errors():
            now = now_ms()
            return {
                visit_id: VisitRecord.from_hash(
                    visit_id, zip(flat[::2], flat[1::2], strict=True), self.presence_rule, now
                )
                for visit_id in wanted
                if (flat := hashes[visit_id])
            }

    async def _read_call(self, number: int, visit_ids: list[str]) -> list[list[bytes]]:
        prefix = self._partitions.keys[number].visit
        async with translating_errors():
            found: list[list[bytes]] = await self._read_script(number, [prefix + one for one in visit_ids], ())
        return found

    async def changes(self, number: int, after: str, size: int, wait_ms: int | None = None) -> list[TimelineChange]:
        """Return at most `size` changes of a partition after a position, in order.

        If there is none, wait for one; `wait_ms` at most (less than REDIS_TIMEOUT_MS), None: not at all.
        """
        after_position = {self._partitions.keys[number].changes: after}
        async with translating_errors():
            answer = await self._partitions.redis[number].xread(after_position, count=size, block=wait_ms)
            entries = answer[0][1] if answer else []
            return [TimelineChange.read(entry_id.decode(), fields) for entry_id, fields in entries]

    async def change_bounds(self, number: int) -> tuple[str, str]:
        """Return the position from which all changes of a partition are stored, and that of the last change."""
        async with translating_errors():
            about = await stream_info(self._partitions.redis[number], self._partitions.keys[number].changes)
        if about is None:
            return "0-0", "0-0"
        last = about["last-generated-id"].decode()
        if about["entries-added"] == about["length"]:
            return "0-0", last
        return about["first-entry"][0].decode() if about["length"] else last, last

    async def remove_expired(self, number: int) -> None:
        """Remove what merges alone do not remove: old changes, entries of the live sets, and pages of known visits."""
        await self._remove_pages(number)
        keys, now = self._partitions.keys[number], now_ms()
        pipeline = self._partitions.redis[number].pipeline(transaction=False)
        pipeline.xtrim(keys.changes, minid=now - self._retention_ms, approximate=False)
        async with translating_errors():
            await pipeline.execute()
        await self._end_visits(number)
        await self.move_left(number)

    async def _end_visits(self, number: int) -> None:
        """Remove ended visits from the lists, or move those with a timeline to other groups.

        Visits without a timeline stay for REPORT_MS more.
        """
        keys, live_after_ms = self._partitions.keys[number], now_ms() - self._idle_ms
        names = [keys.live_anonymous, keys.live_known, *keys.lists]
        # An event that arrives later moves its visit when it is merged.
        after_ms = self._ended_until_ms.get(number, live_after_ms - self._short_retention_ms)
        count = _ENDED_PER_CALL
        while True:
            arguments = [live_after_ms - REPORT_MS, after_ms, live_after_ms, count]
            async with translating_errors():
                anonymous, known, last_ms = await self._end_script(number, names, arguments)
            if max(anonymous, known) < count:
                break
            if known == count:
                after_ms, count = _further(after_ms, last_ms, count, _ENDED_PER_CALL)
        self._ended_until_ms[number] = live_after_ms - _CLOCK_MARGIN_MS

    async def move_left(self, number: int) -> None:
        """Move live visits whose visitors have left since the last call to other groups of the lists."""
        keys, until_ms = self._partitions.keys[number], now_ms() - self.presence_rule.leave_ms
        # An event that arrives later moves its visit when it is merged.
        since_ms = self._left_until_ms.get(number, until_ms - self._idle_ms)
        for live in (keys.live_anonymous, keys.live_known):
            names = [live, keys.by_start, keys.by_site, keys.visit]
            after_ms, count = since_ms, _LEFT_PER_CALL
            while True:
                async with translating_errors():
                    found, last_ms = await self._leave_script(number, names, [after_ms, until_ms, count])
                if found < count:
                    break
                after_ms, count = _further(after_ms, last_ms, count, _LEFT_PER_CALL)
        self._left_until_ms[number] = until_ms - _CLOCK_MARGIN_MS

    async def _remove_pages(self, number: int) -> None:
        """Merge nothing into known visits that are no longer recent, which removes their pages."""
        keys, recent_after_ms = self._partitions.keys[number], now_ms() - self._short_retention_ms
        async with translating_errors():
            members = await self._partitions.redis[number].zrangebyscore(
                keys.live_known, "-inf", f"({recent_after_ms}", start=0, num=_PAGES_PER_SWEEP
            )
        for start in range(0, len(members), _PAGES_PER_READ):
            visit_ids = [member.decode() for member in members[start : start + _PAGES_PER_READ]]
            records = await self.get(visit_ids)
            await self._merge_part(number, [VisitUpdate.of_transitions(record, []) for record in records.values()])
            if expired := set(visit_ids) - records.keys():
                await self._partitions.execute(
                    [(number, "ZREM", key, *expired) for key in (keys.live_known, *keys.lists)]
                )


def _further(after_ms: int, last_ms: int, count: int, least: int) -> tuple[int, int]:
    """Return where to read on after visits up to `last_ms`, and how many: there may be more visits of that time."""
    return last_ms - 1, least if last_ms - 1 > after_ms else 2 * count


def _split_update(update: VisitUpdate) -> Iterator[VisitUpdate]:
    """Split an update into several with a limited number of transitions, which merge to the same result."""
    if len(update.transitions) <= _TRANSITIONS_PER_CALL:
        yield update
        return
    for start in range(0, len(update.transitions), _TRANSITIONS_PER_CALL):
        yield replace(update, transitions=update.transitions[start : start + _TRANSITIONS_PER_CALL])


def now_ms() -> int:
    """Return the current time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
