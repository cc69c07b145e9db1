"""The documents that events would be stored as, by what is known of their visits now."""

from collections.abc import Sequence

from footfall.event.v1.event_pb2 import EventBatch

from footfall_history.storage.arrivals import Unstorable, group_by_visit
from footfall_history.storage.documents import Document
from footfall_history.storage.tombstones import Tombstones


class Preview:
    """Attributes events without storing them."""

    def __init__(self, tombstones: Tombstones, *, max_transitions: int) -> None:
        self._tombstones = tombstones
        self._max_transitions = max_transitions

    async def documents(self, batches: Sequence[EventBatch]) -> tuple[dict[str, Document], list[Unstorable]]:
        """Attributed documents by their id, and the events that cannot be stored. Raises TRANSIENT_STORE_ERRORS."""
        unstorable: list[Unstorable] = []
        arrivals = group_by_visit(batches, unstorable)
        known = await self._tombstones.read_visits(arrivals)
        named = {event.identity_id for batch in batches for event in batch.events if event.identity_id}
        erase_times = await self._tombstones.erase_times(named)
        documents = {}
        for visit_id, arrival in arrivals.items():
            stored = known.get(visit_id)
            visit = self._tombstones.merged(visit_id, stored, arrival, erase_times, self._max_transitions)
            for key, document in arrival.events.items():
                documents[key] = visit.attributed(document, erase_times)
        return documents, unstorable
