"""Turns entries of the log into stored events: decodes, stores in batches of a good size, puts aside what cannot be."""

from collections.abc import Iterable, Iterator

from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall_servicekit.stream import Entry
from footfall_timeline import normalize_uuid
from google.protobuf.message import DecodeError

from footfall_history.erasure import Eraser
from footfall_history.log import Log
from footfall_history.stamper import Stamper

# Large enough to make the cost of a command small beside that of its documents, small enough to be done in a second.
_EVENTS_A_BATCH = 1_000
_HASH_BYTES = 32


class LogConsumer:
    """Handles entries of the log. Any entry may come again, in any order, to any number of consumers."""

    def __init__(self, log: Log, stamper: Stamper, eraser: Eraser) -> None:
        self._log = log
        self._stamper = stamper
        self._eraser = eraser

    async def handle(self, partition: int, entries: list[Entry]) -> None:
        """Return when every event of these entries is on disk, stored or put aside.

        Raises what the stores raise when they do not answer.
        """
        decoded = []
        for entry in entries:
            try:
                decoded.append((entry, EventBatch.FromString(entry.payload)))
            except DecodeError:
                await self._log.put_aside_entry(partition, entry, "not an EventBatch")
        for part in _parts(batch for _, batch in decoded):
            if unstorable := await self._stamper.keep(part):
                await self._log.put_aside(partition, unstorable)
        for entry, batch in decoded:
            if batch.HasField("erasure"):
                await self._erase(partition, entry, batch.erasure)

    async def _erase(self, partition: int, entry: Entry, erasure: Erasure) -> None:
        if len(erasure.identity_hash) == _HASH_BYTES and _is_uuid(erasure.erasure_id):
            await self._eraser.apply(erasure)
        else:
            await self._log.put_aside_entry(partition, entry, "an erasure without a hash or an id")


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
