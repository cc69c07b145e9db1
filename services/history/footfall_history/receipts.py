"""Turns the ids of an event into what became of it."""

from footfall.history.v1.visit_pb2 import Receipt

from footfall_history.dead_letters import DeadLetters
from footfall_history.reader import Reader


class Receipts:
    """Where an accepted event is. Methods raise `store.Unavailable` and `log.Unavailable`."""

    def __init__(self, reader: Reader, letters: DeadLetters) -> None:
        self._reader = reader
        self._letters = letters

    async def get(self, visit_id: str, event_id: str) -> Receipt | None:
        """The receipt of an event; None when it is not known.

        Letters are looked at first: an event that is replayed meanwhile is then found stored, or not yet read.
        """
        letter = await self._letters.of_event(visit_id, event_id)
        stored = await self._reader.event(event_id, visit_id)
        receipt = Receipt(visit_id=visit_id, event_id=event_id)
        if stored:
            receipt.site = stored.event.site
            receipt.received_time.CopyFrom(stored.received_time)
            receipt.stamp.CopyFrom(stored.stamp)
        elif letter and letter.batch:
            receipt.site = letter.batch.events[0].site
            receipt.received_time.FromMilliseconds(letter.batch.contexts[0].received_time_ms)
            receipt.dead_letter.reason = letter.reason
            receipt.dead_letter.create_time.FromMilliseconds(letter.aside_ms)
        else:
            return None
        return receipt
