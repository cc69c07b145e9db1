"""Tombstones of erased identities, and visits as they read with these erasures applied."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

from footfall_eventlog.erasure_keys import OTHER_KEY, ErasureKeys
from footfall_servicekit.background import RefusalError

from footfall_history.storage.arrivals import Arrival
from footfall_history.storage.documents import Document
from footfall_history.storage.interactions import InteractionRecord
from footfall_history.storage.store import Store
from footfall_history.storage.visit import Visit

EraseTimes = Mapping[str, int]
"""Erased identities, each with the time up to which it is erased, in milliseconds since the epoch."""


class Tombstones:
    """Which identities are erased, stored as keyed hashes. Without a key none is, and none can be."""

    def __init__(self, store: Store, erasure_key: str, *, erases_anonymous: bool = True) -> None:
        """`erases_anonymous`: erase with an identity also what the visit did before it named this identity first."""
        self._store = store
        self.erases_anonymous = erases_anonymous
        self._keys = ErasureKeys(erasure_key)
        self.has_key = bool(erasure_key)
        self.key_check = self._keys.check
        # Each transition of a live visitor names the same identity.
        self.hash_of = lru_cache(maxsize=16_384)(self._keys.hash)
        """The keyed hash of an identity in hexadecimal, as in visits and events, and in the event log."""

    async def read_visits(
        self, visit_ids: Iterable[str], known: Mapping[str, Visit] = MappingProxyType({})
    ) -> dict[str, Visit]:
        """Those of these visits that are stored. Raises TRANSIENT_STORE_ERRORS.

        A visit that is stored as `known` is that object, with what was computed from its timeline.
        """
        visits = {}
        for document in await self._store.read_visits(visit_ids):
            visit = known.get(document["_id"])
            if not (visit and visit.is_as_stored(document)):
                visit = Visit.from_document(document, erases_anonymous=self.erases_anonymous)
            visits[visit.visit_id] = visit
        return visits

    async def changed_visits(self, visit_ids: Iterable[str]) -> dict[str, Visit]:
        """Those of these visits that are no longer of revision 0. Raises TRANSIENT_STORE_ERRORS."""
        return {
            document["_id"]: Visit.from_document(document, erases_anonymous=self.erases_anonymous)
            for document in await self._store.changed_visits(visit_ids)
        }

    def merged(
        self, visit_id: str, known: Visit | None, arrival: Arrival, erase_times: EraseTimes, limit: int
    ) -> Visit:
        """A known or a new visit with an arrival merged, up to `limit` transitions, and with identities erased."""
        if known is None:
            start = arrival.start | arrival.origin
            known = Visit.new(
                visit_id,
                start,
                arrival.received_ms,
                arrival.marks,
                erases_anonymous=self.erases_anonymous,
                is_staff=arrival.is_staff,
            )
        return known.merged(arrival.transitions, limit).with_erasures(erase_times)

    def timeline_fields(self, visit: Visit) -> Document:
        """The fields that follow from a visit's timeline, with the hashes by which an erasure finds the visit."""
        fields = visit.timeline_fields()
        if self.has_key:
            fields["identity_hashes"] = sorted(map(self.hash_of, visit.identities))
        return fields

    def with_hash(self, event: Document) -> Document:
        """An event with the hash of the identity it names, by which an erasure finds it even if its timeline does not.

        That happens when a visit has more transitions than its timeline keeps.
        """
        name = event.get("names_identity_id")
        return event | {"names_hash": self.hash_of(name)} if name and self.has_key else event

    async def erase_times(self, identities: Iterable[str]) -> EraseTimes:
        """Those of these identities that are erased. Raises TRANSIENT_STORE_ERRORS."""
        by_mark = {self._keys.mark(self.hash_of(each)): each for each in identities} if self.has_key else {}
        found = await self._store.tombstones(by_mark) if by_mark else {}
        return {by_mark[mark]: erase_time_ms for mark, erase_time_ms in found.items()}

    async def put(self, hashed: str, erase_time_ms: int) -> None:
        """Store the tombstone of a hash. It is on disk when this returns. Raises TRANSIENT_STORE_ERRORS."""
        sealed = self._keys.sealed(hashed)
        await self._store.put_tombstone(self._keys.mark(hashed), erase_time_ms, self.key_check, sealed)

    async def count_erased(self, hashed: str, erasure_id: str, counted: Mapping[str, int]) -> dict[str, int]:
        """Add to the counts of an erasure, and return their sums, by name. Raises TRANSIENT_STORE_ERRORS."""
        return await self._store.count_erased(self._keys.mark(hashed), erasure_id, counted)

    def subject_hash(self, kind: str, value: str) -> str:
        """The keyed hash of the subject of an interaction; empty for a visit, and without a key."""
        return self._keys.subject_hash(kind, value) if self.has_key and kind != "visit_id" else ""

    async def is_interaction_erased(self, record: InteractionRecord) -> bool:
        """Whether an interaction is about an erased person. Raises TRANSIENT_STORE_ERRORS."""
        kind, value, *_ = record.about
        if kind == "visit_id":
            visit = (await self.read_visits([value])).get(value)
            return visit is not None and visit.owner_at(record.order_key) is None
        if not (hashed := self.subject_hash(kind, value)):
            return False
        mark = self._keys.mark(hashed)
        return record.start_ms <= (await self._store.tombstones([mark])).get(mark, -1)

    async def check(self) -> None:
        """Wait until MongoDB answers, then check that all tombstones were made with this key.

        Raises:
            RefusalError: one was not. Events that name its identity would not be recognised.

        """
        if await self._store.has_tombstones_of_other_keys(self.key_check):
            raise RefusalError(OTHER_KEY)
