"""Turns what batches bring into timelines in Redis, in calls of a script, and reads visits and changes back."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import msgspec
from footfall_servicekit.stream import about_stream
from footfall_timeline import encode, identity_hash

from footfall_identity import metrics
from footfall_identity.changes import Change
from footfall_identity.partitions import Partitions, answering
from footfall_identity.visit_record import Touch, VisitRecord, identities

REFRESH_MS: Final = 86_400_000
"""The expiry of a visit is moved at most so often, because moving it costs as much as merging."""

# A call of merge.lua stops Redis for everybody, with so much in it for 5 ms at most.
_BYTES_A_CALL: Final = 32 * 1024
_TRANSITIONS_A_CALL: Final = 200

_pack = msgspec.msgpack.Encoder().encode

Position = tuple[int, str]
"""A visit's place among those that are live: its last event time in milliseconds, and its id."""


class VisitorStore:
    """The live state of every visit. All methods raise RequestError (UNAVAILABLE) when Redis does not answer.

    Also, with the reason LATER_VERSION, when it answers with what a later version has written.
    """

    def __init__(
        self,
        partitions: Partitions,
        *,
        keep_ms: int,
        idle_ms: int,
        changes_kept: int,
        transitions_kept: int,
        erasure_secret: str,
        erases_anonymous: bool = True,
    ) -> None:
        self._partitions = partitions
        self._keep_ms = keep_ms
        self._idle_ms = idle_ms
        self._changes_kept = changes_kept
        self._transitions_kept = transitions_kept
        self._erasure_secret = erasure_secret
        self._erases_anonymous = erases_anonymous
        self._merge_script = partitions.script("merge_visits.lua")

    async def merge(self, touches: Iterable[Touch]) -> set[str]:
        """Merge what a batch brings, and return the visits whose timeline that changed.

        When it raises, some may be merged; any of it may be merged again without harm.
        """
        parts: dict[int, list[Touch]] = defaultdict(list)
        for touch in touches:
            parts[self._partitions.number_of(touch.visit_id)].append(touch)
        changed = await asyncio.gather(*(self._merge_part(number, part) for number, part in parts.items()))
        return set().union(*changed)

    async def _merge_part(self, number: int, part: list[Touch]) -> set[str]:
        changed: set[str] = set()
        to_refresh: set[str] = set()
        for call in self._calls(part):
            async with answering():
                answer = await self._merge_call(number, call)
            for visit_id, is_changed, must_refresh, is_newly_truncated in answer:
                metrics.TIMELINES_TRUNCATED.inc(is_newly_truncated)
                if is_changed:
                    changed.add(visit_id.decode())
                if must_refresh:
                    to_refresh.add(visit_id.decode())
        if to_refresh:
            await self.index_persons(number, (await self.get(to_refresh)).values())
        return changed

    async def _merge_call(self, number: int, call: list[tuple[str, bytes]]) -> list[tuple[bytes, int, int, int]]:
        now = now_ms()
        keys = self._partitions.keys[number]
        names: list[str] = [keys.live_anonymous, keys.live_known, keys.changes, keys.tombstones]
        arguments: list[str | int | bytes] = [now - self._idle_ms, self._keep_ms, REFRESH_MS, self._changes_kept, now]
        arguments += (keys.person, self._transitions_kept, "1" if self._erases_anonymous else "0")
        names += (keys.visit + visit_id for visit_id, _ in call)
        arguments += (packed for _, packed in call)
        answer: list[tuple[bytes, int, int, int]] = await self._merge_script(number, names, arguments)
        return answer

    def _calls(self, part: list[Touch]) -> Iterator[list[tuple[str, bytes]]]:
        """The visits and what the script takes of each, in calls of a bounded size."""
        call: list[tuple[str, bytes]] = []
        size = 0
        for touch in chain.from_iterable(map(_pieces, part)):
            packed = self._packed(touch)
            if call and size + len(packed) > _BYTES_A_CALL:
                yield call
                call, size = [], 0
            call.append((touch.visit_id, packed))
            size += len(packed)
        if call:
            yield call

    def _packed(self, touch: Touch) -> bytes:
        """What merge.lua takes of a visit."""
        transitions: list[str] = []
        for transition in touch.transitions:
            transitions += (transition.event_id, encode(transition), self.person(transition.identity))
        first_ms, last_ms, site, device = touch.first_ms, touch.last_ms, touch.site, touch.global_visit_id
        of_first = touch.received_ms, touch.browser_visit_id
        return _pack((first_ms, last_ms, site, device, touch.page, touch.title, transitions, *of_first))

    async def index_persons(self, number: int, records: Iterable[VisitRecord]) -> None:
        """Let visits be found by whom they name as long as they are kept and two refreshes longer: one may fail."""
        prefix = self._partitions.keys[number].person
        pipeline = self._partitions.redis[number].pipeline(transaction=False)
        for record in records:
            for person in filter(None, map(self.person, identities(record.timeline))):
                pipeline.zadd(prefix + person, {record.visit_id: now_ms()})
                pipeline.pexpire(prefix + person, self._keep_ms + 2 * REFRESH_MS)
        async with answering():
            await pipeline.execute()

    def person(self, identity: str) -> str:
        """The hash that stands for somebody here; empty for nobody, and without an erasure key."""
        if not identity or not self._erasure_secret:
            return ""
        return identity_hash(self._erasure_secret, identity).hex()

    async def get(self, visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        """The visits of these that are remembered, by id."""
        wanted = list(visit_ids)
        numbers = [self._partitions.number_of(visit_id) for visit_id in wanted]
        keys = [
            self._partitions.keys[number].visit + visit_id for number, visit_id in zip(numbers, wanted, strict=True)
        ]
        answers = await self._partitions.ask(
            [(number, "HGETALL", key) for number, key in zip(numbers, keys, strict=True)]
        )
        async with answering():
            return {
                visit_id: VisitRecord.from_hash(visit_id, fields.items())
                for visit_id, fields in zip(wanted, answers, strict=True)
                if fields
            }

    async def live(self, number: int, *, is_known: bool, below: Position | None, size: int) -> list[Position]:
        """Visits of a partition that are on the site now, latest first, the first `size` below a position.

        Those with a timeline, or those without.
        """
        keys = self._partitions.keys[number]
        key = keys.live_known if is_known else keys.live_anonymous
        latest_ms = below[0] if below else "+inf"
        found: list[Position] = []
        offset = 0
        while True:
            async with answering():
                rows = await self._partitions.redis[number].zrevrangebyscore(
                    key, latest_ms, now_ms() - self._idle_ms, start=offset, num=size + 1, withscores=True
                )
            positions = [(int(score), member.decode()) for member, score in rows]
            # Others of the very moment of `below` may come before it.
            found += [position for position in positions if below is None or position < below]
            if len(found) >= size or len(rows) <= size:
                return found[:size]
            offset += len(rows)

    async def changes(self, number: int, after: str, size: int) -> list[Change]:
        """What a partition's stream of changes has after a position, in order, at most `size`."""
        async with answering():
            entries = await self._partitions.redis[number].xrange(
                self._partitions.keys[number].changes, f"({after}", count=size
            )
            return [Change.read(entry_id.decode(), fields) for entry_id, fields in entries]

    async def bounds_of_changes(self, number: int) -> tuple[str, str]:
        """The position from which on all changes of a partition are there, and that of the last one."""
        async with answering():
            about = await about_stream(self._partitions.redis[number], self._partitions.keys[number].changes)
        if about is None:
            return "0-0", "0-0"
        last = about["last-generated-id"].decode()
        if about["entries-added"] == about["length"]:
            return "0-0", last
        return about["first-entry"][0].decode() if about["length"] else last, last

    async def remove_expired(self, number: int) -> None:
        """Take out of a partition what merges do not: changes as old as a visit gets, and who was live last."""
        keys, now = self._partitions.keys[number], now_ms()
        pipeline = self._partitions.redis[number].pipeline(transaction=False)
        pipeline.xtrim(keys.changes, minid=now - self._keep_ms, approximate=False)
        for key in (keys.live_anonymous, keys.live_known):
            pipeline.zremrangebyscore(key, "-inf", f"({now - self._idle_ms}")
        async with answering():
            await pipeline.execute()


def _pieces(touch: Touch) -> Iterator[Touch]:
    """The same in several that merge to it, each with no more transitions than a call may have."""
    if len(touch.transitions) <= _TRANSITIONS_A_CALL:
        yield touch
        return
    for start in range(0, len(touch.transitions), _TRANSITIONS_A_CALL):
        yield replace(touch, transitions=touch.transitions[start : start + _TRANSITIONS_A_CALL])


def now_ms() -> int:
    """The time now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
