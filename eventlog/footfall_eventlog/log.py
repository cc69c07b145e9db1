"""The event log: its streams in Redis, the consumer groups that read it, and what an entry holds."""

from typing import Final

from footfall.event.v1.event_pb2 import EventBatch
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

STREAM_PREFIX: Final = "log:"


def stream_key(partition: int) -> str:
    """The stream of a partition."""
    return f"{STREAM_PREFIX}{hash_tag(partition)}"


def decode(entry: Entry) -> EventBatch | None:
    """The batch of an entry; None when the entry is not an EventBatch."""
    try:
        return EventBatch.FromString(entry.payload)
    except DecodeError:
        return None
