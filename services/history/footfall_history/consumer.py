"""Turns entries of the log into stored events: decodes, stores in batches of a good size, puts aside what cannot be."""

from collections.abc import Iterable, Iterator

from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall_servicekit.stream import Entry
from footfall_timeline import normalize_uuid
from google.protobuf.message import DecodeError

from footfall_history import metrics
from footfall_history.dead_letters import DeadLetters
from footfall_history.erasure import Eraser
from footfall_history.stamper import Stamper

# Large enough to make the cost of a command small beside that of its documents, small enough to be done in a second.
_EVENTS_A_BATCH = 1_000
_HASH_BYTES = 32


class LogConsumer:
    """Handles entries of the log. Any entry may come again, in any order, to any number of consumers."""

    def __init__(self, letters: DeadLetters, stamper: Stamper, eraser: Eraser) -> None:
        self._letters = letters
        self._stamper = stamper
        self._eraser = eraser

    async def handle(self, partition: int, entries: list[Entry]) -> None:
        """Return when every event of these entries is on disk, stored or put aside.

        Raises what the stores raise when they do not answer, and DeadLettersFullError.
        """
        decoded = []
        for entry in entries:
            try:
                decoded.append((entry, EventBatch.FromString(entry.payload)))
            except DecodeError:
                await self._letters.put_entry(partition, entry, "not an EventBatch")
        stored_count = unstorable_count = dropped_count = 0
        for part in _parts(batch for _, batch in decoded):
            kept = await self._stamper.keep(part)
            stored_count += kept.stored_count
            if kept.unstorable:
                put = await self._letters.put(partition, kept.unstorable)
                unstorable_count += put.new_count
                dropped_count += put.dropped_count
                await self._eraser.erase_letters(partition)  # whoever was erased meanwhile may not have seen them
        for entry, batch in decoded:
            if batch.HasField("erasure"):
                await self._erase(partition, entry, batch.erasure)
        count = sum(len(batch.events) for _, batch in decoded)
        metrics.STORED.inc(stored_count)
        metrics.UNSTORABLE.inc(unstorable_count)
        metrics.DROPPED.inc(dropped_count)
        metrics.DUPLICATE.inc(count - stored_count - unstorable_count - dropped_count)

    async def _erase(self, partition: int, entry: Entry, erasure: Erasure) -> None:
        if len(erasure.identity_hash) == _HASH_BYTES and _is_uuid(erasure.erasure_id):
            await self._eraser.apply(partition, erasure)
        else:
            await self._letters.put_entry(partition, entry, "an erasure without a hash or an id")


def _is_uuid(text: str) -> bool:
    try:
        return normalize_uuid(text) == text
    except ValueError:
        return False


def _parts(batches: Iterable[EventBatch]) -> Iterator[list[EventBatch]]:
    """The batches in order, in lists of about _EVENTS_A_BATCH events."""
    part: list[EventBatch] = []
    count = 0
    for batch in batches:
        part.append(batch)
        count += len(batch.events)
        if count >= _EVENTS_A_BATCH:
            yield part
            part, count = [], 0
    if part:
        yield part
