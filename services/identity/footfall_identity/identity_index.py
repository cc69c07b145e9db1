"""The index from identities to the visits that name them, and the tombstones of erased identities, in Redis.

The script that merges timelines reads tombstones and writes this index. So a merge either finds a new tombstone, or the
erasure that wrote the tombstone finds the merged visit in the index.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from footfall_timeline import Timeline, Transition

from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.visit_record import VisitRecord, VisitUpdate, identities
from footfall_identity.visitor_store import VisitorStore

_CHANGES_PER_READ: Final = 1_000


class IdentityIndex:
    """The index of one deployment. `hashed` is the keyed hash of an identity (hex).

    All methods raise RequestError (UNAVAILABLE) while Redis is unavailable.
    """

    def __init__(self, partitions: Partitions, visitors: VisitorStore) -> None:
        self._partitions = partitions
        self._visitors = visitors
        self._delete_changes = partitions.script("delete_changes.lua")
        self._set_if_later = partitions.script("set_if_later.lua")

    async def visits_naming(self, hashed: str) -> list[VisitRecord]:
        """Return the visits whose timelines name an identity."""
        parts = await asyncio.gather(*(self._visits_naming(number, hashed) for number in self._partitions.numbers))
        return [record for part in parts for record in part]

    async def _visits_naming(self, number: int, hashed: str) -> list[VisitRecord]:
        async with translating_errors():
            visit_ids = await self._partitions.redis[number].zrange(
                self._partitions.keys[number].naming_visits + hashed, 0, -1
            )
        records = await self._visitors.get(visit_id.decode() for visit_id in visit_ids)
        return [record for record in records.values() if self._names(record, hashed)]

    def _names(self, record: VisitRecord, hashed: str) -> bool:
        return any(self._visitors.hash_of(identity) == hashed for identity in identities(record.timeline))

    async def tombstones(self, pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
        """Return the erased ones of these (visit id, identity) pairs, with the time (ms) until which each is erased."""
        wanted = [(visit_id, identity) for visit_id, identity in pairs if self._visitors.hash_of(identity)]
        numbers = [self._partitions.number_of(visit_id) for visit_id, _ in wanted]
        answers = await self._partitions.execute(
            [
                (number, "HGET", self._partitions.keys[number].tombstones, self._mark(identity))
                for number, (_, identity) in zip(numbers, wanted, strict=True)
            ]
        )
        return {identity: int(ms) for (_, identity), ms in zip(wanted, answers, strict=True) if ms}

    def _mark(self, identity: str) -> str:
        return self._visitors.mark_of(self._visitors.hash_of(identity))

    async def count_tombstones(self, number: int) -> int:
        """Return the number of erased identities that a partition knows."""
        async with translating_errors():
            return int(await self._partitions.redis[number].hlen(self._partitions.keys[number].tombstones))

    async def erase(self, number: int, hashed: str, erase_time_ms: int) -> None:
        """Erase an identity from a partition, also from older events that arrive later. Idempotent."""
        keys = self._partitions.keys[number]
        async with translating_errors():
            mark = self._visitors.mark_of(hashed)
            await self._set_if_later(number, [keys.tombstones], [mark, f"{erase_time_ms:013d}"])
        records = await self._visits_naming(number, hashed)
        erased = [(record, self._erased(record.timeline, hashed, erase_time_ms)) for record in records]
        updates = [VisitUpdate.of_transitions(record, transitions) for record, transitions in erased if transitions]
        await self._visitors.merge(updates)
        await self._unindex_visits(number, hashed, [update.visit_id for update in updates])
        await self._delete_named_changes(number, hashed, erase_time_ms)

    def _erased(self, timeline: Timeline, hashed: str, erase_time_ms: int) -> list[Transition]:
        return [
            transition._replace(identity="")
            for transition in timeline
            if transition.event_time_ms <= erase_time_ms and self._visitors.hash_of(transition.identity) == hashed
        ]

    async def _unindex_visits(self, number: int, hashed: str, visit_ids: list[str]) -> None:
        """Remove visits from the index, except those that a later event of the identity names again."""
        if not visit_ids:
            return
        async with translating_errors():
            await self._partitions.redis[number].zrem(self._partitions.keys[number].naming_visits + hashed, *visit_ids)
        again = await self._visitors.get(visit_ids)
        await self._visitors.index_identities(
            number, (record for record in again.values() if self._names(record, hashed))
        )

    async def _delete_named_changes(self, number: int, hashed: str, erase_time_ms: int) -> None:
        to_delete = []
        after = "0-0"
        while changes := await self._visitors.changes(number, after, _CHANGES_PER_READ):
            after = changes[-1].position
            for change in changes:
                named = [transition for entry in change.entries for transition in entry if transition]
                if change.identity_hash == hashed or self._erased(tuple(named), hashed, erase_time_ms):
                    to_delete.append(change.position)
        if to_delete:
            async with translating_errors():
                await self._delete_changes(number, [self._partitions.keys[number].changes], to_delete)
