"""What is masked in URLs and data before they are stored, and that nothing else changes."""

import json
import time
from typing import Any

import pytest
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.batches import batch, message

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJkYW5hIn0.c2lnbmF0dXJl"
VISA = "4111111111111111"
redactor = Redactor([" coupon ", "IBAN", ""])

CARDS = [
    VISA,
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "5500005555555559",
    "2223003122003222",
    "378282246310005",
    "3782 822463 10005",
    "30569309025904",
    "6011111111111117",
    "3530111333300000",
    "6205500000000000004",
]
NO_CARDS = [
    "4111111111111112",  # the check digit is wrong
    "1767606012466",  # a time
    "1111111111111117",  # no issuer's
    "+4915112345678901",  # a telephone number
    "0.4111111111111111",  # a fraction
    "4111111111111111.5",
    "41111111111111111111",
    "41111111-1111-4111-8111-111111111111",
    "a4111111111111111",
    "id_4111111111111111",
    "1234567890.1767606012",
]


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("https://a.example/?token=abc&x=1#top", "https://a.example/?token=***&x=1#top"),
        ("https://a.example/?x=1&Password=a+b", "https://a.example/?x=1&Password=***"),
        ("https://a.example/#access_token=abc&state=1", "https://a.example/#access_token=***&state=1"),
        ("https://a.example/#/reset?resetToken=abc", "https://a.example/#/reset?resetToken=***"),
        ("?client_secret=a&api-key=b&apiKey=c&pwd=d", "?client_secret=***&api-key=***&apiKey=***&pwd=***"),
        ("?coupon=SUMMER&iban=DE02&discount=5", "?coupon=***&iban=***&discount=5"),
        (
            "/login?next=https%3A%2F%2Fa.example%2F%3Ftoken%3Dabc%26x%3D1&y=2",
            "/login?next=https%3A%2F%2Fa.example%2F%3Ftoken%3D***%26x%3D1&y=2",
        ),
        (f"/pay?q=my+{VISA}", "/pay?q=my+***"),
        ("/pay?q=4111+1111+1111+1111&r=4111%201111%201111%201111", "/pay?q=***&r=***"),
        (f"/pay?card={VISA}&n=1", "/pay?card=***&n=1"),
        ("/login?next=/b?token=a?b&y=2", "/login?next=/b?token=***&y=2"),
        (f"/verify/{JWT}", "/verify/***"),
        (f"/verify?t={JWT}#x", "/verify?t=***#x"),
        ("user=dana&password=hunter2", "user=dana&password=***"),
    ],
)
def test_secrets_in_urls_are_masked(sent: str, stored: str) -> None:
    assert redactor.address(sent) == stored
    assert redactor.address(stored) == stored


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "https://shop.example/passengers?keyword=key&author=x&page=2#tokens",
        "https://shop.example/?q=%E2%82%AC+100%&next=%2Fa%2Fb%3Fx%3D1%26keys%3D2",
        "https://shop.example/?token=&x=1",
        "https://shop.example/token/password",
        "?ts=1767606012466&id=d23f0824-128b-4f33-8c5c-7fd0a6a3a450",
        "not a url at all = ? & #",
        "?eyJ=1",
    ],
)
def test_urls_without_secrets_stay_as_sent(sent: str) -> None:
    assert redactor.address(sent) == sent


@pytest.mark.parametrize("card", CARDS)
def test_card_numbers_are_masked_wherever_they_stand(card: str) -> None:
    assert redactor.address(f"paid with {card}.") == "paid with ***."
    assert redactor.address(f"{card} 123") == "*** 123"
    assert redactor.json(json.dumps({"a": [{"b": card}]}).encode()) == b'{"a": [{"b": "***"}]}'


def test_a_number_can_be_a_card_number() -> None:
    assert redactor.json(b'{"n": 4111111111111111, "m": 1.50}') == b'{"n": "***", "m": 1.50}'


@pytest.mark.parametrize("number", NO_CARDS)
def test_other_long_numbers_stay(number: str) -> None:
    assert redactor.address(f"?n={number}&m=1") == f"?n={number}&m=1"
    assert redactor.json(f'{{"n": "{number}"}}'.encode()) == f'{{"n": "{number}"}}'.encode()


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b'{"password": "hunter2"}', b'{"password": "***"}'),
        (b'{"a": {"newPassword": ["x", 1]}, "b":  2}', b'{"a": {"newPassword": "***"}, "b":  2}'),
        (b'{"cvv": 123, "PIN": 1}', b'{"cvv": "***", "PIN": "***"}'),
        (b'{"Authorization": "Bearer abc"}', b'{"Authorization": "***"}'),
        (b'{"form": "user=dana&password=x"}', b'{"form": "user=dana&password=***"}'),
        (
            b'{"referrer": "https://a.example/?a=1\\u0026token=x"}',
            b'{"referrer": "https://a.example/?a=1\\u0026token=***"}',
        ),
        (b'[ [1.0, "?token=x"], {"k" : 1} ]', b'[ [1.0, "?token=***"], {"k" : 1} ]'),
        (f'{{"a": "{JWT}"}}'.encode(), b'{"a": "***"}'),
        (b'{"iban": "DE02", "Coupon": 7}', b'{"iban": "***", "Coupon": "***"}'),
        (' {"ü": {"pass-phrase": "ö"}, "ä" : "é" }'.encode(), ' {"ü": {"pass-phrase": "***"}, "ä" : "é" }'.encode()),
    ],
)
def test_secrets_in_data_are_masked_and_the_rest_stays(sent: bytes, stored: bytes) -> None:
    assert redactor.json(sent) == stored
    assert redactor.json(stored) == stored


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}",
        b'{ "keyword" : "pass the key", "authors":[ ],"n":1.50 }',
        b'{ "hasToken" : true, "token":null, "password":"" }',
        f'{{ "userID" : "{VISA}" }}'.encode(),
        b'{ "at" : [1767606012466, 1767606012467] }',
    ],
)
def test_data_without_secrets_stays_as_sent(sent: bytes) -> None:
    assert redactor.json(sent) == sent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["key", "user"]), inner, max_size=4)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize(
    "piece",
    ["-eyJ", "eyJaaaaaaaa.", "a.eyJ", "&a=%25", "%26a%3D", "?&#=", "4111 ", "4", "cv", "cvvx", "password", "token="],
)
@pytest.mark.parametrize("around", ["{}", "=&{}", "=&{}=", "%3D%26{}", "%26{}%3D", "?{}=x"])
def test_hostile_text_costs_no_more_than_its_length(piece: str, around: str) -> None:
    seconds = []
    for size in (15_000, 60_000):
        text = around.format(piece * (size // len(piece))).encode()
        started = time.process_time()
        redactor.json(b'{"key":"%s","%s":1}' % (text, text))
        seconds.append(time.process_time() - started)
    assert seconds[1] < 0.2 + 8 * seconds[0]


@given(json_values)
def test_what_is_masked_is_json_still(value: Any) -> None:
    json.loads(redactor.json(json.dumps({"author": value}).encode()))


@given(json_values, st.sampled_from([VISA, JWT, "?token=s3cr3t-v4lue", "a=b&password=s3cr3t-v4lue"]), st.booleans())
def test_a_secret_is_found_however_deep_it_lies(value: Any, secret: str, is_ascii: bool) -> None:
    data: Any = secret
    for _ in range(3):
        data = {"x": [value, data], "y": value}
    masked = redactor.json(json.dumps(data, ensure_ascii=is_ascii).encode("utf-8", "replace")).decode()
    assert not any(part in masked for part in (VISA, JWT, "s3cr3t-v4lue"))


@given(st.text(alphabet="ab?&#=%23D6+*/eyJ.token", max_size=80))
def test_masking_what_is_masked_changes_nothing(text: str) -> None:
    masked = redactor.address(text)
    assert redactor.address(masked) == masked


def test_admission_masks_url_and_data_and_keeps_the_user_id() -> None:
    admission = Admission(Sites(), redactor, max_event_age_ms=DAY_MS, token_leeway_s=0)
    sent = batch(
        message("SignIn", {"userId": VISA, "password": "x", "token": "y"}, url="https://a.example/?sessionToken=abc")
    )
    assert admission.admit(sent, 0) == {}
    [event] = sent.events
    assert event.identity_id == VISA
    assert event.url == "https://a.example/?sessionToken=***"
    assert event.data_json == f'{{"userID":"{VISA}","password":"***"}}'.encode()
