"""Turns the body of a beacon into typed events, such that a bad one never costs the others."""

import math
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from footfall_eventlog.events import MAX_EVENT_BYTES, MAX_EVENTS

from footfall_gateway.problem import format_error

_INT64_MAX = 2**63 - 1
_LONGEST_ECHO = 64
_MOST_DROPPED = 10_000
"""A tracking script's queue holds a thousand."""
_MOST_MENDED = 1_000


class BeaconError(Exception):
    """The body is no beacon; the text names what is wrong, and quotes nothing of it."""

    events = 1
    """So many it counts for against the limits of its sender."""


class TooManyEventsError(BeaconError):
    """More events than one beacon may bring."""

    events = MAX_EVENTS


Milliseconds = int | float
"""A time of a sender's: `performance.timeOrigin + performance.now()` has a fraction. `fitting` makes it whole."""

Json = Annotated[
    msgspec.Raw, msgspec.Meta(extra_json_schema={"description": "What is no object is kept under `value`."})
]


class BeaconEvent(msgspec.Struct, gc=False):
    """One event in the envelope of gwe-facts 2.1. `null` is taken as not given; other keys are ignored.

    Only types are checked here. Everything else is admission's, in the collector.
    """

    event_name: str | None = msgspec.field(name="eventName", default=None)
    event_id: str | None = msgspec.field(name="eventID", default=None)
    visit_id: str | None = msgspec.field(name="visitID", default=None)
    timestamp: Milliseconds | None = None
    page_id: str | None = msgspec.field(name="pageID", default=None)
    url: str | None = None
    category: str | None = None
    language_code: str | None = msgspec.field(name="languageCode", default=None)
    global_visit_id: str | None = msgspec.field(name="globalVisitID", default=None)
    site: str | None = None
    event_type: str | None = msgspec.field(name="eventType", default=None)
    """Type-checked and not passed on: the type follows from the name."""
    data: Json = msgspec.field(default_factory=msgspec.Raw)
    """Verbatim; empty when not given. `read` puts what is no object under `value`."""


class Rejection(NamedTuple):
    """Why the event at a position of a beacon was not stored. `is_retryable`: not for good, send it again."""

    position: int
    event_id: str | None
    reason: str
    message: str
    is_retryable: bool = False


class Envelope(NamedTuple):
    """A beacon as decoded: the events, where in the beacon each stood, and what is not even an event.

    `dropped`: so many the sender has lost since it last said so.
    """

    events: list[BeaconEvent]
    positions: list[int]
    rejections: list[Rejection]
    sent_ms: int
    site: str | None
    dropped: int = 0


class _Batch(msgspec.Struct, gc=False):
    """What a JSON object has when it is no single event; of a single event all but `events` counts as well."""

    events: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    sent_at: Milliseconds | None = msgspec.field(name="sentAt", default=None)
    site: str | None = None
    dropped: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Object(BeaconEvent, gc=False):
    """A JSON object without a fault: one event, or what holds several."""

    events: list[BeaconEvent] | None = None
    sent_at: Milliseconds | None = msgspec.field(name="sentAt", default=None)
    dropped: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _OnlyId(msgspec.Struct, gc=False):
    event_id: str | None = msgspec.field(name="eventID", default=None)


# The first items of an array and one too many; what follows is passed over, where a list would make an object of each.
_FirstItems = msgspec.defstruct(
    "_FirstItems", [(f"item_{index}", msgspec.Raw, None) for index in range(MAX_EVENTS + 1)], array_like=True
)

_decode_faultless = msgspec.json.Decoder(list[BeaconEvent] | _Object).decode
_decode_items = msgspec.json.Decoder(_FirstItems).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_event = msgspec.json.Decoder(BeaconEvent).decode
_decode_only_id = msgspec.json.Decoder(_OnlyId).decode

# Half of a pair of surrogates, in a text without escaped backslashes.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F][0-9a-fA-F]{2})",
    re.DOTALL,
)
_NEVER_IN_UTF8 = b"\xff"


def read(body: bytes) -> Envelope:
    """Decode a body: one event, an array of them, or `{"sentAt": ms, "events": [...], "site": "..."}`.

    Raises:
        BeaconError: it is not UTF-8, not JSON, empty, or `sentAt`, `site` or `events` has the wrong type.
        TooManyEventsError: more than 1,000 events.

    """
    if not body.isascii():
        body = body.removeprefix(BOM_UTF8)
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BeaconError("the body is not UTF-8") from None
    if envelope := _read_at_once(body):
        return envelope
    try:
        return _read_each(body)
    except msgspec.DecodeError:
        # A page that cuts a text in the middle of an emoji sends half of a surrogate pair. That is no text, but no
        # reason to lose the visit either.
        pass
    try:
        return _read_each(_mended(body))
    except msgspec.DecodeError:
        raise BeaconError("the body is not JSON") from None


def _read_each(body: bytes) -> Envelope:
    """The usual case or not. Raises BeaconError, and DecodeError when it is not JSON."""
    try:
        items, batch = _split(body)
    except RecursionError:
        raise BeaconError("the body is nested too deeply") from None
    if not items:
        raise BeaconError("events: must not be empty")
    if len(items) > MAX_EVENTS:
        raise TooManyEventsError(f"events: at most {MAX_EVENTS} in one beacon")
    return _decode(items, batch)


def _mended(body: bytes) -> bytes:
    """The body with U+FFFD for halves of surrogate pairs, of which nobody cuts off more than a thousand."""
    hidden = body.replace(rb"\\", _NEVER_IN_UTF8)  # so that each backslash left begins an escape
    return _LONE_SURROGATE.sub(rb"\\ufffd", hidden, count=_MOST_MENDED).replace(_NEVER_IN_UTF8, rb"\\")


def _read_at_once(body: bytes) -> Envelope | None:
    """The usual case, in half the time; None for what has any fault, or events that may be too many or too large."""
    # Each event is an object: what has so many may have too many.
    if len(body) > MAX_EVENT_BYTES or body.count(b"{") > MAX_EVENTS:
        return None
    try:
        found = _decode_faultless(body)
        if isinstance(found, list):
            events, sent_ms, site, dropped = found, 0, None, msgspec.Raw()
        else:
            events = [found] if found.events is None else found.events
            sent_ms, site, dropped = found.sent_at or 0, found.site, found.dropped
    except (msgspec.DecodeError, RecursionError):
        return None
    if not 1 <= len(events) <= MAX_EVENTS:
        return None
    for event in events:
        _make_data_an_object(event)
    return Envelope(events, [*range(len(events))], [], fitting(sent_ms), site, _believable(dropped))


def _split(body: bytes) -> tuple[Sequence[bytes | msgspec.Raw], _Batch]:
    """The items of a body, at most one too many. Raises BeaconError, DecodeError and RecursionError."""
    if body.lstrip(b" \t\r\n").startswith(b"["):
        return _items(body), _Batch()
    try:
        batch = _decode_batch(body)
    except msgspec.ValidationError as error:
        raise BeaconError(format_error(error)) from None
    events = bytes(batch.events)
    return ([body] if events in {b"", b"null"} else _items(events)), batch


def _items(array: bytes) -> list[msgspec.Raw]:
    try:
        items = msgspec.structs.astuple(_decode_items(array))
    except msgspec.ValidationError as error:
        raise BeaconError(format_error(error, "events")) from None
    return [item for item in items if item is not None]


def _decode(items: Sequence[bytes | msgspec.Raw], batch: _Batch) -> Envelope:
    events: list[BeaconEvent] = []
    positions: list[int] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(items):
        item_bytes = bytes(item)
        try:
            events.append(_event(item_bytes))
            positions.append(index)
        except msgspec.ValidationError as error:
            rejections.append(Rejection(index, _id_of(item_bytes), "malformed", format_error(error, "event")))
        except _TooLargeError:
            rule = f"event: at most {MAX_EVENT_BYTES} bytes"
            rejections.append(Rejection(index, _id_of(item_bytes), "too_large", rule))
    return Envelope(events, positions, rejections, fitting(batch.sent_at or 0), batch.site, _believable(batch.dropped))


def _believable(dropped: msgspec.Raw) -> int:
    """How many events the sender says it has lost, which is worth no refusal. Anybody can say anything."""
    number = bytes(dropped)
    if not number.isdigit():
        return 0
    return min(int(number[: len(str(_MOST_DROPPED)) + 1]), _MOST_DROPPED)


class _TooLargeError(Exception):
    """The event is larger than 64 KiB."""


def _event(item: bytes) -> BeaconEvent:
    if len(item) > MAX_EVENT_BYTES:
        raise _TooLargeError
    event = _decode_event(item)
    _make_data_an_object(event)
    return event


def _make_data_an_object(event: BeaconEvent) -> None:
    data = bytes(event.data)
    if not data.startswith(b"{"):
        event.data = msgspec.Raw(b"" if data in {b"", b"null"} else b'{"value":%b}' % data)


def _id_of(item: bytes) -> str | None:
    try:
        return echo(_decode_only_id(item).event_id)
    except msgspec.ValidationError:
        return None


def echo(event_id: str | None) -> str | None:
    """An event id as it may go back into an answer: cut, because it may be anything."""
    return event_id and event_id[:_LONGEST_ECHO]


def fitting(number: float) -> int:
    """The number without its fraction, or the nearest that a 64-bit field holds. Admission refuses both ends."""
    whole = math.floor(number)  # JSON has no infinity
    if -_INT64_MAX <= whole <= _INT64_MAX:
        return whole
    return _INT64_MAX if whole > 0 else -_INT64_MAX
