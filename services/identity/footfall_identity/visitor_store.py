"""The Redis store of live state: visits with their timelines, the sets of live visits, and the stream of changes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import msgspec
from footfall_eventlog.stream import stream_info
from footfall_timeline import encode, identity_hash

from footfall_identity import metrics
from footfall_identity.changes import TimelineChange
from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.visit_record import VisitRecord, VisitUpdate, identities

REFRESH_MS: Final = 86_400_000
"""Shortest time between two extensions of a visit's expiry: extending it costs as much as a merge."""

# A call of merge_visits.lua blocks Redis; with these limits for 5 ms at most.
_BYTES_PER_CALL: Final = 32 * 1024
_TRANSITIONS_PER_CALL: Final = 200

_pack = msgspec.msgpack.Encoder().encode

Position = tuple[int, str]
"""The position of a visit in the list of live visits: its last event time in milliseconds, and its id."""


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
        changelog_max_entries: int,
        max_transitions: int,
        erasure_secret: str,
        erases_anonymous: bool = True,
    ) -> None:
        self._partitions = partitions
        self._retention_ms = retention_ms
        self._idle_ms = idle_ms
        self._changelog_max_entries = changelog_max_entries
        self._max_transitions = max_transitions
        self._erasure_secret = erasure_secret
        self._erases_anonymous = erases_anonymous
        self._merge_script = partitions.script("merge_visits.lua")

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
        names: list[str] = [keys.live_anonymous, keys.live_known, keys.changes, keys.tombstones]
        arguments: list[str | int | bytes] = [now - self._idle_ms, self._retention_ms, REFRESH_MS]
        arguments += (self._changelog_max_entries, now, keys.naming_visits, self._max_transitions)
        arguments.append("1" if self._erases_anonymous else "0")
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
            transitions += (transition.event_id, encode(transition), self.hash_of(transition.identity))
        first_ms, last_ms, site, device = update.first_ms, update.last_ms, update.site, update.global_visit_id
        of_first = update.received_ms, update.browser_visit_id
        return _pack((first_ms, last_ms, site, device, update.page, update.title, transitions, *of_first))

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

    def hash_of(self, identity: str) -> str:
        """Return the keyed hash (hex) of an identity; "" for none, or without an erasure key."""
        if not identity or not self._erasure_secret:
            return ""
        return identity_hash(self._erasure_secret, identity).hex()

    async def get(self, visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        """Return the known ones of these visits, by id."""
        wanted = list(visit_ids)
        numbers = [self._partitions.number_of(visit_id) for visit_id in wanted]
        keys = [
            self._partitions.keys[number].visit + visit_id for number, visit_id in zip(numbers, wanted, strict=True)
        ]
        answers = await self._partitions.execute(
            [(number, "HGETALL", key) for number, key in zip(numbers, keys, strict=True)]
        )
        async with translating_errors():
            return {
                visit_id: VisitRecord.from_hash(visit_id, fields.items())
                for visit_id, fields in zip(wanted, answers, strict=True)
                if fields
            }

    async def live(self, number: int, *, is_known: bool, below: Position | None, size: int) -> list[Position]:
        """Return the first `size` live visits of a partition below a position, latest first.

        `is_known`: those with a timeline, else those without.
        """
        keys = self._partitions.keys[number]
        key = keys.live_known if is_known else keys.live_anonymous
        latest_ms = below[0] if below else "+inf"
        found: list[Position] = []
        offset = 0
        while True:
            async with translating_errors():
                rows = await self._partitions.redis[number].zrevrangebyscore(
                    key, latest_ms, now_ms() - self._idle_ms, start=offset, num=size + 1, withscores=True
                )
            positions = [(int(score), member.decode()) for member, score in rows]
            # Visits of the same millisecond as `below` may precede it.
            found += [position for position in positions if below is None or position < below]
            if len(found) >= size or len(rows) <= size:
                return found[:size]
            offset += len(rows)

    async def changes(self, number: int, after: str, size: int) -> list[TimelineChange]:
        """Return at most `size` changes of a partition after a position, in order."""
        async with translating_errors():
            entries = await self._partitions.redis[number].xrange(
                self._partitions.keys[number].changes, f"({after}", count=size
            )
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
        """Remove expired changes and visits that are no longer live, which merges alone do not remove."""
        keys, now = self._partitions.keys[number], now_ms()
        pipeline = self._partitions.redis[number].pipeline(transaction=False)
        pipeline.xtrim(keys.changes, minid=now - self._retention_ms, approximate=False)
        for key in (keys.live_anonymous, keys.live_known):
            pipeline.zremrangebyscore(key, "-inf", f"({now - self._idle_ms}")
        async with translating_errors():
            await pipeline.execute()


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
