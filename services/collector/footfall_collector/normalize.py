"""Checks and normalises the fields of an event of at most 64 KiB: STEPS, in the order in which admission runs them."""

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import msgspec
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.events import (
    MAX_CATEGORY_LENGTH,
    MAX_DATA_DEPTH,
    MAX_DATA_KEY_LENGTH,
    MAX_DATA_KEYS,
    MAX_EVENT_NAME_LENGTH,
    MAX_LANGUAGE_CODE_LENGTH,
    MAX_PAGE_ID_LENGTH,
    MAX_TIMESTAMP_MS,
    MAX_URL_LENGTH,
    SYSTEM_EVENTS,
)
from footfall_timeline import normalize_uuid

Step = Callable[[Event], str | None]
"""Normalises one field in place, or returns the rule that the field breaks, without quoting the event."""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_JSON_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# Matches each key of a valid JSON text together with everything before it; the last match is empty.
_KEYS = re.compile(r'(?:[^"]++|"(?:[^"\\]++|\\.)*+"(?!\s*+:))*+(?:"((?:[^"\\]++|\\.)*+)"\s*+:|\Z)', re.DOTALL)
# Not all decoders accept integers of this length. It is searched for in the data with 0 in place of each digit: a
# pattern would begin again at each digit of a shorter number.
_HUGE_NUMBER = b"0" * 4_000
_DIGITS_AS_0 = bytes(ord("0") if character in b"0123456789" else ord(" ") for character in range(256))
_BRACKET_STEPS = bytes.maketrans(b"{[]}", b"\x01\x01\xff\xff")  # up one, down one
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))

# The ids of visits and devices recur with every event, so their normal forms are cached.
_known_uuid = lru_cache(maxsize=16_384)(normalize_uuid)
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_text = msgspec.json.Decoder(str).decode
_check_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def normalize_event_id(event: Event) -> str | None:
    """Normalise to dashed lower case. Not cached, because event ids do not recur."""
    sent = event.event_id
    try:
        stored = normalize_uuid(sent)
    except ValueError:
        return "eventID: must be a UUID"
    if stored != sent:
        event.event_id = stored
    return None


def normalize_visit_id(event: Event) -> str | None:
    """Normalise to dashed lower case."""
    sent = event.visit_id
    try:
        stored = _known_uuid(sent)
    except ValueError:
        return "visitID: must be a UUID"
    if stored != sent:
        event.visit_id = stored
    return None


def normalize_global_visit_id(event: Event) -> str | None:
    """Normalise to dashed lower case, if given."""
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
    """Set the type by the name, as in GWE 8.5: system for SYSTEM_EVENTS, else business. The sent type is ignored."""
    name = event.event_name
    if not 1 <= len(name) <= MAX_EVENT_NAME_LENGTH:
        return f"eventName: must have 1 to {MAX_EVENT_NAME_LENGTH} characters"
    event.event_type = event_pb2.EVENT_TYPE_SYSTEM if name in SYSTEM_EVENTS else event_pb2.EVENT_TYPE_BUSINESS
    return None


def check_page_id(event: Event) -> str | None:
    """Check length and characters; stored as sent."""
    page_id = event.browser_page_id
    # `isprintable` is much faster than the pattern, and true for nearly all ids.
    if len(page_id) > MAX_PAGE_ID_LENGTH or (not page_id.isprintable() and _CONTROL_CHARACTERS.search(page_id)):
        return f"pageID: must have at most {MAX_PAGE_ID_LENGTH} characters and no control characters"
    return None


def check_url(event: Event) -> str | None:
    """Check the length; stored as sent, even if it is no valid URL."""
    return f"url: must have at most {MAX_URL_LENGTH:,} characters" if len(event.url) > MAX_URL_LENGTH else None


def check_texts(event: Event) -> str | None:
    """Check the lengths of category and language code."""
    if len(event.category) > MAX_CATEGORY_LENGTH:
        return f"category: must have at most {MAX_CATEGORY_LENGTH:,} characters"
    if len(event.language_code) > MAX_LANGUAGE_CODE_LENGTH:
        return f"languageCode: must have at most {MAX_LANGUAGE_CODE_LENGTH} characters"
    return None


def check_timestamp(event: Event) -> str | None:
    """Check the range; stored as sent. A missing timestamp is 0."""
    if not 0 < event.timestamp_ms <= MAX_TIMESTAMP_MS:
        return "timestamp: must be milliseconds from 1970 to the year 9999"
    return None


def check_data(event: Event) -> str | None:
    """Check size, depth and keys; stored byte for byte. All later readers can decode data that passes."""
    data = event.data_json
    if len(data) <= 2 and data in {b"", b"{}"}:
        return None
    is_small = len(data) <= MAX_DATA_KEY_LENGTH
    try:
        # The values of larger data are not decoded: there may be ten thousand of them.
        text = data.decode()
        (_decode_object if is_small or _HUGE_NUMBER in data.translate(_DIGITS_AS_0) else _check_object)(data)
    except (ValueError, RecursionError):  # ValueError: also for invalid UTF-8
        return "data: must be a JSON object"
    if data.count(b"{") + data.count(b"[") > MAX_DATA_DEPTH and _depth(data) > MAX_DATA_DEPTH:
        return f"data: must be nested at most {MAX_DATA_DEPTH} levels deep"
    if not is_small and not _keys_fit(text):
        return f"data: must have at most {MAX_DATA_KEYS} keys, each of at most {MAX_DATA_KEY_LENGTH} characters"
    return None


def _depth(json: bytes) -> int:
    """Return the nesting depth of a valid JSON text. Brackets are summed in C, because hostile input has many."""
    steps = _JSON_STRINGS.sub(b"", json).translate(_BRACKET_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")))


def _keys_fit(json: str) -> bool:
    """Whether the number and lengths of all keys, including those of nested objects, are within the limits."""
    keys = _KEYS.findall(json)[:-2]  # the last two matches, behind the last key and at the end, are no keys
    if len(keys) > MAX_DATA_KEYS:
        return False
    return all(len(key) <= MAX_DATA_KEY_LENGTH or len(_decode_text(f'"{key}"')) <= MAX_DATA_KEY_LENGTH for key in keys)


STEPS: Final[tuple[tuple[Step, collector.RejectReason.ValueType], ...]] = (
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
