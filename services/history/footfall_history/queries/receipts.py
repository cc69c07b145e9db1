"""Receipts: what became of an accepted event."""

from collections.abc import Sequence

from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1.visit_pb2 import Receipt

from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.queries.reader import Reader
from footfall_history.queries.resources import dead_letter_message, timestamp


class Receipts:
    """Finds events and dead letters. Raises TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS."""

    def __init__(self, reader: Reader, dead_letters: DeadLetterQueue) -> None:
        self._reader = reader
        self._dead_letters = dead_letters

    async def get(self, visit_ids: Sequence[str], event_id: str, sites: Sequence[str]) -> Receipt | None:
        """The receipt of an event of one of these visits; None if it is neither stored nor a dead letter.

        `visit_ids`: the stored ids that the requested visit may have, the requested one first. Dead letters are read
        first, so that an event that is replayed and stored in between is found.
        """
        letters = [await self._dead_letters.find_event(visit_id, event_id) for visit_id in visit_ids]
        stored = await self._reader.event(event_id, visit_ids, sites)
        letter = next((one for one in letters if one and one.batch and _is_of(one.batch, sites)), None)
        if stored:
            return Receipt(
                visit_id=stored.event.visit_id,
                event_id=event_id,
                site=stored.event.site,
                received_time=stored.received_time,
                stamp=stored.stamp,
            )
        if letter and letter.batch:
            [event], [context] = letter.batch.events, letter.batch.contexts
            return Receipt(
                visit_id=event.browser_visit_id or event.visit_id,
                event_id=event_id,
                site=event.site,
                received_time=timestamp(context.received_time_ms),
                dead_letter=dead_letter_message(letter),
            )
        return None


def _is_of(batch: EventBatch, sites: Sequence[str]) -> bool:
    return not sites or batch.events[0].site in sites
