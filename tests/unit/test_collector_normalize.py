"""Validation and normalisation of an event."""

import json
from typing import Any

import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_collector.normalize import STEPS
from footfall_eventlog.events import MAX_DATA_DEPTH
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.batches import message

UPPER = "6B0D549B6F03475A9600A35A099950D8"
DASHED = "6b0d549b-6f03-475a-9600-a35a099950d8"


def normalized(event: Event) -> str | None:
    """Run the steps; return the name of the reject reason, or None."""
    for step, reason in STEPS:
        if rule := step(event):
            assert ": " in rule
            return collector.RejectReason.Name(reason).removeprefix("REJECT_REASON_").lower()
    return None


def named(*keys: str) -> bytes:
    """Return an object in a list in an object, with these keys."""
    return json.dumps({"a": [dict.fromkeys(keys, 0)]}).encode()


def nested(levels: int) -> bytes:
    """Return an object of this depth."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "u" * 8_193}, "invalid_url"),
        ({"event_id": ""}, "invalid_event_id"),
        ({"event_id": "not-an-id"}, "invalid_event_id"),
        ({"event_id": "{" + DASHED + "}"}, "invalid_event_id"),
        ({"event_id": DASHED + "\n"}, "invalid_event_id"),
        ({"visit_id": ""}, "invalid_visit_id"),
        ({"visit_id": "../../etc/passwd"}, "invalid_visit_id"),
        ({"visit_id": UPPER[:-1]}, "invalid_visit_id"),
        ({"global_visit_id": "x"}, "invalid_global_visit_id"),
        ({"event_name": ""}, "invalid_event_name"),
        ({"event_name": "n" * 257}, "invalid_event_name"),
        ({"browser_page_id": "p" * 129}, "invalid_page_id"),
        ({"browser_page_id": "p\x00"}, "invalid_page_id"),
        ({"browser_page_id": "p\x85"}, "invalid_page_id"),
        ({"category": "c" * 1_025}, "invalid_text"),
        ({"language_code": "l" * 65}, "invalid_text"),
        ({"timestamp_ms": 0}, "invalid_timestamp"),
        ({"timestamp_ms": -1}, "invalid_timestamp"),
        ({"timestamp_ms": 253_402_300_800_000}, "invalid_timestamp"),
        ({"data": b"[]"}, "invalid_data"),
        ({"data": b"null"}, "invalid_data"),
        ({"data": b"{"}, "invalid_data"),
        ({"data": b"{} {}"}, "invalid_data"),
        ({"data": b'{"a":NaN}'}, "invalid_data"),
        ({"data": b'{"a":1e999}'}, "invalid_data"),
        ({"data": b'{"a":"\xff"}'}, "invalid_data"),
        ({"data": b'{"a":"\\ud800"}'}, "invalid_data"),
        ({"data": b'{"a":%b}' % (b"1" * 4_301)}, "invalid_data"),
        ({"data": nested(33)}, "invalid_data"),
        ({"data": named("k" * 257)}, "invalid_data"),
        ({"data": named(*map(str, range(1_001)))}, "invalid_data"),
        ({"data": b'{"a":' + b"[" * 60_000}, "invalid_data"),
        ({"data": nested(10_000)}, "invalid_data"),
    ],
)
def test_a_broken_rule_gives_its_reject_reason(fields: dict[str, Any], reason: str) -> None:
    assert normalized(message(**fields)) == reason


@pytest.mark.parametrize(
    "fields",
    [
        {"event_name": "n" * 256},
        {"event_name": "Fußbodenheizung 🔥"},
        {"browser_page_id": "ä" * 128},
        {"url": "ü" * 8_192},
        {"category": "c" * 1_024, "language_code": "l" * 64},
        {"timestamp_ms": 1},
        {"timestamp_ms": 253_402_300_799_999},
        {"data": b""},
        {"data": b'{"a":%b}' % (b"1" * 4_300)},
        {"data": nested(32)},
        {"data": named("k" * 256, *map(str, range(998)))},
        {"data": {"text": "[{" * 100}},
        {"data": {"text": '\\"[[' * 100, "list": [[]] * 100}},
    ],
)
def test_values_at_the_limits_are_accepted_unchanged(fields: dict[str, Any]) -> None:
    event = message(**fields)
    sent = Event.FromString(event.SerializeToString())
    assert normalized(event) is None
    event.ClearField("event_type")
    assert event == sent


@pytest.mark.parametrize("field", ["event_id", "visit_id", "global_visit_id"])
@pytest.mark.parametrize("sent", [UPPER, UPPER.lower(), DASHED, DASHED.upper()])
def test_ids_are_stored_dashed_and_in_lower_case(field: str, sent: str) -> None:
    event = message(**{field: sent})
    assert normalized(event) is None
    assert getattr(event, field) == DASHED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, event_pb2.EVENT_TYPE_SYSTEM) for name in ("VisitStarted", "PageEntered", "PageExited")),
        *((name, event_pb2.EVENT_TYPE_SYSTEM) for name in ("SignIn", "SignOut", "UserInfo")),
        *((name, event_pb2.EVENT_TYPE_BUSINESS) for name in ("AddToCart", "signin", "Timeout-30")),
    ],
)
@pytest.mark.parametrize("sent", list(event_pb2.EventType.values()))
def test_the_type_follows_from_the_name(
    name: str, expected: event_pb2.EventType.ValueType, sent: event_pb2.EventType.ValueType
) -> None:
    event = message(name, event_type=sent)
    assert normalized(event) is None
    assert event.event_type == expected


def test_no_message_quotes_the_event() -> None:
    for fields in ({"event_id": "SECRET"}, {"url": "SECRET" * 2_000}, {"data": b'{"a":SECRET}'}):
        event = message(**fields)
        assert not any("SECRET" in (step(event) or "") for step, _ in STEPS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=60,
)


def depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


@given(st.dictionaries(st.text(), json_values), st.integers(0, 40), st.booleans())
def test_data_of_at_most_32_levels_is_accepted_byte_for_byte(
    value: dict[str, Any], more_levels: int, is_ascii: bool
) -> None:
    for _ in range(more_levels):
        value = {"[": [value]} if more_levels % 2 else {"{": value}
    sent = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "replace")
    event = message(data=sent)
    assert normalized(event) == (None if depth(json.loads(sent)) <= MAX_DATA_DEPTH else "invalid_data")
    assert event.data_json == sent
