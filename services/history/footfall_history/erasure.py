"""Turns erasures, from the log and from calls, into events and visits that no longer know the person."""

import asyncio
from typing import NamedTuple

import structlog
from footfall.event.v1.event_pb2 import Erasure
from footfall_servicekit.errors import RequestError

from footfall_history.documents import Document
from footfall_history.restamping import erase_in_visit
from footfall_history.store import Store
from footfall_history.tombstones import Tombstones

_log = structlog.get_logger()


class Erased(NamedTuple):
    """What an erasure has taken so far, by whomever it was applied."""

    visit_count: int
    event_count: int


class Eraser:
    """Applies erasures, each as often as it comes."""

    def __init__(self, store: Store, tombstones: Tombstones) -> None:
        self._store = store
        self._tombstones = tombstones
        # The log and a call bring the same erasure at about the same time: the second then finds the counts complete.
        self._one_at_a_time = asyncio.Lock()

    async def erase(self, identity: str, erasure: Erasure) -> Erased:
        """Erase a person who is named. Raises RequestError when the erasure is not that person's."""
        if not self._tombstones.has_key:
            raise RequestError.failed_precondition("NO_ERASURE_KEY", "ERASURE_KEY is not set, so nobody can be erased")
        if self._tombstones.hash_of(identity) != erasure.identity_hash.hex():
            raise RequestError.invalid("erasure.identity_hash", "must be that of identity_id")
        return await self._apply(erasure, {"identities": identity})

    async def apply(self, erasure: Erasure) -> None:
        """Erase whom an erasure found in the log is about.

        Raises RuntimeError without a key: then it cannot be known who that is, and it must not be passed over.
        """
        if not self._tombstones.has_key:
            _log.error("an erasure waits in the log until ERASURE_KEY is set, and so does what follows it")
            raise RuntimeError("ERASURE_KEY is not set")
        await self._apply(erasure, {"identity_hashes": erasure.identity_hash.hex()})

    async def _apply(self, erasure: Erasure, visits: Document) -> Erased:
        """Remember first, then look for visits: what a consumer merges in between it looks up itself."""
        hashed, until_ms = erasure.identity_hash.hex(), erasure.erase_time_ms
        async with self._one_at_a_time:
            await self._store.put_tombstone(hashed, until_ms, self._tombstones.key_check)
            visit_count = event_count = 0
            async for document in self._store.each_visit(visits):
                for identity in document["identities"]:
                    if self._tombstones.hash_of(identity) == hashed:
                        is_changed, events = await erase_in_visit(
                            self._store, self._tombstones.fields, document["_id"], identity, until_ms
                        )
                        visit_count += is_changed
                        event_count += events
            await self._store.journal()
            sums = await self._store.count_erased(hashed, erasure.erasure_id, visit_count, event_count)
            return Erased(*sums)
