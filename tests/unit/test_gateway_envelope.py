"""The body of a beacon: three forms, each event decoded on its own, `data` kept verbatim."""

import contextlib
import json

import pytest
from footfall_eventlog.events import MAX_EVENTS
from footfall_gateway.beacons.envelope import BeaconError, Rejection, TooManyEventsError, decode_beacon, to_int64
from hypothesis import given
from hypothesis import strategies as st


def test_one_event_an_array_and_an_envelope_decode_alike() -> None:
    one = b'{"eventName":"A","sentAt":7,"site":"shop"}'
    for body, sent_ms, site in (
        (one, 7, "shop"),
        (b"  [" + one + b"]", 0, None),
        (b'{"sentAt":5,"site":"x","events":[' + one + b"]}", 5, "x"),
    ):
        envelope = decode_beacon(body)
        assert [event.event_name for event in envelope.events] == ["A"]
        assert envelope.events[0].site == "shop"
        assert (envelope.sent_ms, envelope.site, envelope.rejections) == (sent_ms, site, [])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'[{"a":NaN}]', "the body is not JSON"),
        (b"\xff", "the body is not UTF-8"),
        (b'{"eventName":"\xff"}', "the body is not UTF-8"),
        (b"null", "body: expected object, got null"),
        (b'"text"', "body: expected object, got str"),
        (b"[]", "events: must not be empty"),
        (b'{"events":[]}', "events: must not be empty"),
        (b'{"events":{}}', "events: expected array, got object"),
        (b'{"sentAt":"now","events":[{}]}', "sentAt: expected number, got str"),
        (b'{"site":1,"events":[{}]}', "site: expected str, got int"),
        (b"[" * 100_000 + b"]" * 100_000, "the body is nested too deeply"),
    ],
)
def test_a_body_that_is_not_a_beacon_is_refused_with_its_fault(body: bytes, words: str) -> None:
    with pytest.raises(BeaconError) as refused:
        decode_beacon(body)
    assert str(refused.value) == words


def test_too_many_events_are_refused() -> None:
    assert len(decode_beacon(b"[" + b",".join([b"{}"] * MAX_EVENTS) + b"]").events) == MAX_EVENTS
    with pytest.raises(TooManyEventsError):
        decode_beacon(b"[" + b",".join([b"{}"] * (MAX_EVENTS + 1)) + b"]")


@pytest.mark.parametrize(
    ("bad", "rejection"),
    [
        (b"5", Rejection(1, None, "malformed", "event: expected object, got int")),
        (b"null", Rejection(1, None, "malformed", "event: expected object, got null")),
        (b'{"eventID":"x","timestamp":"y"}', Rejection(1, "x", "malformed", "timestamp: expected number, got str")),
        (b'{"eventID":"x","timestamp":1e400}', Rejection(1, "x", "malformed", "timestamp: number out of range")),
        (b'{"eventID":"x","timestamp":true}', Rejection(1, "x", "malformed", "timestamp: expected number, got bool")),
        (b'{"eventID":5}', Rejection(1, None, "malformed", "eventID: expected str, got int")),
        (b'{"eventType":1}', Rejection(1, None, "malformed", "eventType: expected str, got int")),
        (
            b'{"eventID":"' + b"x" * 70_000 + b'"}',
            Rejection(1, "x" * 64, "too_large", "event: at most 65536 bytes"),
        ),
    ],
)
def test_a_malformed_event_is_listed_and_the_others_are_decoded(bad: bytes, rejection: Rejection) -> None:
    envelope = decode_beacon(b'[{"eventName":"A"},' + bad + b',{"eventName":"B"}]')
    assert [event.event_name for event in envelope.events] == ["A", "B"]
    assert envelope.positions == [0, 2]
    assert envelope.rejections == [rejection]


def test_null_counts_as_not_given_and_other_keys_are_ignored() -> None:
    [event] = decode_beacon(b'{"eventName":"A","url":null,"data":null,"timestamp":null,"more":[1]}').events
    assert (event.event_name, event.url, event.timestamp, bytes(event.data)) == ("A", None, None, b"")


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        (b"1790000000000", 1790000000000),
        (b"1790000000000.25", 1790000000000),  # performance.timeOrigin + performance.now()
        (b"1790000000000.0", 1790000000000),
        (b"1.79e12", 1790000000000),
        (b"-0.5", -1),
        (b"1e300", 2**63 - 1),
        (b"-1e300", 1 - 2**63),
    ],
)
@pytest.mark.parametrize("among_bad_ones", [False, True])
def test_the_fraction_of_a_time_is_dropped(sent: bytes, whole: int, among_bad_ones: bool) -> None:
    more = b",5" if among_bad_ones else b""  # then each event is decoded by itself
    envelope = decode_beacon(b'{"sentAt":%b,"events":[{"timestamp":%b}%b]}' % (sent, sent, more))
    [event] = envelope.events
    assert event.timestamp is not None
    assert (to_int64(event.timestamp), envelope.sent_ms) == (whole, whole)


@pytest.mark.parametrize("body", [b'{"eventName":"A"}', '[{"eventName":"A","url":"é"}]'.encode()])
def test_a_byte_order_mark_is_ignored(body: bytes) -> None:
    assert [event.event_name for event in decode_beacon(b"\xef\xbb\xbf" + body).events] == ["A"]
    with pytest.raises(BeaconError):
        decode_beacon(body + b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("reported", "counted"),
    [("7", 7), ("0", 0), ("-1", 0), ("1e30", 0), ('"7"', 0), ("null", 0), (str(10**18), 10_000)],
)
def test_the_number_of_dropped_events_is_bounded(reported: str, counted: int) -> None:
    assert decode_beacon(b'{"events":[{"eventName":"A"}],"dropped":%b}' % reported.encode()).dropped == counted


def test_data_is_kept_verbatim() -> None:
    data = b'{ "b" :1.50, "a":"\\u00e9\xc3\xa9", "a":{"n":1e400} }'
    [event] = decode_beacon(b'{"data":' + data + b"}").events
    assert bytes(event.data) == data


@pytest.mark.parametrize("sent", [b"[1, 2]", b'"{}"', b"7.50", b"false", b'""', b"[]", b'"a\\ud83d\\ude00"'])
@pytest.mark.parametrize("among_bad_ones", [False, True])
def test_data_other_than_an_object_are_wrapped_as_value(sent: bytes, among_bad_ones: bool) -> None:
    more = b",5" if among_bad_ones else b""  # then each event is decoded by itself
    [event] = decode_beacon(b'[{"data": %b }%b]' % (sent, more)).events
    assert bytes(event.data) == b'{"value":%b}' % sent


def test_half_a_surrogate_pair_loses_no_event() -> None:
    # What JSON.stringify makes of a text that was cut in the middle of an emoji.
    body = (
        rb'[{"eventName":"A","data":{"t":"cut \ud83d","ok":"\ud83d\ude00","path":"C:\\ud83d"}},{"eventName":"\udc00B"}]'
    )
    first, second = decode_beacon(body).events
    assert json.loads(bytes(first.data)) == {"t": "cut \ufffd", "ok": "\U0001f600", "path": "C:\\ud83d"}
    assert second.event_name == "\ufffdB"


def test_the_number_of_replaced_surrogates_is_bounded() -> None:
    assert len(decode_beacon(b'{"eventName":"%b"}' % (rb"\ud83d" * 1_000)).events[0].event_name or "") == 1_000
    with pytest.raises(BeaconError):
        decode_beacon(b'{"eventName":"%b"}' % (rb"\ud83d" * 1_001))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
known_keys = st.sampled_from(["eventName", "eventID", "visitID", "timestamp", "data", "site", "sentAt", "events"])


@given(st.lists(json_values | st.dictionaries(known_keys, json_values), min_size=1, max_size=8))
def test_every_element_of_an_array_has_one_position(items: list[object]) -> None:
    envelope = decode_beacon(json.dumps(items).encode())
    places = envelope.positions + [rejection.position for rejection in envelope.rejections]
    assert sorted(places) == list(range(len(items)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_beacon_or_refused(body: bytes) -> None:
    with contextlib.suppress(BeaconError):
        decode_beacon(body)
