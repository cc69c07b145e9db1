"""Erasure of an identity from all stores of this service.

The order: the tombstone in MongoDB, which survives a loss of Redis; the erasure record in the log of every partition,
for history and for replays; then the data of identity itself. After an interruption, the caller asks again, or a
consumer of the log completes the erasure.
"""

import asyncio
from functools import partial
from typing import Final
from uuid import uuid4

import structlog
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall.identity.v1.identity_service_pb2 import EraseIdentityResponse
from footfall_eventlog.erasure_keys import OTHER_KEY, ErasureKeys
from footfall_eventlog.match_keys import PHONE_KEY_PREFIX
from footfall_servicekit.background import RefusalError
from footfall_servicekit.errors import RequestError

from footfall_identity.identity_index import IdentityIndex
from footfall_identity.identity_record import ORDER_KEY_TIME_DIGITS, IdentityRecord, erased
from footfall_identity.link_store import LinkStore, Tombstone
from footfall_identity.linker import Linker
from footfall_identity.partitions import Partitions
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import now_ms

_RETRY_S: Final = 1.0

_log = structlog.get_logger()


class Eraser:
    """Erases identities. Its methods raise RequestError (UNAVAILABLE) while a store is unavailable."""

    def __init__(
        self,
        partitions: Partitions,
        index: IdentityIndex,
        links: LinkStore,
        linker: Linker,
        *,
        secret: str,
        ack_replicas: int,
    ) -> None:
        self._partitions = partitions
        self._index = index
        self._links = links
        self._linker = linker
        self._keys = ErasureKeys(secret)
        self._ack_replicas = ack_replicas

    async def erase(self, identity_id: str, actor: str) -> EraseIdentityResponse:
        """Erase an identity: all events until now that name it, and all known ones. The caller adds `log_clean_time`.

        The other names of the person are erased before, and then the decisions that tell the names: after an
        interruption, the repeated call still finds them. Raises RequestError (FAILED_PRECONDITION) without an erasure
        key.
        """
        if not self._keys:
            raise RequestError.failed_precondition(
                "NO_ERASURE_KEY", "ERASURE_KEY is not set, so no identity can be erased"
            )
        names = (await self._links.renames.names([identity_id])).together(identity_id)
        others = [(name, await self._erase(name, actor)) for name in names if name != identity_id]
        response = await self._erase(identity_id, actor)
        await self._links.renames.remove(names)
        await self._links.wait_for_journal()
        for name, erased_name in others:
            response.other_names.add(identity_id=name, erasure=erased_name.erasure)
            response.visit_count += erased_name.visit_count
            response.link_count += erased_name.link_count
            response.identity_erased |= erased_name.identity_erased
        return response

    async def _erase(self, identity_id: str, actor: str) -> EraseIdentityResponse:
        """Erase one name."""
        hashed = self._keys.hash(identity_id)
        visits = await self._index.visits_naming(hashed)
        known = (await self._links.get([identity_id])).get(identity_id) or IdentityRecord(identity_id=identity_id)
        erasure = Erasure(
            identity_hash=bytes.fromhex(hashed),
            erase_time_ms=max([now_ms(), *_times(identity_id, visits, known)]),
            erasure_id=str(uuid4()),
            related_hashes=await self._related_hashes(known.contact_id),
        )
        await self._add_tombstone(erasure, actor)
        await self._partitions.append_to_logs(EventBatch(erasure=erasure).SerializeToString(), self._ack_replicas)
        for number in self._partitions.numbers:
            await self._erase_visits(number, erasure)
        await self._erase_identities([identity_id], erasure)
        # Counted before, because the consumers of the log erase concurrently.
        return EraseIdentityResponse(
            erasure=erasure,
            visit_count=len(visits),
            identity_erased=known.first_ms is not None,
            link_count=len(known.decisions),
        )

    async def _related_hashes(self, contact_id: str) -> list[bytes]:
        """Return the keyed hashes of a contact and of its telephone numbers: interactions may name these alone.

        Also of the contacts that are merged with it.
        """
        if not contact_id:
            return []
        merged = await self._links.merged_contacts([contact_id])
        if not merged.exists(contact_id):
            return []
        contact_ids, keys = merged.together(contact_id), merged.keys()[merged.resolved(contact_id)]
        phones = sorted(key.removeprefix(PHONE_KEY_PREFIX) for key in keys if key.startswith(PHONE_KEY_PREFIX))
        related = [*(("contact_id", one) for one in contact_ids), *(("phone", phone) for phone in phones)]
        return [bytes.fromhex(self._keys.subject_hash(kind, value)) for kind, value in related]

    async def apply(self, number: int, erasure: Erasure) -> None:
        """Apply an erasure from a partition's log. Idempotent.

        Raises RuntimeError without an erasure key: the identity cannot be recognised, and the erasure must not be
        skipped.
        """
        if not self._keys:
            _log.error("the log holds an erasure and is not read any further until ERASURE_KEY is set")
            raise RuntimeError("ERASURE_KEY is not set")
        await self._add_tombstone(erasure, actor="")
        await self._erase_visits(number, erasure)
        await self._erase_identities(await self._links.find_by_hash(erasure.identity_hash.hex()), erasure)

    async def _add_tombstone(self, erasure: Erasure, actor: str) -> None:
        hashed = erasure.identity_hash.hex()
        tombstone = Tombstone(
            erasure_id=erasure.erasure_id,
            hash=self._keys.mark(hashed),
            erase_time_ms=erasure.erase_time_ms,
            actor=actor,
            key_check=self._keys.check,
            sealed=self._keys.sealed(hashed),
        )
        await self._links.put_tombstone(tombstone)

    async def _erase_visits(self, number: int, erasure: Erasure) -> None:
        await self._index.erase(number, erasure.identity_hash.hex(), erasure.erase_time_ms)

    async def _erase_identities(self, identity_ids: list[str], erasure: Erasure) -> None:
        change = partial(erased, erase_time_ms=erasure.erase_time_ms)
        changed = await self._links.change(dict.fromkeys(identity_ids, change))
        # The record goes when it is counted that the identity no longer gives its values.
        await self._linker.relink(identity for identity, record in changed.items() if record.is_due)
        await self._links.wait_for_journal()

    async def restore(self) -> None:
        """Wait until the stores answer, then make sure that Redis has every tombstone of MongoDB.

        Raises RefusalError when tombstones were made with another ERASURE_KEY: erased identities would not be
        recognised.
        """
        while True:
            try:
                tombstones = await self._links.tombstones()
                check_key(self._keys, tombstones)
                await self._restore(tombstones)
            except RequestError:
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _restore(self, tombstones: list[Tombstone]) -> None:
        hashes = {tombstone.hash for tombstone in tombstones}
        counts = [await self._index.count_tombstones(number) for number in self._partitions.numbers]
        if min(counts) >= len(hashes):
            return
        for tombstone in tombstones:
            hashed = self._keys.opened(tombstone.hash, tombstone.sealed)
            erasure = Erasure(identity_hash=bytes.fromhex(hashed), erase_time_ms=tombstone.erase_time_ms)
            for number in self._partitions.numbers:
                await self._erase_visits(number, erasure)
            await self._erase_identities(await self._links.find_by_hash(hashed), erasure)


def check_key(keys: ErasureKeys, tombstones: list[Tombstone]) -> None:
    """Raise RefusalError if a tombstone was made with another erasure key."""
    if any(tombstone.key_check != keys.check for tombstone in tombstones):
        raise RefusalError(OTHER_KEY)


def _times(identity_id: str, visits: list[VisitRecord], record: IdentityRecord) -> list[int]:
    """Return the times of known events that name the identity. They may be later than now, by a clock that is fast."""
    newest = [int(record.newest.at[:ORDER_KEY_TIME_DIGITS])] if record.newest else []
    return newest + [t.event_time_ms for visit in visits for t in visit.timeline if t.identity == identity_id]
