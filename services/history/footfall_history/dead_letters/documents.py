"""The documents that dead letters would be stored as, for erasure and export."""

from footfall.event.v1.event_pb2 import EventBatch

from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue
from footfall_history.storage import Document, Preview, document_id


async def dead_letter_documents(
    dead_letters: DeadLetterQueue, preview: Preview, number: int
) -> list[tuple[DeadLetter, EventBatch, Document | None]]:
    """The dead letters of a partition that hold an event, each with its batch and its attributed document.

    The document is None when the event's ids or time are malformed.
    Raises TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS.
    """
    readable = [(letter, batch) async for letter in dead_letters.in_partition(number) if (batch := letter.batch)]
    attributed, malformed = await preview.documents([batch for _, batch in readable])
    # An event with a malformed transition still belongs to the identity of its part of the visit.
    others, _ = await preview.documents([_without_transition(one.batch) for one in malformed])
    documents = attributed | others
    return [
        (letter, batch, documents.get(document_id(batch.events[0].visit_id, batch.events[0].event_id)))
        for letter, batch in readable
    ]


def _without_transition(batch: EventBatch) -> EventBatch:
    batch.events[0].ClearField("transition")
    return batch
