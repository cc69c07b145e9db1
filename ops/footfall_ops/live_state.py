"""Compares live state in Redis with what history knows of live visits.

The services may run meanwhile: what differs is read again before it is reported.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, Final

from footfall_eventlog.partitions import PartitionedRedis
from footfall_history.storage import TOUCH_INTERVAL_MS, Document, Store, event_time_ms
from footfall_identity.partitions import PartitionKeys
from footfall_identity.presence import PresenceRule
from footfall_identity.visit_record import VisitRecord
from footfall_timeline import from_fields, partition

from footfall_ops.attributions import Difference
from footfall_ops.stores import now_ms

_VISITS_PER_READ: Final = 50
_MEMBERS_PER_SCAN: Final = 200
_AGAIN_AFTER_S: Final = (0.5, 2.0, 5.0, 10.0)
_IS_LIVE: Final[Document] = {"imported": {"$ne": True}}
"""Nothing that was imported is live."""
_VISIT_FIELDS: Final = ("timeline", "start_key")


class LiveState:
    """Compares the live visits of a deployment. `report` gets each difference."""

    def __init__(
        self, store: Store, redis: PartitionedRedis, rule: PresenceRule, report: Callable[[Difference], None]
    ) -> None:
        self._store = store
        self._redis = redis
        self._rule = rule
        self._report = report
        self._keys = [PartitionKeys(number) for number in redis.numbers]
        self.visits = 0
        self.differences = 0

    async def compare(self) -> AsyncIterator[int]:
        """Compare all visits that history or Redis takes for live. Gives the size of each group."""
        since_ms = now_ms() - self._rule.idle_ms - TOUCH_INTERVAL_MS
        async for documents in self._store.touched_visits(since_ms, _VISITS_PER_READ):
            yield await self._compare([document["_id"] for document in documents])
        for number in self._redis.numbers:
            async for visit_ids in self._live_in(number):
                where = {"_id": {"$in": visit_ids}, "touched_ms": {"$gte": since_ms}}
                compared = {one["_id"] for one in await self._store.find_visits(where, len(visit_ids), ["start_key"])}
                yield await self._compare([visit_id for visit_id in visit_ids if visit_id not in compared])

    async def _live_in(self, number: int) -> AsyncIterator[list[str]]:
        """The live visits of a partition by Redis, in groups."""
        live_after_ms, group = now_ms() - self._rule.idle_ms, list[str]()
        for key in (self._keys[number].live_anonymous, self._keys[number].live_known):
            async for member, last_ms in self._redis[number].zscan_iter(key, count=_MEMBERS_PER_SCAN):
                if last_ms >= live_after_ms:
                    group.append(member.decode())
                if len(group) == _VISITS_PER_READ:
                    yield group
                    group = []
        if group:
            yield group

    async def _compare(self, visit_ids: Collection[str]) -> int:
        self.visits += len(visit_ids)
        found = await self._differences(visit_ids)
        for pause_s in _AGAIN_AFTER_S:
            if not found:
                break
            await asyncio.sleep(pause_s)
            again = await self._differences(found)
            found = {visit_id: text for visit_id, text in found.items() if again.get(visit_id) == text}
        self.differences += len(found)
        for visit_id, text in sorted(found.items()):
            self._report(Difference("live", visit_id, visit_id, text))
        return len(visit_ids)

    async def _differences(self, visit_ids: Iterable[str]) -> dict[str, str]:
        """By visit, how live state and history differ."""
        ids = [*visit_ids]
        live_ms = now_ms() - self._rule.idle_ms
        documents = await self._store.find_visits({"_id": {"$in": ids}}, len(ids), _VISIT_FIELDS)
        stored = {document["_id"]: document for document in documents}
        last = await self._store.last_events(stored, _IS_LIVE, ["visit_id", "order_key"])
        records = await self._records(ids)
        found = {}
        for visit_id in ids:
            last_ms = event_time_ms(last[visit_id]["order_key"]) if visit_id in last else 0
            if text := _difference(stored.get(visit_id), records.get(visit_id), last_ms, live_ms):
                found[visit_id] = text
        return found

    async def _records(self, visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        """The visits that Redis knows."""
        parts: dict[int, list[str]] = defaultdict(list)
        for visit_id in visit_ids:
            parts[partition(visit_id, len(self._keys))].append(visit_id)
        records = {}
        for number, ids in parts.items():
            pipeline = self._redis[number].pipeline(transaction=False)
            for visit_id in ids:
                pipeline.hgetall(self._keys[number].visit + visit_id)
            for visit_id, fields in zip(ids, await pipeline.execute(), strict=True):
                if fields:
                    records[visit_id] = VisitRecord.from_hash(visit_id, fields.items(), self._rule, now_ms())
        return records


def _difference(stored: Mapping[str, Any] | None, record: VisitRecord | None, last_ms: int, live_ms: int) -> str:
    """How live state and history differ about a visit; empty if they do not.

    `last_ms`: its last event in history. `live_ms`: a visit with an event since this time is live.
    """
    if stored is None:
        return "" if record is None else "history does not have the visit"
    if record is None:
        return "live state does not have the visit" if last_ms >= live_ms else ""
    wrong = [] if from_fields(stored["timeline"].items()) == record.timeline else ["timeline"]
    is_live = max(last_ms, record.last_ms) >= live_ms
    wrong += ["last event"] if is_live and last_ms != record.last_ms else []
    return f"live state and history differ: {', '.join(wrong)}" if wrong else ""
