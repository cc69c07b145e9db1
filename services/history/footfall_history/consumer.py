"""Turns entries of the log into stored events: decodes, stores in batches of a good size, puts aside what cannot be."""

from collections.abc import Iterator

import structlog
from footfall.event.v1.event_pb2 import EventBatch
from footfall_servicekit.stream import Entry
from google.protobuf.message import DecodeError

from footfall_history.erasure import Eraser
from footfall_history.log import Log
from footfall_history.stamper import Stamper

# Large enough to make the cost of a command small beside that of its documents, small enough to be done in a second.
_EVENTS_A_BATCH = 1_000

_log = structlog.get_logger()


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
        batches = []
        for entry in entries:
            try:
                batches.append(EventBatch.FromString(entry.payload))
            except DecodeError:
                _log.error("put aside an entry of the log that is no EventBatch", entry=entry.id, partition=partition)
                await self._log.put_aside_entry(partition, entry, "not an EventBatch")
        for part in _parts(batches):
            if unstorable := await self._stamper.keep(part):
                reasons = sorted({item.reason for item in unstorable})
                _log.error("put aside events of the log", count=len(unstorable), partition=partition, reasons=reasons)
                await self._log.put_aside(partition, unstorable)
        for batch in batches:
            if batch.HasField("erasure"):
                await self._eraser.apply(batch.erasure)


def _parts(batches: list[EventBatch]) -> Iterator[list[EventBatch]]:
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
