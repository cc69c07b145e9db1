"""Receipts: what became of an accepted event."""

from collections.abc import Sequence

from footfall.history.v1.visit_pb2 import Receipt

from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.queries.reader import Reader
from footfall_history.queries.resources import unstored_event


async def receipt(
    reader: Reader, dead_letters: DeadLetterQueue, visit_ids: Sequence[str], event_id: str, sites: Sequence[str]
) -> Receipt | None:
    """The receipt of an event of one of these visits; None if it is neither stored nor a dead letter.

    `visit_ids`: the stored ids that the requested visit may have, the requested one first. Dead letters are read
    first, so that an event that is replayed and stored in between is found.
    Raises TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS.
    """
    letters = [await dead_letters.find_event(visit_id, event_id) for visit_id in visit_ids]
    stored = await reader.event(event_id, visit_ids, sites)
    unstored = [unstored_event(letter, batch) for letter in letters if letter and (batch := letter.batch)]
    dead = next((one for one in unstored if not sites or one.event.event.site in sites), None)
    found = stored or (dead and dead.event)
    if not found:
        return None
    return Receipt(
        visit_id=found.event.visit_id,
        event_id=event_id,
        site=found.event.site,
        received_time=found.received_time,
        stamp=stored.stamp if stored else None,
        dead_letter=dead.dead_letter if dead and not stored else None,
    )
