"""Turns admitted events into MongoDB documents, and documents back into messages.

A document is flat, and empty values are absent. Its attribution (`rev`, `state`, `identity_id`, `session_id`) is the
only part that changes, except by an erasure. An erasure leaves the ids and times of an event, its type and site, and
the name of a system event: what uniqueness, attribution and site isolation need.
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
"""The revision of an attribution that is no longer valid: lower than that of every timeline."""

TOUCH_INTERVAL_MS: Final = 600_000
"""How late the time of a visit's last receipt may be stored. To store it with each event would cost as much as one."""

TIME_DIGITS: Final = 13
"""Length of the time at the beginning of an order key, in digits."""

_VISIT_ID_LENGTH: Final = 36

# What a sender says of an event: the same content under the same id is a retry, other content a conflict. Not part of
# it are the times that admission sets, since a retry from a browser with a wrong clock may get another event time, and
# the category, since the collector's rules for it may have changed in between.
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
    "ignored_reason",
    "policy_version",
    "staff_reason",
)
_KEPT: Final = {"event_name", "timestamp_ms", "event_type", "site"}
_ERASED: Final = (
    *(name for name in (*_CONTENT, *_ADMITTED) if name not in _KEPT),
    *("names_identity_id", "names_hash", "ignored_keys", "title", "categories", "address", "bot"),
)
IMPORTED: Final[Mapping[str, Any]] = {"imported": True}
"""Marks an event that `footfall-import` stored."""
DEVICE_FIELDS: Final = ("global_visit_id", "user_agent_id", "user_agent", "bot")
"""The fields of a visit about the browser, from its first event. Removed when the whole visit is erased."""

_REASONS: Final = {
    name.removeprefix("ASSURANCE_REASON_").lower(): number for name, number in AssuranceReason.items() if number
}


class _Titled(msgspec.Struct):
    title: Any = None


_decode_titled = msgspec.json.Decoder(_Titled).decode


def event_document(event: Event, context: EventContext) -> Document:
    """The document of an admitted event, without an attribution."""
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
    if event.ignored_reason:
        document["names_hash"] = ignored_in(visit_id)
    if event.ignored_keys:
        document["ignored_keys"] = [*event.ignored_keys]
    if event.event_name == PAGE_ENTERED and (title := _title(event.data_json)):
        document["title"] = title
    if context.address:
        document["address"] = context.address
    if context.bot:
        document["bot"] = True
    return document


def ignored_in(visit_id: str) -> str:
    """The `names_hash` of events of a visit whose user ids name no person. Other events have the hash of an identity.

    So the same index finds both, and events that name nothing cost nothing.
    """
    return f"ignored:{visit_id}"


def document_id(visit_id: str, event_id: str) -> str:
    """The unique key of an event. It begins with the visit's id, so that sharding can keep a visit together."""
    return visit_id + event_id


def visit_of(document_id: str) -> str:
    """The visit's id in the unique key of an event."""
    return document_id[:_VISIT_ID_LENGTH]


def _title(data_json: bytes) -> str:
    try:
        title = _decode_titled(data_json).title
    except msgspec.DecodeError:
        return ""
    return title if isinstance(title, str) else ""


def has_same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents of one event id are the same event, sent twice. An erased event is equal to any other."""
    if one.get("erased") or other.get("erased"):
        return True
    return all(one.get(name) == other.get(name) for name in _CONTENT)


def is_system(document: Mapping[str, Any]) -> bool:
    """Whether an event has one of the six system names (VisitStarted, SignIn, ...) rather than a site's own."""
    return document.get("event_type") == EVENT_TYPE_SYSTEM


def erased(document: Document) -> Document:
    """An event without the fields that erasing removes. Its attribution stays as it is."""
    removed = erasable(of_system=is_system(document))
    return {name: value for name, value in document.items() if name not in removed} | {"erased": True}


def erasable(*, of_system: bool) -> tuple[str, ...]:
    """The fields that erasing removes: of a site's own events also the name, which may describe what a person did."""
    return _ERASED if of_system else (*_ERASED, "event_name")


def attribution_fields(attribution: Attribution, rev: int) -> tuple[Document, list[str]]:
    """The fields of a document with this attribution, and the names of fields that must be absent."""
    fields: Document = {"rev": rev, "state": int(attribution.state)}
    if attribution.identity:
        fields["identity_id"] = attribution.identity
    if attribution.session_id:
        fields["session_id"] = attribution.session_id
    return fields, [name for name in ("identity_id", "session_id") if name not in fields]


def event_time_ms(key: str) -> int:
    """The event time in an order key, in milliseconds since the epoch."""
    return int(key[:TIME_DIGITS])


def stored_event(document: Mapping[str, Any]) -> StoredEvent:
    """The StoredEvent message of a document."""
    stored = StoredEvent(
        address=document.get("address", ""),
        bot=document.get("bot", False),
        conflict=document.get("conflict", False),
        imported=document.get("imported", False),
    )
    stored.received_time.FromMilliseconds(document["received_ms"])
    attribution = stored.stamp
    attribution.state = document["state"]
    attribution.identity_id = document.get("identity_id", "")
    attribution.session_id = document.get("session_id", "")
    attribution.revision = document["rev"]
    event = stored.event
    event.visit_id = document.get("browser_visit_id") or document["visit_id"]
    event.event_id = document["event_id"]
    event.event_time_ms = event_time_ms(document["order_key"])
    event.identity_id = document.get("names_identity_id", "")
    for field in (*_CONTENT, *_ADMITTED):
        if field in document:
            setattr(event, field, document[field])
    event.ignored_keys.extend(document.get("ignored_keys", ()))
    event.assurance_reason_code = assurance_reason_code(event.assurance_reason)
    return stored


def assurance_reason_code(reason: str) -> AssuranceReason.ValueType:
    """The contract's enum value of an assurance reason in the log and in documents; unspecified for an unknown one."""
    return _REASONS.get(reason, AssuranceReason.ASSURANCE_REASON_UNSPECIFIED)
