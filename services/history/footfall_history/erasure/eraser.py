"""Turns erasures, from the log and from calls, into events, visits and dead letters that do not know the person."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import structlog
from footfall.event.v1.event_pb2 import Erasure
from footfall_servicekit.errors import RequestError
from footfall_timeline import order_key

from footfall_history.dead_letters import DeadLetters, stamped_letters
from footfall_history.storage import Document, Preview, Store, Tombstones, erase_in_visit

_log = structlog.get_logger()


class Erased(NamedTuple):
    """What an erasure has taken so far, by whomever it was applied."""

    visit_count: int
    event_count: int


class Eraser:
    """Applies erasures, each as often as it comes."""

    def __init__(self, store: Store, tombstones: Tombstones, letters: DeadLetters, preview: Preview) -> None:
        self._store = store
        self._preview = preview
        self._tombstones = tombstones
        self._letters = letters
        # The log and a call bring the same erasure at about the same time: the second then finds the counts complete.
        self._one_at_a_time = asyncio.Lock()

    async def erase(self, identity: str, erasure: Erasure) -> Erased:
        """Erase a person who is named. Raises RequestError when the erasure is not that person's."""
        if not self._tombstones.has_key:
            raise RequestError.failed_precondition("NO_ERASURE_KEY", "ERASURE_KEY is not set, so nobody can be erased")
        if self._tombstones.hash_of(identity) != erasure.identity_hash.hex():
            raise RequestError.invalid("erasure.identity_hash", "must be that of identity_id")
        return await self._apply(erasure, {"identities": identity}, range(self._letters.partitions))

    async def remember(self, erasure: Erasure) -> None:
        """Remember whom an erasure found in the log is about. To be called before `apply`.

        Raises RuntimeError without a key: then it cannot be known who that is, and it must not be passed over.
        """
        if not self._tombstones.has_key:
            _log.error("an erasure waits in the log until ERASURE_KEY is set, and so does what follows it")
            raise RuntimeError("ERASURE_KEY is not set")
        await self._put_tombstone(erasure)

    async def apply(self, number: int, erasure: Erasure) -> None:
        """Erase whom an erasure found in the log of a partition is about."""
        await self._apply(erasure, {"identity_hashes": erasure.identity_hash.hex()}, [number])

    async def _apply(self, erasure: Erasure, visits: Document, partitions: Iterable[int]) -> Erased:
        """Remember first, then look for visits: what a consumer merges in between it looks up itself."""
        hashed, until_ms = erasure.identity_hash.hex(), erasure.erase_time_ms
        async with self._one_at_a_time:
            await self._put_tombstone(erasure)
            visit_count = event_count = 0
            async for visit_id, identity in self._visits(visits, hashed, until_ms):
                is_changed, events = await erase_in_visit(self._store, self._tombstones, visit_id, identity, until_ms)
                visit_count += is_changed
                event_count += events
            for number in partitions:
                event_count += await self.erase_letters(number)
            await self._store.journal()
            sums = await self._store.count_erased(hashed, erasure.erasure_id, visit_count, event_count)
            return Erased(*sums)

    async def _put_tombstone(self, erasure: Erasure) -> None:
        hashed = erasure.identity_hash.hex()
        await self._store.put_tombstone(hashed, erasure.erase_time_ms, self._tombstones.key_check)

    async def _visits(self, where: Document, hashed: str, until_ms: int) -> AsyncIterator[tuple[str, str]]:
        """The visits whose timeline names a person, and then those where only other events still do, each with how."""
        async for document in self._store.each_visit(where):
            for identity in document["identities"]:
                if self._tombstones.hash_of(identity) == hashed:
                    yield document["_id"], identity
        for visit_id, identity in await self._store.visits_naming(hashed, order_key(until_ms + 1, "")):
            yield visit_id, identity

    async def erase_letters(self, number: int) -> int:
        """Remove the dead letters of a partition whose events would be stored as erased; return how many.

        To be called after letters were put aside, and after visits were erased: so one of the two sees the other.
        Whose an entry is that cannot be read nobody can tell: it expires.
        """
        if not self._tombstones.has_key:
            return 0
        letters = await stamped_letters(self._letters, self._preview, number)
        unfit = [batch.events[0] for _, batch, document in letters if document is None]
        forgotten = await self._tombstones.of({event.identity_id for event in unfit if event.identity_id})
        visits = await self._tombstones.visits({event.visit_id for event in unfit})
        gone = []
        for letter, batch, document in letters:
            [event] = batch.events
            visit = visits.get(event.visit_id)
            is_unfit_but_theirs = event.identity_id in forgotten or (visit is not None and visit.is_forgotten)
            if document.get("erased") if document else is_unfit_but_theirs:
                gone.append(letter)
        await self._letters.remove(gone)
        return len(gone)
