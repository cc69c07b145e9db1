"""The body of a beacon: three forms, each event decoded on its own, `data` kept verbatim."""

import contextlib
import json

import pytest
from footfall_eventlog.events import MAX_EVENTS
from footfall_gateway.beacons.envelope import BeaconError, Rejection, TooManyEventsError, fitting, read
from hypothesis import given
from hypothesis import strategies as st


def test_one_event_an_array_and_an_envelope_are_read_alike() -> None:
    one = b'{"eventName":"A","sentAt":7,"site":"shop"}'
    for body, sent_ms, site in (
        (one, 7, "shop"),
        (b"  [" + one + b"]", 0, None),
        (b'{"sentAt":5,"site":"x","events":[' + one + b"]}", 5, "x"),
    ):
        envelope = read(body)
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
def test_a_body_that_is_no_beacon_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(BeaconError) as refused:
        read(body)
    assert str(refused.value) == words


def test_more_events_than_a_beacon_may_bring_are_refused() -> None:
    assert len(read(b"[" + b",".join([b"{}"] * MAX_EVENTS) + b"]").events) == MAX_EVENTS
    with pytest.raises(TooManyEventsError):
        read(b"[" + b",".join([b"{}"] * (MAX_EVENTS + 1)) + b"]")


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
def test_a_bad_event_is_named_and_the_others_are_kept(bad: bytes, rejection: Rejection) -> None:
    envelope = read(b'[{"eventName":"A"},' + bad + b',{"eventName":"B"}]')
    assert [event.event_name for event in envelope.events] == ["A", "B"]
    assert envelope.positions == [0, 2]
    assert envelope.rejections == [rejection]


def test_null_counts_as_not_given_and_other_keys_are_ignored() -> None:
    [event] = read(b'{"eventName":"A","url":null,"data":null,"timestamp":null,"more":[1]}').events
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
def test_a_time_may_have_a_fraction_which_is_left_out(sent: bytes, whole: int, among_bad_ones: bool) -> None:
    more = b",5" if among_bad_ones else b""  # then each event is decoded by itself
    envelope = read(b'{"sentAt":%b,"events":[{"timestamp":%b}%b]}' % (sent, sent, more))
    [event] = envelope.events
    assert event.timestamp is not None
    assert (fitting(event.timestamp), envelope.sent_ms) == (whole, whole)


@pytest.mark.parametrize("body", [b'{"eventName":"A"}', '[{"eventName":"A","url":"é"}]'.encode()])
def test_a_byte_order_mark_is_passed_over(body: bytes) -> None:
    assert [event.event_name for event in read(b"\xef\xbb\xbf" + body).events] == ["A"]
    with pytest.raises(BeaconError):
        read(body + b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("told", "believed"), [("7", 7), ("0", 0), ("-1", 0), ("1e30", 0), ('"7"', 0), ("null", 0), (str(10**18), 10_000)]
)
def test_how_many_events_a_browser_has_lost_is_believed_within_reason(told: str, believed: int) -> None:
    assert read(b'{"events":[{"eventName":"A"}],"dropped":%b}' % told.encode()).dropped == believed


def test_data_is_kept_verbatim() -> None:
    data = b'{ "b" :1.50, "a":"\\u00e9\xc3\xa9", "a":{"n":1e400} }'
    [event] = read(b'{"data":' + data + b"}").events
    assert bytes(event.data) == data


@pytest.mark.parametrize("sent", [b"[1, 2]", b'"{}"', b"7.50", b"false", b'""', b"[]", b'"a\\ud83d\\ude00"'])
@pytest.mark.parametrize("among_bad_ones", [False, True])
def test_data_that_are_no_object_are_kept_as_sent_under_value(sent: bytes, among_bad_ones: bool) -> None:
    more = b",5" if among_bad_ones else b""  # then each event is decoded by itself
    [event] = read(b'[{"data": %b }%b]' % (sent, more)).events
    assert bytes(event.data) == b'{"value":%b}' % sent


def test_half_a_surrogate_pair_costs_neither_its_event_nor_the_others() -> None:
    # What JSON.stringify makes of a text that was cut in the middle of an emoji.
    body = (
        rb'[{"eventName":"A","data":{"t":"cut \ud83d","ok":"\ud83d\ude00","path":"C:\\ud83d"}},{"eventName":"\udc00B"}]'
    )
    first, second = read(body).events
    assert json.loads(bytes(first.data)) == {"t": "cut \ufffd", "ok": "\U0001f600", "path": "C:\\ud83d"}
    assert second.event_name == "\ufffdB"


def test_of_so_many_halves_that_nobody_cut_them_off_not_all_are_mended() -> None:
    assert len(read(b'{"eventName":"%b"}' % (rb"\ud83d" * 1_000)).events[0].event_name or "") == 1_000
    with pytest.raises(BeaconError):
        read(b'{"eventName":"%b"}' % (rb"\ud83d" * 1_001))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
known_keys = st.sampled_from(["eventName", "eventID", "visitID", "timestamp", "data", "site", "sentAt", "events"])


@given(st.lists(json_values | st.dictionaries(known_keys, json_values), min_size=1, max_size=8))
def test_any_array_gives_each_of_its_elements_one_place(items: list[object]) -> None:
    envelope = read(json.dumps(items).encode())
    places = envelope.positions + [rejection.position for rejection in envelope.rejections]
    assert sorted(places) == list(range(len(items)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_beacon_or_refused(body: bytes) -> None:
    with contextlib.suppress(BeaconError):
        read(body)
