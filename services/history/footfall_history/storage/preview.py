"""Turns batches into the documents they would be stored as, by what is known of their visits now."""

from collections.abc import Sequence

from footfall.event.v1.event_pb2 import EventBatch

from footfall_history.storage.arrivals import Unstorable, by_visit
from footfall_history.storage.documents import Document
from footfall_history.storage.tombstones import Tombstones


class Preview:
    """How events would be stored."""

    def __init__(self, tombstones: Tombstones, *, transitions_kept: int) -> None:
        self._tombstones = tombstones
        self._transitions_kept = transitions_kept

    async def of(self, batches: Sequence[EventBatch]) -> tuple[dict[str, Document], list[Unstorable]]:
        """Stamped documents by their id, and the events that are unfit. Raises `storage.Unavailable`."""
        unstorable: list[Unstorable] = []
        arrivals = by_visit(batches, unstorable)
        known = await self._tombstones.visits(arrivals)
        named = {event.identity_id for batch in batches for event in batch.events if event.identity_id}
        forgotten = await self._tombstones.of(named)
        stamped = {}
        for visit_id, arrival in arrivals.items():
            start = arrival.start | arrival.origin
            visit = known.get(visit_id) or self._tombstones.begun(visit_id, start, arrival.received_ms)
            visit = visit.merged(arrival.transitions, self._transitions_kept).with_forgotten(forgotten)
            for key, document in arrival.events.items():
                stamped[key] = visit.stamped(document, forgotten)
        return stamped, unstorable
