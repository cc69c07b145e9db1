"""Marks of a visit: what is remarkable about its events, for the scorecard of its day.

The marks of a visit are a set that only grows. They follow from single events and from pairs of events with one id, so
neither the order of arrival nor entries of the log that come again matter. There are fewer than a hundred marks, and
none holds anything that a page may have sent except a placeholder of the default list.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from footfall.event.v1.event_pb2 import IGNORED_REASON_PLACEHOLDER, Event, EventContext
from footfall_eventlog.events import USER_ID_KEYS
from footfall_eventlog.placeholders import listed_placeholder

from footfall_history.storage.documents import has_same_content

LATE: Final = "late"
"""`late:300`: an event arrived more than 300 seconds after it happened; and so for each of LATE_S."""
LATE_S: Final = (300, 3_600, 86_400)
IGNORED: Final = "ignored"
"""`ignored:2`: a user id was ignored for the reason with this number (IgnoredReason)."""
PLACEHOLDER: Final = "placeholder"
"""`placeholder:undefined`: the ignored user id was this placeholder of the default list."""
REPEATED: Final = "repeated"
"""An event arrived by two requests. An entry of the log that is read again is still one request."""
CONFLICT: Final = "conflict"
"""Two events had one id and different content."""

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def marks_of(event: Event, context: EventContext) -> Iterator[str]:
    """The marks that a visit gets from one event."""
    delay_ms = context.received_time_ms - event.event_time_ms
    if delay_ms > LATE_S[0] * 1000:
        yield f"{LATE}:{LATE_S[bisect_left(LATE_S, delay_ms / 1000) - 1]}"
    if event.ignored_reason:
        yield f"{IGNORED}:{event.ignored_reason}"
        if event.ignored_reason == IGNORED_REASON_PLACEHOLDER and (value := _placeholder(event.data_json)):
            yield f"{PLACEHOLDER}:{value}"


def marks_of_repetition(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """The marks that a visit gets from two documents of one event id."""
    if one["received_ms"] != other["received_ms"]:
        yield REPEATED
    if not has_same_content(one, other):
        yield CONFLICT


def _placeholder(data_json: bytes) -> str:
    """The placeholder under the first of the usual keys that has a value; empty unless the default list has it."""
    try:
        fields = _decode_fields(data_json or b"{}")
        values = [msgspec.json.decode(fields[key]) for key in USER_ID_KEYS if key in fields]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # of an event that was repaired or replayed
        return ""
    value = next((value for value in values if value not in (None, "")), None)
    return listed_placeholder(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""
