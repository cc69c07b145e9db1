"""Turns batches into the documents they would be stored as, by what is known of their visits now."""

from collections.abc import Sequence

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext

from footfall_history.dead_letters.dead_letters import DeadLetters, Letter
from footfall_history.storage.arrivals import Unstorable, by_visit
from footfall_history.storage.documents import Document, document_id
from footfall_history.storage.tombstones import Tombstones


class Preview:
    """How events would be stored."""

    def __init__(self, tombstones: Tombstones, *, transitions_kept: int) -> None:
        self._tombstones = tombstones
        self._transitions_kept = transitions_kept

    async def of(self, batches: Sequence[EventBatch]) -> tuple[dict[str, Document], list[Unstorable]]:
        """Stamped documents by their id, and the events that are unfit. Raises `store.Unavailable`."""
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


async def stamped_letters(
    letters: DeadLetters, preview: Preview, number: int
) -> list[tuple[Letter, EventBatch, Document | None]]:
    """The dead letters of a partition that hold an event, each with the document it would be stored as.

    None where its ids or its time are unfit. Raises `store.Unavailable` and `log.Unavailable`.
    """
    readable = [(letter, batch) async for letter in letters.each(number) if (batch := letter.batch)]
    stamped, unfit = await preview.of([batch for _, batch in readable])
    # What is unfit for its transition alone happened in somebody's part of the visit all the same.
    plain, _ = await preview.of([_without_transition(*one) for one in unfit])
    documents = stamped | plain
    return [
        (letter, batch, documents.get(document_id(batch.events[0].visit_id, batch.events[0].event_id)))
        for letter, batch in readable
    ]


def _without_transition(event: Event, context: EventContext, _reason: str) -> EventBatch:
    alone = EventBatch(contexts=[context], events=[event])
    alone.events[0].context_index = 0
    alone.events[0].ClearField("transition")
    return alone
