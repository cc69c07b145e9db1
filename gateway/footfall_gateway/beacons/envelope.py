"""Decodes the body of a beacon into typed events. A malformed event does not affect the others."""

import math
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from footfall_eventlog.events import (
    MAX_CATEGORY_LENGTH,
    MAX_DATA_DEPTH,
    MAX_DATA_KEY_LENGTH,
    MAX_DATA_KEYS,
    MAX_EVENT_BYTES,
    MAX_EVENT_NAME_LENGTH,
    MAX_EVENTS,
    MAX_LANGUAGE_CODE_LENGTH,
    MAX_PAGE_ID_LENGTH,
    MAX_TIMESTAMP_MS,
    MAX_URL_LENGTH,
)
from msgspec import Meta

from footfall_gateway.fields import SentGlobalVisitId, SentUuid, SiteName
from footfall_gateway.problem import format_error

_INT64_MAX = 2**63 - 1
_MAX_ID_LENGTH = 64
_MAX_DROPPED = 10_000
"""Ten times the queue of a tracking script."""
_MAX_SURROGATES = 1_000


class BeaconError(Exception):
    """The body is not a beacon. The text says what is wrong, without quoting the body."""

    events = 1
    """The number of events that the body counts as for the limits of its sender."""


class TooManyEventsError(BeaconError):
    """More events than one beacon may have."""

    events = MAX_EVENTS


Milliseconds = int | float
"""A time of the sender's clock. `performance.timeOrigin + performance.now()` has a fraction, which `to_int64` drops."""

EventName = Annotated[
    str,
    Meta(
        description="The name. `SignIn`, `UserInfo` and `SignOut` say who the visitor is.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_EVENT_NAME_LENGTH},
    ),
]
SentEventId = Annotated[
    SentUuid, Meta(description="The event: a new UUID, which every retry sends again. Stored once in its visit.")
]
SentVisitId = Annotated[SentUuid, Meta(description="The visit.")]
Timestamp = Annotated[
    Milliseconds,
    Meta(
        description="When the event happened, by the sender's clock (ms). A fraction is cut off.",
        extra_json_schema={"minimum": 1, "maximum": MAX_TIMESTAMP_MS},
    ),
]
SentPageId = Annotated[
    str,
    Meta(
        description="The page entry: `browserPageID` in the History API. No control characters.",
        extra_json_schema={"pattern": rf"^[^\u0000-\u001f\u007f-\u009f]{{0,{MAX_PAGE_ID_LENGTH}}}$"},
    ),
]
SentUrl = Annotated[str, Meta(description="The address of the page.", extra_json_schema={"maxLength": MAX_URL_LENGTH})]
SentCategory = Annotated[
    str,
    Meta(
        description="Categories, separated by semicolons. Empty: those of `CATEGORIES_FILE`.",
        extra_json_schema={"maxLength": MAX_CATEGORY_LENGTH},
    ),
]
LanguageCode = Annotated[
    str,
    Meta(
        description="The language of the page, for instance `en-US`.",
        extra_json_schema={"maxLength": MAX_LANGUAGE_CODE_LENGTH},
    ),
]
SentSite = Annotated[
    SiteName, Meta(description="The website. Not given: that of the envelope, or of the `Origin`, or else `default`.")
]
EventType = Annotated[str, Meta(description="Ignored: the six system events are `SYSTEM`, all others `BUSINESS`.")]
Data = Annotated[
    msgspec.Raw,
    Meta(
        description=f"Further data: a JSON object nested at most {MAX_DATA_DEPTH} levels deep, with at most "
        f"{MAX_DATA_KEYS:,} keys of at most {MAX_DATA_KEY_LENGTH} characters. "
        'Another value is stored as `{"value": ...}`.'
    ),
]


class BeaconEvent(msgspec.Struct, gc=False):
    """One event, with the keys of a Genesys Web Engagement event. `null` means not given; unknown keys are ignored.

    The gateway checks the types. The collector checks the limits, which are here for the API description.
    """

    event_name: EventName | None = msgspec.field(name="eventName", default=None)
    event_id: SentEventId | None = msgspec.field(name="eventID", default=None)
    visit_id: SentVisitId | None = msgspec.field(name="visitID", default=None)
    timestamp: Timestamp | None = None
    page_id: SentPageId | None = msgspec.field(name="pageID", default=None)
    url: SentUrl | None = None
    category: SentCategory | None = None
    language_code: LanguageCode | None = msgspec.field(name="languageCode", default=None)
    global_visit_id: SentGlobalVisitId | None = msgspec.field(name="globalVisitID", default=None)
    site: SentSite | None = None
    event_type: EventType | None = msgspec.field(name="eventType", default=None)
    data: Data = msgspec.field(default_factory=msgspec.Raw)
    """Verbatim; empty when not given. `decode_beacon` wraps a value that is not an object."""


class Rejection(NamedTuple):
    """Why the event at this position of a beacon was not stored. `is_retryable`: it may be sent again."""

    position: int
    event_id: str | None
    reason: str
    message: str
    is_retryable: bool = False


class IgnoredUserId(NamedTuple):
    """Why the user id of the event at this position of a beacon names no person. The event is stored."""

    position: int
    event_id: str | None
    reason: str
    message: str


class Envelope(NamedTuple):
    """A decoded beacon: its events, the position of each in the beacon, and the malformed items.

    `dropped`: the number of events that the sender has lost since its last report.
    """

    events: list[BeaconEvent]
    positions: list[int]
    rejections: list[Rejection]
    sent_ms: int
    site: str | None
    dropped: int = 0


class _Batch(msgspec.Struct, gc=False):
    """The keys of a beacon that is a JSON object. All but `events` may also stand in a single event."""

    events: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    sent_at: Milliseconds | None = msgspec.field(name="sentAt", default=None)
    site: str | None = None
    dropped: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Object(BeaconEvent, gc=False):
    """A JSON object without a fault: one event, or an envelope of several."""

    events: list[BeaconEvent] | None = None
    sent_at: Milliseconds | None = msgspec.field(name="sentAt", default=None)
    dropped: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _OnlyId(msgspec.Struct, gc=False):
    event_id: str | None = msgspec.field(name="eventID", default=None)


# The first items of an array, and one too many. Further items are skipped, where a list would make an object of each.
_FirstItems = msgspec.defstruct(
    "_FirstItems", [(f"item_{index}", msgspec.Raw, None) for index in range(MAX_EVENTS + 1)], array_like=True
)

_decode_faultless = msgspec.json.Decoder(list[BeaconEvent] | _Object).decode
_decode_array = msgspec.json.Decoder(_FirstItems).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_event = msgspec.json.Decoder(BeaconEvent).decode
_decode_only_id = msgspec.json.Decoder(_OnlyId).decode

# Half of a surrogate pair, in a text without escaped backslashes.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F][0-9a-fA-F]{2})",
    re.DOTALL,
)
# No byte of UTF-8 has this value. Two of them replace an escaped backslash, and become it again by `translate`.
_HIDDEN = b"\xff\xff"
_SHOWN_AGAIN = bytes.maketrans(b"\xff", b"\\")


def decode_beacon(body: bytes) -> Envelope:
    """Decode a body: one event, an array of them, or `{"sentAt": ms, "events": [...], "site": "..."}`.

    Raises:
        BeaconError: it is not UTF-8, not JSON, empty, or `sentAt`, `site` or `events` has the wrong type.
        TooManyEventsError: more than 1,000 events.

    """
    body = utf8_body(body)
    if envelope := _decode_fast(body):
        return envelope
    try:
        return _decode_each(body)
    except msgspec.DecodeError:
        # A page that cuts a text within an emoji sends half of a surrogate pair. Only that character is lost.
        pass
    try:
        return _decode_each(without_lone_surrogates(body))
    except msgspec.DecodeError:
        raise BeaconError("the body is not JSON") from None


def utf8_body(body: bytes) -> bytes:
    """The body without a byte order mark. Raises BeaconError when it is not UTF-8."""
    if not body.isascii():
        body = body.removeprefix(BOM_UTF8)
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BeaconError("the body is not UTF-8") from None
    return body


def _decode_each(body: bytes) -> Envelope:
    """Decode each item by itself. Raises BeaconError, and DecodeError when the body is not JSON."""
    try:
        items, batch = _split(body)
    except RecursionError:
        raise BeaconError("the body is nested too deeply") from None
    if not items:
        raise BeaconError("events: must not be empty")
    if len(items) > MAX_EVENTS:
        raise TooManyEventsError(f"events: at most {MAX_EVENTS} in one beacon")
    return _decode_events(items, batch)


def without_lone_surrogates(body: bytes) -> bytes:
    """The body with U+FFFD in place of its first halves of surrogate pairs."""
    hidden = body.replace(rb"\\", _HIDDEN)  # now each backslash begins an escape
    return _LONE_SURROGATE.sub(rb"\\ufffd", hidden, count=_MAX_SURROGATES).translate(_SHOWN_AGAIN)


def _decode_fast(body: bytes) -> Envelope | None:
    """The usual case, in half the time. None for any fault, or when events may be too many or too large."""
    # Each event is an object, so the number of braces bounds that of events.
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
        _wrap_data(event)
    return Envelope(events, [*range(len(events))], [], to_int64(sent_ms), site, _dropped_count(dropped))


def _split(body: bytes) -> tuple[Sequence[bytes | msgspec.Raw], _Batch]:
    """The items of a body, at most MAX_EVENTS + 1. Raises BeaconError, DecodeError and RecursionError."""
    if body.lstrip(b" \t\r\n").startswith(b"["):
        return array_items(body), _Batch()
    try:
        batch = _decode_batch(body)
    except msgspec.ValidationError as error:
        raise BeaconError(format_error(error)) from None
    events = bytes(batch.events)
    return ([body] if events in {b"", b"null"} else array_items(events)), batch


def array_items(array: bytes) -> list[msgspec.Raw]:
    """The items of a JSON array but null, at most MAX_EVENTS + 1.

    Raises BeaconError, DecodeError and RecursionError.
    """
    try:
        items = msgspec.structs.astuple(_decode_array(array))
    except msgspec.ValidationError as error:
        raise BeaconError(format_error(error, "events")) from None
    return [item for item in items if item is not None]


def _decode_events(items: Sequence[bytes | msgspec.Raw], batch: _Batch) -> Envelope:
    events: list[BeaconEvent] = []
    positions: list[int] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(items):
        item_bytes = bytes(item)
        if len(item_bytes) > MAX_EVENT_BYTES:
            rule = f"event: at most {MAX_EVENT_BYTES} bytes"
            rejections.append(Rejection(index, _id_of(item_bytes), "too_large", rule))
            continue
        try:
            event = _decode_event(item_bytes)
        except msgspec.ValidationError as error:
            rejections.append(Rejection(index, _id_of(item_bytes), "malformed", format_error(error, "event")))
        else:
            _wrap_data(event)
            events.append(event)
            positions.append(index)
    dropped = _dropped_count(batch.dropped)
    return Envelope(events, positions, rejections, to_int64(batch.sent_at or 0), batch.site, dropped)


def _dropped_count(dropped: msgspec.Raw) -> int:
    """The number of events that the sender says it has lost, within bounds. A wrong value is no fault of the beacon."""
    number = bytes(dropped)
    if not number.isdigit():
        return 0
    return min(int(number[: len(str(_MAX_DROPPED)) + 1]), _MAX_DROPPED)


def _wrap_data(event: BeaconEvent) -> None:
    data = bytes(event.data)
    if not data.startswith(b"{"):
        event.data = msgspec.Raw(b"" if data in {b"", b"null"} else b'{"value":%b}' % data)


def _id_of(item: bytes) -> str | None:
    try:
        return shortened_id(_decode_only_id(item).event_id)
    except msgspec.ValidationError:
        return None


def shortened_id(event_id: str | None) -> str | None:
    """An event id for a response, cut because its length is not checked yet."""
    return event_id and event_id[:_MAX_ID_LENGTH]


def to_int64(number: float) -> int:
    """The number without its fraction, within the range of a 64-bit field. The collector rejects both ends."""
    whole = math.floor(number)  # JSON has no infinity
    if -_INT64_MAX <= whole <= _INT64_MAX:
        return whole
    return _INT64_MAX if whole > 0 else -_INT64_MAX
