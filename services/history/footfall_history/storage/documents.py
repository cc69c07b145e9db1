"""Turns admitted events into the documents history stores, and such documents back into messages.

A document is flat and holds only what is not empty. Its stamp (`rev`, `state`, `identity_id`, `session_id`) is the one
part that ever changes, but for an erasure. That leaves ids and times of an event, its type and site, and of a system
event its name: what uniqueness, stamps and the walls between sites need, and nothing that tells what anybody did.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from footfall.event.v1.event_pb2 import EVENT_TYPE_SYSTEM, AssuranceReason, Event, EventContext
from footfall.history.v1.visit_pb2 import StoredEvent
from footfall_eventlog.events import PAGE_ENTERED
from footfall_timeline import Attribution, order_key

Document = dict[str, Any]


NO_REVISION: Final = -1
"""The revision of a stamp that counts no more: less than every timeline's."""

TIME_DIGITS: Final = 13
"""How much of an order key is its time."""

_VISIT_ID_LENGTH: Final = 36

# What a sender says of an event. The same again is a retry, anything else under the same id a conflict. The times of
# admission are no part of it: a retry may be given another event time when the browser's clock is wrong. Nor is the
# category: the collector may have given it by rules that have changed since.
_CONTENT: Final = (
    "event_name",
    "global_visit_id",
    "browser_page_id",
    "url",
    "language_code",
    "timestamp_ms",
    "data_json",
)
_ADMITTED: Final = (
    "category",
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
_KEPT: Final = {"event_name", "timestamp_ms", "event_type", "site"}
_ERASED: Final = (
    *(name for name in (*_CONTENT, *_ADMITTED) if name not in _KEPT),
    *("names_identity_id", "names_hash", "title", "categories", "address", "bot"),
)
IMPORTED: Final[Mapping[str, Any]] = {"imported": True}
"""The mark of an event that `footfall-import` has brought."""
DEVICE_FIELDS: Final = ("global_visit_id", "user_agent_id", "user_agent", "bot")
"""What a visit says of the browser, by its first event. Nothing any more when it was only of people who are erased."""

_REASONS: Final = {
    name.removeprefix("ASSURANCE_REASON_").lower(): number for name, number in AssuranceReason.items() if number
}


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
    if event.browser_visit_id:
        document["browser_visit_id"] = event.browser_visit_id
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
    if one.get("erased") or other.get("erased"):
        return True
    return all(one.get(name) == other.get(name) for name in _CONTENT)


def is_system(document: Mapping[str, Any]) -> bool:
    """Whether an event has one of the six names that every site's events have."""
    return document.get("event_type") == EVENT_TYPE_SYSTEM


def erased(document: Document) -> Document:
    """An event without what erasing takes from it, its stamp aside."""
    gone = erasable(of_system=is_system(document))
    return {name: value for name, value in document.items() if name not in gone} | {"erased": True}


def erasable(*, of_system: bool) -> tuple[str, ...]:
    """The fields that erasing takes from events of the system, or from the sites' own.

    A site's own name of an event may tell what somebody did.
    """
    return _ERASED if of_system else (*_ERASED, "event_name")


def stamp_fields(stamp: Attribution, rev: int) -> tuple[Document, list[str]]:
    """The fields a stamped document has, and the names of those it must not have."""
    fields: Document = {"rev": rev, "state": int(stamp.state)}
    if stamp.identity:
        fields["identity_id"] = stamp.identity
    if stamp.session_id:
        fields["session_id"] = stamp.session_id
    return fields, [name for name in ("identity_id", "session_id") if name not in fields]


def event_time_ms(key: str) -> int:
    """The event time in an order key."""
    return int(key[:TIME_DIGITS])


def stored_event(document: Mapping[str, Any]) -> StoredEvent:
    """The message of a stored document."""
    stored = StoredEvent(
        address=document.get("address", ""),
        bot=document.get("bot", False),
        conflict=document.get("conflict", False),
        imported=document.get("imported", False),
    )
    stored.received_time.FromMilliseconds(document["received_ms"])
    stamp = stored.stamp
    stamp.state = document["state"]
    stamp.identity_id = document.get("identity_id", "")
    stamp.session_id = document.get("session_id", "")
    stamp.revision = document["rev"]
    event = stored.event
    event.visit_id = document.get("browser_visit_id") or document["visit_id"]
    event.event_id = document["event_id"]
    event.event_time_ms = event_time_ms(document["order_key"])
    event.identity_id = document.get("names_identity_id", "")
    for field in (*_CONTENT, *_ADMITTED):
        if field in document:
            setattr(event, field, document[field])
    event.assurance_reason_code = assurance_reason_code(event.assurance_reason)
    return stored


def assurance_reason_code(reason: str) -> AssuranceReason.ValueType:
    """What answers say beside the text that the log and documents have; unspecified for a reason of a later version."""
    return _REASONS.get(reason, AssuranceReason.ASSURANCE_REASON_UNSPECIFIED)
