"""Turns admitted events into the documents history stores, and such documents back into messages.

A document is flat and holds only what is not empty. Its stamp (`rev`, `state`, `identity_id`, `session_id`) is the one
part that ever changes, but for an erasure, which takes out whom the event names and its data.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from footfall.event.v1.event_pb2 import Event, EventContext
from footfall.history.v1.visit_pb2 import StoredEvent
from footfall_timeline import Stamp, order_key

Document = dict[str, Any]

PAGE_ENTERED: Final = "PageEntered"
PAGE_EXITED: Final = "PageExited"

NO_REVISION: Final = -1
"""The revision of a stamp that counts no more: less than every timeline's."""

TIME_DIGITS: Final = 13
"""How much of an order key is its time."""

_VISIT_ID_LENGTH: Final = 36

# What a sender says of an event. The same again is a retry, anything else under the same id a conflict. The times of
# admission are no part of it: a retry may be given another event time when the browser's clock is wrong.
_CONTENT: Final = (
    "event_name",
    "global_visit_id",
    "browser_page_id",
    "category",
    "url",
    "language_code",
    "timestamp_ms",
    "data_json",
)
_ADMITTED: Final = (
    "event_type",
    "site",
    "page_id",
    "user_agent_id",
    "transition",
    "assurance",
    "assurance_reason",
    "proven_json",
    "token_id",
)
ERASABLE: Final = ("names_identity_id", "names_hash", "data_json", "proven_json", "title")
"""What an event that has been erased no longer says, besides whose it was."""


class _Titled(msgspec.Struct):
    title: Any = None


_decode_titled = msgspec.json.Decoder(_Titled).decode


def event_document(event: Event, context: EventContext) -> Document:
    """The document of an event that is as admission leaves it, without a stamp."""
    visit_id, event_id, at_ms = event.visit_id, event.event_id, event.event_time_ms
    document: Document = {
        "_id": document_id(visit_id, event_id),
        "visit_id": visit_id,
        "event_id": event_id,
        "order_key": order_key(at_ms, event_id),
        "received_ms": context.received_time_ms,
    }
    for field in (*_CONTENT, *_ADMITTED):
        if value := getattr(event, field):
            document[field] = value
    if event.category:
        document["categories"] = [name for part in event.category.split(";") if (name := part.strip())]
    if event.identity_id:
        document["names_identity_id"] = event.identity_id
    if event.event_name == PAGE_ENTERED and (title := _title(event.data_json)):
        document["title"] = title
    if context.address:
        document["address"] = context.address
    if context.bot:
        document["bot"] = True
    return document


def document_id(visit_id: str, event_id: str) -> str:
    """The unique key of an event. It begins with the visit, so that a sharded collection can keep a visit together."""
    return visit_id + event_id


def visit_of(document_id: str) -> str:
    """The visit in the unique key of an event."""
    return document_id[:_VISIT_ID_LENGTH]


def _title(data_json: bytes) -> str:
    try:
        title = _decode_titled(data_json).title
    except msgspec.DecodeError:
        return ""
    return title if isinstance(title, str) else ""


def has_same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents of one event id are one event, sent twice. What was erased can no longer differ."""
    fields = [name for name in _CONTENT if name != "data_json" or not (one.get("erased") or other.get("erased"))]
    return all(one.get(name) == other.get(name) for name in fields)


def erased(document: Document) -> Document:
    """An event without what erasing takes from it, its stamp aside."""
    return {name: value for name, value in document.items() if name not in ERASABLE} | {"erased": True}


def stamp_fields(stamp: Stamp, rev: int, *, is_erased: bool) -> tuple[Document, list[str]]:
    """The fields a stamped document has, and the names of those it must not have.

    `is_erased`: the event belongs to somebody who has been forgotten, so it loses its data as well.
    """
    fields: Document = {"rev": rev, "state": int(stamp.state)}
    if stamp.identity:
        fields["identity_id"] = stamp.identity
    if stamp.session_id:
        fields["session_id"] = stamp.session_id
    if is_erased:
        fields["erased"] = True
    without = [name for name in ("identity_id", "session_id") if name not in fields]
    return fields, [*without, *ERASABLE] if is_erased else without


def event_time_ms(key: str) -> int:
    """The event time in an order key."""
    return int(key[:TIME_DIGITS])


def stored_event(document: Mapping[str, Any]) -> StoredEvent:
    """The message of a stored document."""
    stored = StoredEvent(
        address=document.get("address", ""),
        bot=document.get("bot", False),
        conflict=document.get("conflict", False),
    )
    stored.received_time.FromMilliseconds(document["received_ms"])
    stamp = stored.stamp
    stamp.state = document["state"]
    stamp.identity_id = document.get("identity_id", "")
    stamp.session_id = document.get("session_id", "")
    stamp.revision = document["rev"]
    event = stored.event
    event.visit_id = document["visit_id"]
    event.event_id = document["event_id"]
    event.event_time_ms = event_time_ms(document["order_key"])
    event.identity_id = document.get("names_identity_id", "")
    for field in (*_CONTENT, *_ADMITTED):
        if field in document:
            setattr(event, field, document[field])
    return stored
