"""Stores updates of interactions from the event log, each merged with what is known of its interaction."""

from footfall.event.v1.interaction_pb2 import InteractionUpdate

from footfall_history import metrics
from footfall_history.storage import InteractionRecord, Store, Tombstones


class InteractionWriter:
    """Stores interactions. An update may come again, in any order, to any number of processes."""

    def __init__(self, store: Store, tombstones: Tombstones) -> None:
        self._store = store
        self._tombstones = tombstones

    async def write(self, update: InteractionUpdate) -> None:
        """Store a valid update. Call `Store.journal` afterwards. Raises TRANSIENT_STORE_ERRORS.

        The interaction of an erased person is removed again. The erasure writes its tombstone before it removes
        interactions: either it finds this one, or the tombstone is found here.
        """
        record = await self._merge(InteractionRecord.of(update))
        if await self._tombstones.is_interaction_erased(record):
            await self._store.remove_interactions({"_id": record.key, "rev": record.rev})
        metrics.INTERACTIONS.inc()

    async def _merge(self, update: InteractionRecord) -> InteractionRecord:
        """Merge an update into the stored interaction, repeating while another process changes it first."""
        while True:
            document = await self._store.read_interaction(update.key)
            known = InteractionRecord.from_document(document) if document else None
            merged = known.merged(update) if known else update
            if merged is known:
                return merged
            kind, value, *_ = merged.about
            if await self._store.write_interaction(merged.document(self._tombstones.subject_hash(kind, value))):
                return merged
