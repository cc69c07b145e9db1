"""Turns identities into keyed hashes, and those into whether and up to when they have been erased."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from footfall_servicekit.background import RefusalError
from footfall_timeline import identity_hash

from footfall_history.storage.documents import Document
from footfall_history.storage.store import Store
from footfall_history.storage.visit import Visit

EraseTimes = Mapping[str, int]
"""By erased identity, up to which moment what names it is to be forgotten, in milliseconds since the epoch."""


class Tombstones:
    """Who has been erased, and what is forgotten with them. Without a key nobody has, and nobody can be."""

    def __init__(self, store: Store, erasure_key: str, *, erases_anonymous: bool = True) -> None:
        """`erases_anonymous`: what a visit did before it named anybody goes with whom it then names first."""
        self._store = store
        self._erases_anonymous = erases_anonymous
        self.has_key = bool(erasure_key)
        self.key_check = identity_hash(erasure_key, "").hex()[:16] if erasure_key else ""
        # The identities of live visitors come again with each of their events' transitions.
        self._hash = lru_cache(maxsize=16_384)(lambda identity: identity_hash(erasure_key, identity).hex())

    async def visits(self, visit_ids: Iterable[str]) -> dict[str, Visit]:
        """Those of these visits that are stored, as they are to be stamped. Raises `storage.Unavailable`."""
        return {
            document["_id"]: Visit.from_document(document, erases_anonymous=self._erases_anonymous)
            for document in await self._store.read_visits(visit_ids)
        }

    def begun(self, visit_id: str, start: Document, received_ms: int) -> Visit:
        """A visit not yet stored, as it is to be stamped."""
        return Visit.begun(visit_id, start, received_ms, erases_anonymous=self._erases_anonymous)

    def fields(self, visit: Visit) -> Document:
        """What follows from a visit's timeline, with the hashes by which an erasure, which names nobody, finds it."""
        fields = visit.timeline_fields()
        if self.has_key:
            fields["identity_hashes"] = sorted(map(self._hash, visit.identities))
        return fields

    def hashed(self, event: Document) -> Document:
        """An event with the hash of whom it names, by which an erasure finds it, whatever became of its timeline."""
        name = event.get("names_identity_id")
        return event | {"names_hash": self._hash(name)} if name and self.has_key else event

    def hash_of(self, identity: str) -> str:
        """What stands for an identity here and in the log, in hexadecimal."""
        return self._hash(identity)

    async def of(self, identities: Iterable[str]) -> EraseTimes:
        """Those of these identities that have been erased. Raises `storage.Unavailable`."""
        by_hash = {self._hash(identity): identity for identity in identities} if self.has_key else {}
        found = await self._store.tombstones(by_hash) if by_hash else {}
        return {by_hash[hashed]: erase_time_ms for hashed, erase_time_ms in found.items()}

    async def check(self) -> None:
        """Wait until MongoDB answers, then make sure that everybody erased here was erased under this key.

        Raises:
            RefusalError: somebody was not, so events that name them would not be recognised.

        """
        if await self._store.has_tombstones_of_other_keys(self.key_check):
            raise RefusalError("ERASURE_KEY: people were erased here under another one, and would come back")
