"""Turns the event of a dead letter into JSON that an operator can change, and such JSON into an event."""

import base64
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall_eventlog.admitted import InvalidEventError, transition_of
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from footfall_history.dead_letters.queue import DeadLetter

_HARMLESS: Final = ("visit_id", "event_id", "event_name", "site", "event_time_ms", "transition", "assurance")
"""Fields of an event that contain nothing about a person."""

_REPAIRED: Final = "repaired; it was: "

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class RepairError(Exception):
    """The request does not result in an event that can be stored. The message says why."""


def to_json(event: Event, *, is_whole: bool) -> bytes:
    """An event as JSON: the fields of footfall.event.v1.Event, with `data` instead of `data_json`.

    All fields, or only those that contain nothing about a person.
    """
    fields = MessageToDict(event, preserving_proto_field_name=True)
    if not is_whole:
        fields = {name: fields[name] for name in _HARMLESS if name in fields}
    elif fields.pop("data_json", None):
        fields["data"] = msgspec.Raw(event.data_json) if _is_object(event.data_json) else None
    return msgspec.json.format(msgspec.json.encode(fields))


def changed(event: Event, changes: Mapping[str, str], dropped: Iterable[str]) -> Event:
    """The event with fields changed and removed. A value that is not JSON is taken as text. Raises RepairError."""
    fields = MessageToDict(event, preserving_proto_field_name=True)
    for name in dropped:
        _require_field(name)
        fields.pop("data_json" if name == "data" else name, None)
    for name, text in changes.items():
        _require_field(name)
        if name == "data":
            fields[name] = msgspec.Raw(text.encode())
            continue
        try:
            fields[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            fields[name] = text
        try:
            ParseDict({name: fields[name]}, Event())
        except ParseError:  # it would quote the value
            raise RepairError(f"{name}: is no value of this field") from None
    return _event(fields)


def _require_field(name: str) -> None:
    if name != "data" and name not in Event.DESCRIPTOR.fields_by_name:
        raise RepairError(f"{name}: is no field of an event")


def repaired(letter: DeadLetter, event: Event) -> EventBatch:
    """What a dead letter holds with this event instead of its own. Raises RepairError."""
    if letter.interaction:
        raise RepairError("the dead letter holds an interaction; replay or discard it")
    old = letter.batch
    event.context_index = 0
    new = EventBatch(
        contexts=old.contexts if old else [EventContext(received_time_ms=letter.created_ms)], events=[event]
    )
    check_change(old, new)
    return new


def repaired_by(letter: DeadLetter, changes: Mapping[str, str], dropped: Iterable[str]) -> EventBatch:
    """The same with changes of its own event. Raises RepairError."""
    if letter.batch is None and not letter.interaction:
        raise RepairError("the dead letter holds no event; discard it, or give one by `dead-letters repair --event`")
    return repaired(letter, changed(letter.batch.events[0], changes, dropped) if letter.batch else Event())


def reason_after(letter: DeadLetter) -> str:
    """The reason of a dead letter once it is repaired."""
    was = letter.reason.removeprefix(_REPAIRED)
    return f"{_REPAIRED}{was}"


def from_json(text: bytes) -> Event:
    """The event in JSON as `to_json` returns it. Raises RepairError."""
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return _event({name: value if name == "data" else msgspec.json.decode(value) for name, value in raw.items()})
    except msgspec.DecodeError as error:
        raise RepairError(f"the event is no JSON object: {error}") from None


def _event(fields: dict[str, Any]) -> Event:
    if "data" in fields:
        fields["data_json"] = base64.b64encode(bytes(fields.pop("data"))).decode()
    try:
        return ParseDict(fields, Event())
    except ParseError as error:
        raise RepairError(str(error)) from None


def check(batch: EventBatch) -> None:
    """Raises RepairError if the single event of a batch is malformed, so that it would become a dead letter again."""
    [event] = batch.events
    try:
        transition_of(event)
    except InvalidEventError as error:
        raise RepairError(str(error)) from None
    if event.data_json and not _is_object(event.data_json):
        raise RepairError("data is no JSON object")


def why_not_replayed(letter: DeadLetter, max_age_ms: int) -> str:
    """Why a dead letter cannot be replayed as it is; empty: it can be.

    Identity has forgotten the visit of an event that is older than admission accepts, and would begin a new one; and a
    duplicate that history stored may have expired.
    """
    if letter.interaction:
        return ""
    if letter.batch is None:
        return "it holds no event; repair or discard it"
    try:
        check(letter.batch)
    except RepairError as error:
        return str(error)
    if letter.batch.events[0].event_time_ms < time.time_ns() // 1_000_000 - max_age_ms:
        return "the event is older than MAX_EVENT_AGE_DAYS; discard it"
    return ""


def check_change(old: EventBatch | None, new: EventBatch) -> None:
    """Raises RepairError if a dead letter's event must not be replaced by the new one.

    If the old event was well-formed, identity has read it and history may have merged its transition. A timeline with
    two different entries for one event keeps the smaller one, which may be the wrong one.
    """
    check(new)
    if old is None:
        return
    try:
        check(old)
    except RepairError:
        return
    before, after = ((event.visit_id, event.event_id, transition_of(event)) for event in (*old.events, *new.events))
    if before != after:
        raise RepairError("identity has read it: its ids, time, transition and identity can no longer be changed")


def _is_object(data: bytes) -> bool:
    try:
        _decode_object(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
