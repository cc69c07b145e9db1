"""What a stranger sends costs no more than plain text of the same size: each parser and redactor by its worst inputs.

What is compared with is good input of the same kind: ordinary events, a page's text with prices and addresses in it, a
robot's user agent. Time of the process, and the least of several, so that a busy machine changes nothing.
"""

import base64
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

import pytest
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.request_context import minimize_context
from footfall_collector.sites import Site, Sites
from footfall_eventlog.sites import load_sites
from footfall_gateway.beacons.cors import Cors
from footfall_gateway.beacons.endpoint import _has_opted_out, _pixel_body
from footfall_gateway.beacons.envelope import BeaconError, decode_beacon
from footfall_gateway.browser.cookie import _DOMAIN, _host

from tests.tools.batches import batch, context, message

T = TypeVar("T", str, bytes)
AT_MOST = 5
SIZE = 60_000
TEXT = (
    "Gooseneck kettle, 49.90 EUR, no. 4006381333931, https://shop.example/p?item=kettle&code=SKU1&to=dana@shop.example "
)
PLAIN = TEXT * (SIZE // len(TEXT))


def filled(piece: str) -> str:
    return piece * (SIZE // len(piece))


def costs(*calls: tuple[Callable[[T], object], T], is_clear: Callable[..., bool] = lambda *_: False) -> list[float]:
    """Nanoseconds a byte or character of each call: the least that is found until four more rounds find no less.

    In a round all are called in turn, so that a slow minute of the machine is a slow one for all. Two rounds are enough
    if `is_clear` then says so.
    """
    least, rounds, without_less = [float("inf")] * len(calls), 0, 0
    while without_less < 4 and not (rounds > 1 and is_clear(*least)):
        rounds, without_less = rounds + 1, without_less + 1
        for number, (parse, sent) in enumerate(calls):
            started = time.process_time_ns()
            parse(sent)
            took = (time.process_time_ns() - started) / len(sent)
            if took < 0.98 * least[number]:
                without_less = 0
            least[number] = min(least[number], took)
    return least


def assert_costs_no_more(parse: Callable[[T], object], hostile: T, plain: T, spare_ns: float = 0) -> None:
    cost, plain_cost = costs(
        (parse, hostile), (parse, plain), is_clear=lambda cost, plain_cost: 2 * cost < AT_MOST * plain_cost + spare_ns
    )
    assert cost < AT_MOST * plain_cost + spare_ns


def body(*events: bytes) -> bytes:
    return b"[%b]" % b",".join(events)


def decoded(sent: bytes) -> None:
    with suppress(BeaconError):
        decode_beacon(sent)


ORDINARY = (
    b'{"eventName":"PageEntered","eventID":"0123456789ABCDEF0123456789ABCDEF","timestamp":1767606012466,'
    b'"visitID":"d23f0824-128b-4f33-8c5c-7fd0a6a3a450","pageID":"0123456789ABCDEF0123456789ABCDEF",'
    b'"url":"https://shop.example/p?item=kettle","data":{"title":"Gooseneck kettle","referrer":"https://shop.example/"}}'
)
BEACON = body(*[ORDINARY] * 100)
HALF = rb"\ud83d"


def large(text: bytes) -> bytes:
    """A body of 1 MB, in events of 60 KB; the last text ends in half of a surrogate pair."""
    events = [b'{"eventName":"A","data":{"t":"%b"}}' % (text * (SIZE // len(text)))] * 16
    return body(*events, b'{"eventName":"%b"}' % HALF)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(large(rb"\\"), id="escaped backslashes"),
        pytest.param(large(HALF), id="halves of pairs"),
        pytest.param(large(rb"\ud83d\ude00"), id="pairs"),
        pytest.param(large(rb"\u00e9"), id="escapes"),
        pytest.param(large("é".encode()), id="two bytes a letter"),
        pytest.param(body(*[b"5"] * 500_000), id="numbers instead of events"),
        pytest.param(body(*[b"{}"] * 21_000), id="objects instead of events, within 64 KiB"),
        pytest.param(body(*[b"{}"] * 340_000), id="objects instead of events"),
        pytest.param(body(*[b'{"eventID":"x","timestamp":"now","%b":1}' % (b"x" * 300)] * 1_000), id="bad events"),
        pytest.param(b'{"events":[{}],"dropped":%b}' % body(*[b"[]"] * 300_000), id="lists in what is ignored"),
        pytest.param(b'{"timestamp":%b}' % (b"1" * SIZE), id="digits"),
        pytest.param(b'{"dropped":%b}' % (b"1" * SIZE), id="digits in what is ignored"),
        pytest.param(b"[" * 500_000 + b"]" * 500_000, id="nested"),
    ],
)
def test_what_is_no_beacon_costs_no_more_than_one(sent: bytes) -> None:
    assert_costs_no_more(decoded, sent, BEACON)


@cache
def beacon_cost() -> float:
    return costs((decoded, BEACON))[0]


def pixel(sent: bytes) -> None:
    with suppress(BeaconError):
        _pixel_body({"method": "GET", "query_string": sent})


@pytest.mark.parametrize("piece", [b"&", b"&a=b", b"%65", b"%", b"+", b"e=&", b"=", b"e=%", b"&e=eyJ9"])
def test_the_query_of_a_pixel_costs_no_more_than_a_plain_one(piece: bytes) -> None:
    plain = b"e=" + base64.urlsafe_b64encode(ORDINARY * (SIZE * 3 // 4 // len(ORDINARY)))
    assert_costs_no_more(pixel, piece * (len(plain) // len(piece)), plain)


WORST = [
    *(
        "-eyJ",
        "eyJaaaaaaaa.",
        "a.eyJ",
        "&a=%25",
        "%26a%3D",
        "%26token%3Da",
        "%2526pw%253Da",
        "?&#=",
        "=",
        ";pin=1",
        "cv",
    ),
    *("password", "token=", "&pw=a", "&key=a-", "&code=a1b2c3d4e5f6a7b8c9", "%25", "%40", "pass-", "pin", "[]="),
    *(
        "4111 ",
        "4",
        "+4",
        "1.1,",
        r"\n4111",
        r"\u00a04",
        "4111111111111111 ",
        "4111.1111.1111.1111 ",
        "4111111111111111,",
    ),
    *("DE89370400440532013000 ", "NO9386011117947 ", "AB12 ", "://a@", "://", "@", "a@b.c ", "a@", "a.", "a%2B", "é"),
    *(r"\"pw\":\"a\",", r"\"pw\":[", r"\"pw\":{", r"\"", r"\\", r"\\\"", "%3A%2F%2Fa%40"),
    *("?_gt_link=a", "&_gt_link=a", "?_gt_link", "%3F_gt_link%3Da%26", "_gt_link=a&?"),
]
redactor = Redactor(["coupon"])


def as_data(text: str) -> None:
    redactor.mask_json(b'{"title":"%b","pw":1}' % text.encode())


@pytest.mark.parametrize("around", ["{}", "=&{}", "?{}=x"])
@pytest.mark.parametrize("piece", WORST)
def test_hostile_text_costs_no_more_than_plain_text(piece: str, around: str) -> None:
    hostile = around.format(filled(piece))
    for redact in (as_data, redactor.mask_text):
        assert_costs_no_more(redact, hostile, PLAIN)


admission = Admission(Sites(), redactor, max_event_age_ms=DAY_MS)


def admitted(json: str) -> None:
    admission.admit(batch(message(data=json.encode())), 0)


@pytest.mark.parametrize(
    "piece",
    [
        *("1,", "[],", "{},", '"",', '{"a":1},', "[[[[[]]]]],", "4111111111111111,", "-1e5,", '{"token":{}},', '"{[",'),
        *('{"password":[]},', '{"value":1},', '{"name":"pw","value":1},', '{"name":"pw"},', '{"userID":4},', r'"\"",'),
        *('{"title":"@"},', '{"":""},', '{"name":"a","name":"pw","a":1,"a":1,"a":1},'),
        pytest.param("1" * 3_999 + ",", id="numbers nearly too long"),
    ],
)
def test_data_of_many_pieces_costs_no_more_than_plain_text(piece: str) -> None:
    hostile = f'{{"title":[{filled(piece)}1],"pw":1}}'
    plain = f'{{"title":"{PLAIN}","pw":1}}'
    assert_costs_no_more(admitted, hostile, plain)


def identified(attributes: bytes) -> None:
    admission.admit(batch(message("UserInfo", data=b'{"userID":"dana"%b}' % attributes)), 0)


def attributes(piece: str) -> bytes:
    """As many names as an event has room for, each as long as one that can link a contact."""
    name = (piece * 256)[:256].encode()
    return b"".join(b',"name%d":"%b"' % (number, name) for number in range(SIZE // len(name)))


MARKS = "a" + "\u0301\u0316" * 127
ODD = ["\U0001f408", "é", "\u200b", "a\u200b", "a\u0301", MARKS, "\u3316", "a\u3316", "\ufdfa", "\ufb03"]


@pytest.mark.parametrize("piece", ODD)
def test_attributes_of_odd_characters_cost_no_more_than_plain_ones(piece: str) -> None:
    assert_costs_no_more(identified, attributes(piece), attributes("Dana "))


ROBOT = "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/142.0.0.0 Safari/537.36"


def of_user_agent(user_agent: str) -> None:
    # With something new in front, so that it is not remembered.
    minimize_context(context(user_agent=f"{time.process_time_ns()} {user_agent}"), 0, None)


@pytest.mark.parametrize(
    "piece", ["a", "Bot/", "spider ", "bot", "CUBOT; ", "Linux; U; CUBOT ", "(", "1.", "Android ; "]
)
def test_a_user_agent_costs_no_more_than_that_of_a_robot(piece: str) -> None:
    longest = piece * (1_024 // len(piece))
    cost, plain_cost = costs((of_user_agent, longest), (of_user_agent, ROBOT))
    assert cost * len(longest) < AT_MOST * plain_cost * len(ROBOT)


HEADERS: list[tuple[Callable[[str], object], str]] = [
    (lambda text: _has_opted_out(text.encode()), "0"),
    (_DOMAIN.fullmatch, "shop"),
    (lambda text: _host(f"//{text}"), "shop"),
    (lambda text: Cors(load_sites(None)).headers(text.encode()), "https://shop.example"),
    (lambda text: load_sites(None).find(text, text), "https://shop.example"),
    (lambda text: Sites([Site("shop", ("https://*.shop.example",))]).find("", text), "https://shop.example"),
]


@pytest.mark.parametrize("piece", ["a.", ".", "a-", ",", "1,", "[", "@", "https://", "://"])
@pytest.mark.parametrize(("parse", "ordinary"), HEADERS)
def test_headers_cost_no_more_than_plain_ones(parse: Callable[[str], object], ordinary: str, piece: str) -> None:
    plain, hostile = (text * (SIZE // len(text)) for text in (ordinary, piece))
    # All headers have at most 64 KiB, a body 1 MiB: headers may cost as much as the largest body of a beacon.
    assert_costs_no_more(parse, hostile, plain, spare_ns=16 * beacon_cost())
