"""Turns an event as sent into its stored form, or into the reason why it has none: STEPS, in the order they run."""

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import msgspec
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.events import MAX_EVENT_BYTES, SYSTEM_EVENTS
from footfall_timeline import normalize_uuid

Step = Callable[[Event], str | None]
"""Puts one thing of an event in order, in place, or returns the rule it breaks. Never quotes the event."""

MAX_DATA_DEPTH: Final = 32
MAX_DATA_KEYS: Final = 1_000
LONGEST_DATA_KEY: Final = 256
LONGEST_CATEGORY: Final = 1_024
LAST_TIMESTAMP_MS: Final = 253_402_300_799_999  # the end of the year 9999

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_JSON_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# Of a valid JSON text each key, and at last nothing. All that is no key is passed over at once.
_KEYS = re.compile(r'(?:[^"]++|"(?:[^"\\]++|\\.)*+"(?!\s*+:))*+(?:"((?:[^"\\]++|\\.)*+)"\s*+:|\Z)', re.DOTALL)
_HUGE_NUMBER = re.compile(rb"[0-9]{4000}")  # such integers not everybody can decode
_BRACKET_STEPS = bytes.maketrans(b"{[]}", b"\x01\x01\xff\xff")  # up one, down one
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))

# The ids of visits and devices come again with every event. Their plain values are kept, never messages.
_known_uuid = lru_cache(maxsize=16_384)(normalize_uuid)
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_text = msgspec.json.Decoder(str).decode
_check_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def limit_size(event: Event) -> str | None:
    """Nothing of it may be used before this."""
    return "event: larger than 64 KiB" if event.ByteSize() > MAX_EVENT_BYTES else None


def normalize_event_id(event: Event) -> str | None:
    """Dashed lower case; unique with the visit's id, so no need to remember it."""
    sent = event.event_id
    try:
        stored = normalize_uuid(sent)
    except ValueError:
        return "eventID: must be a UUID"
    if stored != sent:
        event.event_id = stored
    return None


def normalize_visit_id(event: Event) -> str | None:
    """Dashed lower case."""
    sent = event.visit_id
    try:
        stored = _known_uuid(sent)
    except ValueError:
        return "visitID: must be a UUID"
    if stored != sent:
        event.visit_id = stored
    return None


def normalize_global_visit_id(event: Event) -> str | None:
    """Dashed lower case, when there is one."""
    sent = event.global_visit_id
    if not sent:
        return None
    try:
        stored = _known_uuid(sent)
    except ValueError:
        return "globalVisitID: must be a UUID"
    if stored != sent:
        event.global_visit_id = stored
    return None


def derive_type(event: Event) -> str | None:
    """The six system names (gwe-facts 2.3) make system events, all others business events, whatever type was sent."""
    name = event.event_name
    if not 1 <= len(name) <= 256:
        return "eventName: must have 1 to 256 characters"
    event.event_type = event_pb2.EVENT_TYPE_SYSTEM if name in SYSTEM_EVENTS else event_pb2.EVENT_TYPE_BUSINESS
    return None


def check_page_id(event: Event) -> str | None:
    """Kept as spelled."""
    page_id = event.browser_page_id
    # What is printable, as nearly everything is, has no control characters; that is far quicker to see.
    if len(page_id) > 128 or (not page_id.isprintable() and _CONTROL_CHARACTERS.search(page_id)):
        return "pageID: must have at most 128 characters, none of them a control character"
    return None


def check_url(event: Event) -> str | None:
    """Kept as sent, also when it is no URL: what a page says of itself is a fact."""
    return "url: must have at most 8,192 characters" if len(event.url) > 8_192 else None


def check_texts(event: Event) -> str | None:
    """Category and language."""
    if len(event.category) > LONGEST_CATEGORY:
        return f"category: must have at most {LONGEST_CATEGORY:,} characters"
    if len(event.language_code) > 64:
        return "languageCode: must have at most 64 characters"
    return None


def check_timestamp(event: Event) -> str | None:
    """Kept as sent. 0 is what a message without it holds."""
    if not 0 < event.timestamp_ms <= LAST_TIMESTAMP_MS:
        return "timestamp: must be milliseconds from 1970 to the year 9999"
    return None


def check_data(event: Event) -> str | None:
    """Kept byte for byte. What passes here can be decoded by everyone after."""
    data = event.data_json
    if len(data) <= 2 and data in {b"", b"{}"}:
        return None
    is_small = len(data) <= LONGEST_DATA_KEY
    try:
        # Of what is larger no values are made: anybody may send ten thousand of them.
        text = data.decode()
        (_decode_object if is_small or _HUGE_NUMBER.search(data) else _check_object)(data)
    except (ValueError, RecursionError):  # ValueError: also what is not UTF-8
        return "data: must be a JSON object"
    if data.count(b"{") + data.count(b"[") > MAX_DATA_DEPTH and _depth(data) > MAX_DATA_DEPTH:
        return f"data: must be nested at most {MAX_DATA_DEPTH} levels deep"
    if not is_small and not _keys_fit(text):
        return f"data: must have at most {MAX_DATA_KEYS} keys, each of at most {LONGEST_DATA_KEY} characters"
    return None


def _depth(json: bytes) -> int:
    """How deep a valid JSON text is nested: the height of its brackets, added up in C, as hostile input has many."""
    steps = _JSON_STRINGS.sub(b"", json).translate(_BRACKET_STEPS, _ALL_BUT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")))


def _keys_fit(json: str) -> bool:
    """Whether the keys of all objects in it are not too many, and none too long."""
    keys = _KEYS.findall(json)[:-2]  # the last is what is behind all keys, and then the end
    if len(keys) > MAX_DATA_KEYS:
        return False
    return all(len(key) <= LONGEST_DATA_KEY or len(_decode_text(f'"{key}"')) <= LONGEST_DATA_KEY for key in keys)


STEPS: Final[tuple[tuple[Step, collector.RejectReason.ValueType], ...]] = (
    (limit_size, collector.REJECT_REASON_TOO_LARGE),
    (normalize_event_id, collector.REJECT_REASON_INVALID_EVENT_ID),
    (normalize_visit_id, collector.REJECT_REASON_INVALID_VISIT_ID),
    (normalize_global_visit_id, collector.REJECT_REASON_INVALID_GLOBAL_VISIT_ID),
    (derive_type, collector.REJECT_REASON_INVALID_EVENT_NAME),
    (check_page_id, collector.REJECT_REASON_INVALID_PAGE_ID),
    (check_url, collector.REJECT_REASON_INVALID_URL),
    (check_texts, collector.REJECT_REASON_INVALID_TEXT),
    (check_timestamp, collector.REJECT_REASON_INVALID_TIMESTAMP),
    (check_data, collector.REJECT_REASON_INVALID_DATA),
)
