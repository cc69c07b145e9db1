"""The event log: its streams in Redis, the consumer groups that read it, and what an entry holds."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final, TypeAlias

from footfall.event.v1.event_pb2 import EventBatch
from footfall_servicekit import tracing
from google.protobuf.message import DecodeError

from footfall_eventlog.partitions import hash_tag
from footfall_eventlog.stream import Entry

LIVE_GROUP: Final = "identity-live"
"""Identity's readers for the live state in Redis."""
RECORDS_GROUP: Final = "identity"
"""Identity's readers for records of identities in MongoDB."""
HISTORY_GROUP: Final = "history"
GROUPS: Final = (RECORDS_GROUP, LIVE_GROUP, HISTORY_GROUP)
"""The consumer groups. An entry is removed only when all of them have acknowledged it."""
RELAY_GROUP: Final = "relay"
"""The position up to which the relay has delivered. It exists only while outlets are configured."""

STREAM_PREFIX: Final = "log:"

EntriesHandler: TypeAlias = Callable[[int, list[Entry]], Awaitable[None]]
"""Handles entries of a partition, by its number."""


def stream_key(partition: int) -> str:
    """The stream of a partition."""
    return f"{STREAM_PREFIX}{hash_tag(partition)}"


def decode(entry: Entry) -> EventBatch | None:
    """The batch of an entry; None when the entry is not an EventBatch."""
    try:
        return EventBatch.FromString(entry.payload)
    except DecodeError:
        return None


def traced(group: str, handle: EntriesHandler) -> EntriesHandler:
    """The handler of a group, in a span that belongs to the traces of the requests in the entries."""
    if not tracing.is_on():
        return handle

    async def handle_traced(number: int, entries: list[Entry]) -> None:
        with tracing.work(f"read by {group}", _contexts(entries), "consumer", partition=number, entries=len(entries)):
            await handle(number, entries)

    return handle_traced


def _contexts(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        for context in (decode(entry) or EventBatch()).contexts:
            yield context.traceparent
