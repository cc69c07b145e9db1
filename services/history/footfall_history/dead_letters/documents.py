"""Turns dead letters into the documents they would be stored as."""

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext

from footfall_history.dead_letters.queue import DeadLetters, Letter
from footfall_history.storage import Document, Preview, document_id


async def stamped_letters(
    letters: DeadLetters, preview: Preview, number: int
) -> list[tuple[Letter, EventBatch, Document | None]]:
    """The dead letters of a partition that hold an event, each with the document it would be stored as.

    None where its ids or its time are unfit. Raises `storage.Unavailable` and `log.Unavailable`.
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
