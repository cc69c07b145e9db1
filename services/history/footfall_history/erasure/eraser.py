"""Erases identities from events, visits and dead letters."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import structlog
from footfall.event.v1.event_pb2 import Erasure
from footfall_servicekit.errors import RequestError
from footfall_timeline import order_key

from footfall_history.dead_letters import DeadLetterQueue, dead_letter_documents
from footfall_history.storage import Document, InteractionRecord, Preview, Store, Tombstones, erase_in_visit

_log = structlog.get_logger()


class ErasedCounts(NamedTuple):
    """How much an erasure has changed or removed."""

    visits: int = 0
    events: int = 0
    interactions: int = 0


class Eraser:
    """Applies erasures, which arrive by RPC and by the event log. An erasure may be applied repeatedly.

    Methods raise TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS.
    """

    def __init__(self, store: Store, tombstones: Tombstones, dead_letters: DeadLetterQueue, preview: Preview) -> None:
        self._store = store
        self._preview = preview
        self._tombstones = tombstones
        self._dead_letters = dead_letters
        # The log and an RPC bring the same erasure at about the same time. The second finds complete counts.
        self._lock = asyncio.Lock()

    async def erase(self, identity: str, erasure: Erasure) -> ErasedCounts:
        """Apply an erasure to an identity. Returns how much all processes have changed.

        Raises RequestError for another identity's hash, or without a key.
        """
        if not self._tombstones.has_key:
            raise RequestError.failed_precondition(
                "NO_ERASURE_KEY", "ERASURE_KEY is not set, so no identity can be erased"
            )
        if self._tombstones.hash_of(identity) != erasure.identity_hash.hex():
            raise RequestError.invalid("erasure.identity_hash", "must be that of identity_id")
        return await self._apply(erasure, {"identities": identity}, range(self._dead_letters.partitions))

    async def record(self, erasure: Erasure) -> None:
        """Store the tombstone of an erasure from the log. Call this before `apply`.

        Raises RuntimeError without an erasure key: the identity cannot be determined, and the erasure must not be lost.
        """
        if not self._tombstones.has_key:
            _log.error("the log holds an erasure and is not read any further until ERASURE_KEY is set")
            raise RuntimeError("ERASURE_KEY is not set")
        await self._put_tombstone(erasure)

    async def apply(self, number: int, erasure: Erasure) -> None:
        """Apply an erasure from the log of a partition."""
        await self._apply(erasure, {"identity_hashes": erasure.identity_hash.hex()}, [number])

    async def _apply(self, erasure: Erasure, visits: Document, partitions: Iterable[int]) -> ErasedCounts:
        """Store the tombstone, then change visits: a consumer that merges events in between sees the tombstone."""
        hashed, until_ms = erasure.identity_hash.hex(), erasure.erase_time_ms
        async with self._lock:
            await self._put_tombstone(erasure)
            visit_count = event_count = interaction_count = 0
            async for visit_id, identity in self._visits(visits, hashed, until_ms):
                is_changed, events, interactions = await erase_in_visit(
                    self._store, self._tombstones, visit_id, identity, until_ms
                )
                visit_count += is_changed
                event_count += events
                interaction_count += interactions
            interaction_count += await self._erase_interactions_about(erasure)
            for number in partitions:
                event_count += await self.erase_dead_letters(number)
            await self._store.journal()
            counted = ErasedCounts(visit_count, event_count, interaction_count)
            sums = await self._tombstones.count_erased(hashed, erasure.erasure_id, counted._asdict())
            return ErasedCounts(**sums)

    async def _put_tombstone(self, erasure: Erasure) -> None:
        for hashed in _hashes(erasure):
            await self._tombstones.put(hashed, erasure.erase_time_ms)

    async def _erase_interactions_about(self, erasure: Erasure) -> int:
        """Remove the interactions that name the identity or what is related to it, and began until the erasure."""
        began = {"order_key": {"$lt": order_key(erasure.erase_time_ms + 1, "")}}
        wheres = [{"subject_hash": hashed} | began for hashed in _hashes(erasure)]
        return sum([await self._store.remove_interactions(where) for where in wheres])

    async def _visits(self, where: Document, hashed: str, until_ms: int) -> AsyncIterator[tuple[str, str]]:
        """The visits to change, with the identity: first those listed under it, then those whose events name it."""
        async for document in self._store.each_visit(where):
            for identity in document["identities"]:
                if self._tombstones.hash_of(identity) == hashed:
                    yield document["_id"], identity
        for visit_id, identity in await self._store.visits_naming(hashed, order_key(until_ms + 1, "")):
            yield visit_id, identity

    async def erase_dead_letters(self, number: int) -> int:
        """Remove the dead letters of a partition whose events or interactions are of erased persons.

        Call this after storing dead letters and after erasing visits: then what a dead letter holds is erased whichever
        came first. The identity of a malformed log entry is not known, so such a dead letter expires.
        Returns the number of events.
        """
        if not self._tombstones.has_key:
            return 0
        letters = await dead_letter_documents(self._dead_letters, self._preview, number)
        malformed = [batch.events[0] for _, batch, document in letters if document is None]
        erased = await self._tombstones.erase_times({event.identity_id for event in malformed if event.identity_id})
        visits = await self._tombstones.read_visits({event.visit_id for event in malformed})
        removed = []
        for letter, batch, document in letters:
            [event] = batch.events
            visit = visits.get(event.visit_id)
            is_erased = event.identity_id in erased or (visit is not None and visit.is_erased)
            if document.get("erased") if document else is_erased:
                removed.append(letter)
        event_count = len(removed)
        async for letter in self._dead_letters.in_partition(number):
            update = letter.interaction
            if update and await self._tombstones.is_interaction_erased(InteractionRecord.of(update)):
                removed.append(letter)
        await self._dead_letters.remove(removed)
        return event_count


def _hashes(erasure: Erasure) -> list[str]:
    """The keyed hashes of the identity and of what is related to it."""
    return [hashed.hex() for hashed in (erasure.identity_hash, *erasure.related_hashes)]
