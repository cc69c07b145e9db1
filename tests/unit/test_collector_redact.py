"""Masking of secrets in URLs and data; everything else stays unchanged."""

import json
from typing import Any

import pytest
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tools.batches import batch, message

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJkYW5hIn0.c2lnbmF0dXJl"
VISA = "4111111111111111"
H = "9f86d081884c7d659a2feaa0c55ad015"
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
    "1111111111111117",  # not of an issuer
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
    assert redactor.mask_text(sent) == stored
    assert redactor.mask_text(stored) == stored


LINK = "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11.6513270e-269e-4d37-b2a7-4de452e6b438.1767606012466"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (f"https://pay.example/?_gt_link={LINK}", "https://pay.example/"),
        (f"https://pay.example/?_gt_link={LINK}#top", "https://pay.example/#top"),
        (f"https://pay.example/?a=1&_gt_link={LINK}", "https://pay.example/?a=1"),
        (f"https://pay.example/?_gt_link={LINK}&a=1&b=2", "https://pay.example/?a=1&b=2"),
        (f"https://pay.example/?a=1&_gt_link={LINK}&b=2#x", "https://pay.example/?a=1&b=2#x"),
        (f"https://pay.example/#/app?_gt_link={LINK}", "https://pay.example/#/app"),
        (f"/login?next=%2Fa%3F_gt_link%3D{LINK}%26b%3D2&y=2", "/login?next=%2Fa%3Fb%3D2&y=2"),
        (f"/login?next=%252Fa%253F_gt_link%253D{LINK}&y=2", "/login?next=%252Fa&y=2"),
        ("https://pay.example/?_gt_link=&_gt_link=x&a=1", "https://pay.example/?a=1"),
        ("https://pay.example/?_gt_link&a=1", "https://pay.example/?_gt_link&a=1"),
        (f"_gt_link={LINK}", f"_gt_link={LINK}"),
    ],
)
def test_visit_ids_in_links_are_removed(sent: str, stored: str) -> None:
    assert redactor.mask_text(sent) == stored
    for key in ("url", "referrer", "title", "anything"):
        data = json.dumps({key: [sent], "userID": sent}).encode()
        assert json.loads(redactor.mask_json(data)) == {key: [stored], "userID": sent}


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
    assert redactor.mask_text(sent) == sent


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("https://user:pass@host.example/x", "https://***@host.example/x"),
        ("https://u:p@ss@host.example/", "https://***@host.example/"),
        ("?next=https%3A%2F%2Fu%3Ap%40host%2F&y=1", "?next=https%3A%2F%2F***%40host%2F&y=1"),
        ("?email=dana@example.com&x=1", "?email=***&x=1"),
        ("?email=dana%2Btag%40example.co.uk#x", "?email=***#x"),
        ("?q=%3Cdana%40example.com%3E", "?q=%3C***%3E"),
        ("/u/dana@example.com/edit", "/u/***/edit"),
        ("#user=dana%2540example.com", "#user=***"),
        ("?otp=123456&pin=1234&pass=a&pw=b&passes=1&opinion=2", "?otp=***&pin=***&pass=***&pw=***&passes=1&opinion=2"),
        (
            "?tokens=a&token[]=b&user[password]=c&user[pin]=3",
            "?tokens=***&token[]=***&user[password]=***&user[pin]=***",
        ),
        ("?user%5Bpassword%5D=d&token%5B%5D=e", "?user%5Bpassword%5D=***&token%5B%5D=***"),
        (f"/a;jsessionid={H}/b;x=1?y=2#z", "/a;jsessionid=***/b;x=1?y=2#z"),
        ("?a=1;token=abc;b=2", "?a=1;token=***;b=2"),
        ("?a=1&amp;token=abc&x=1", "?a=1&amp;token=***&x=1"),
        ("?SAMLResponse=PHNhbWw&x=1", "?SAMLResponse=***&x=1"),
        ("/login?next=%2Fa%3Bjsessionid%3DABC&y=2", "/login?next=%2Fa%3Bjsessionid%3D***&y=2"),
        ("?next=%252Fa%253Ftoken%253Dabc%2526x%253D1&y=2", "?next=%252Fa%253Ftoken%253D***%2526x%253D1&y=2"),
        (f"?code={H}&state={H}&sid={H}&sig={H}", "?code=***&state=***&sid=***&sig=***"),
        (f"?auth={H}&key={H}&login_ticket={H}", "?auth=***&key=***&login_ticket=***"),
        ("?code=4%2F0AX4XfWhq8a1bC2dE3fG4&x", "?code=***&x"),
        ("?state=3f2504e0-4f89-11d3-9a0c-0305e82c3301", "?state=***"),
        ("?iban=DE89370400440532013000&coupon=x", "?iban=***&coupon=***"),
        ("?password=voilà&x=à\x85&q=dàna@éxample.com", "?password=***&x=à\x85&q=***"),
        ("?to=DE89+3704+0044+0532+0130+00&from=nl91abna0417164300", "?to=***&from=***"),
        ("?c=4111.1111.1111.1111&x", "?c=***&x"),
    ],
)
def test_what_is_personal_in_addresses_is_masked(sent: str, stored: str) -> None:
    assert redactor.mask_text(sent) == stored
    assert redactor.mask_text(stored) == stored


@pytest.mark.parametrize(
    "sent",
    [
        "?state=CA&code=SKU1&key=product-detail&sid=7&sig=on&ticket=3&auth=1",
        "?state=Rheinland-Pfalz&code=4006381333931&key=winter-sale-2026",
        "https://a.example/@medium/x?y=@z&id=a@b",
        "?iban=DE88370400440532013000&ip=192.168.100.100",
        "?languageCode=en-US&zipcode=12345&shopping=1&monkey=2",
    ],
)
def test_similar_texts_stay_as_sent(sent: str) -> None:
    assert Redactor().mask_text(sent) == sent


def test_email_addresses_are_masked_in_addresses_and_titles_unless_told_otherwise() -> None:
    data = b'{"title":"Hello dana@example.com","referrer":"https://a/?u=dana%40example.com","email":"dana@example.com"}'
    assert redactor.mask_json(data) == b'{"title":"Hello ***","referrer":"https://a/?u=***","email":"dana@example.com"}'
    original = Redactor(emails=False)
    assert original.mask_json(data) == data
    assert original.mask_text("?email=dana@example.com&token=x") == "?email=dana@example.com&token=***"


@pytest.mark.parametrize("card", CARDS)
def test_card_numbers_are_masked_in_any_context(card: str) -> None:
    assert redactor.mask_text(f"paid with {card}.") == "paid with ***."
    assert redactor.mask_text(f"{card} 123") == "*** 123"
    assert redactor.mask_json(json.dumps({"a": [{"b": card}]}).encode()) == b'{"a": [{"b": "***"}]}'


def test_a_json_number_that_is_a_card_number_is_masked() -> None:
    assert redactor.mask_json(b'{"n": 4111111111111111, "m": 1.50}') == b'{"n": "***", "m": 1.50}'


@pytest.mark.parametrize("number", NO_CARDS)
def test_other_long_numbers_stay(number: str) -> None:
    assert redactor.mask_text(f"?n={number}&m=1") == f"?n={number}&m=1"
    assert redactor.mask_json(f'{{"n": "{number}"}}'.encode()) == f'{{"n": "{number}"}}'.encode()


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
        (b'{"name": "password", "value": "x"}', b'{"name": "password", "value": "***"}'),
        (b'{"value":"x","type":"text","name":"user[cvv]"}', b'{"value":"***","type":"text","name":"user[cvv]"}'),
        (
            b'[{"name":"user","value":"dana"},{"name":"pw","type":"password","value":"x"}]',
            b'[{"name":"user","value":"dana"},{"name":"pw","type":"password","value":"***"}]',
        ),
        (
            rb'{"json":"{\"password\":\"a\\\"b\",\"n\":1,\"token\":[1,{\"b\":\"}\"}]}"}',
            rb'{"json":"{\"password\":\"***\",\"n\":1,\"token\":\"***\"}"}',
        ),
        (b'{"password":{"a":[1,"]",{"b":2}]},"x":1}', b'{"password":"***","x":1}'),
        (b'{"otp":123456,"user[password]":"x","tokens":["a"]}', b'{"otp":"***","user[password]":"***","tokens":"***"}'),
        (f'{{"state":"CA","code":"SKU1","key":"{H}"}}'.encode(), b'{"state":"CA","code":"SKU1","key":"***"}'),
        (
            rb'{"msg":"x\n4111111111111111\u00a04111111111111111"}',
            rb'{"msg":"x\n***\u00a0***"}',
        ),
        (rb'{"u":"https:\/\/u:p@h\/?token=a\/b&x=1"}', rb'{"u":"https:\/\/***@h\/?token=***&x=1"}'),
        (
            f'{{"userID":"{VISA}","n":{VISA},"a":{{"userID":{VISA}}}}}'.encode(),
            f'{{"userID":"{VISA}","n":"***","a":{{"userID":{VISA}}}}}'.encode(),
        ),
        (b'{"iban": "DE02", "Coupon": 7}', b'{"iban": "***", "Coupon": "***"}'),
        (' {"ü": {"pass-phrase": "ö"}, "ä" : "é" }'.encode(), ' {"ü": {"pass-phrase": "***"}, "ä" : "é" }'.encode()),
    ],
)
def test_secrets_in_data_are_masked_and_the_rest_stays(sent: bytes, stored: bytes) -> None:
    assert redactor.mask_json(sent) == stored
    assert redactor.mask_json(stored) == stored


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{}",
        b'{ "keyword" : "pass the key", "authors":[ ],"n":1.50 }',
        b'{ "hasToken" : true, "token":null, "password":"" }',
        f'{{ "userID" : "{VISA}" }}'.encode(),
        b'{"name":"price","value":"49.9","a":{"name":"password","value":""},"pass":null}',
        b'{"t":"1, 411111111111111, 2", "e":41111111111111111e5, "email":"dana@example.com"}',
        b'{ "at" : [1767606012466, 1767606012467] }',
    ],
)
def test_data_without_secrets_stays_as_sent(sent: bytes) -> None:
    assert redactor.mask_json(sent) == sent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["key", "user"]), inner, max_size=4)
    ),
    max_leaves=30,
)


@example("\\\x85@2&b")
@given(st.text(alphabet='ab?&#=%23D6;@./:" \\eyJ.tokenàÅ\x85\u2028', max_size=80))
def test_masking_keeps_valid_text_and_json(text: str) -> None:
    redactor.mask_text(f"{text}&token={text}@{text}.com")
    for is_ascii in (True, False):
        data = {"title": text, "token": text, text: f"{text}@{text}.com"}
        json.loads(redactor.mask_json(json.dumps(data, ensure_ascii=is_ascii).encode()))


@pytest.mark.parametrize("escape", [r"\u00e9", r"\uABCD", r"\n", r"\b", r"\f", r"\/", r"\\", r"\""])
@pytest.mark.parametrize(
    "secret", [VISA, JWT, "x@y.com", "L91ABNA0417164300", "NL91ABNA0417164300", "?pin=1", "://u:p@h"]
)
def test_an_escape_is_masked_with_all_of_it_or_not_at_all(escape: str, secret: str) -> None:
    masked = redactor.mask_json(f'{{"title":"{escape}{secret}{escape}","pw":"{escape}"}}'.encode())
    assert json.loads(masked)["pw"] == "***"


@given(json_values)
def test_masked_json_is_valid_json(value: Any) -> None:
    json.loads(redactor.mask_json(json.dumps({"author": value}).encode()))


@given(json_values, st.sampled_from([VISA, JWT, "?token=s3cr3t-v4lue", "a=b&password=s3cr3t-v4lue"]), st.booleans())
def test_a_secret_is_found_at_any_depth(value: Any, secret: str, is_ascii: bool) -> None:
    data: Any = secret
    for _ in range(3):
        data = {"x": [value, data], "y": value}
    masked = redactor.mask_json(json.dumps(data, ensure_ascii=is_ascii).encode("utf-8", "replace")).decode()
    assert not any(part in masked for part in (VISA, JWT, "s3cr3t-v4lue"))


@given(st.text(alphabet="ab?&#=%23D6+*/eyJ.token", max_size=80))
def test_masking_is_idempotent(text: str) -> None:
    masked = redactor.mask_text(text)
    assert redactor.mask_text(masked) == masked


def test_admission_masks_url_and_data_and_keeps_the_user_id() -> None:
    admission = Admission(Sites(), redactor, max_event_age_ms=DAY_MS)
    sent = batch(
        message("SignIn", {"userId": VISA, "password": "x", "token": "y"}, url="https://a.example/?sessionToken=abc")
    )
    assert admission.admit(sent, 0) == {}
    [event] = sent.events
    assert event.identity_id == VISA
    assert event.url == "https://a.example/?sessionToken=***"
    assert event.data_json == f'{{"userID":"{VISA}","password":"***"}}'.encode()


def test_admission_masks_names_categories_page_ids_and_titles() -> None:
    admission = Admission(Sites(), redactor, max_event_age_ms=DAY_MS)
    sent = batch(
        message(f"Paid with {VISA}", category=f"shop;{JWT}", browser_page_id="dana@example.com"),
        message("PageEntered", {"title": "Hello dana@example.com"}),
    )
    assert admission.admit(sent, 0) == {}
    paid, entered = sent.events
    assert (paid.event_name, paid.category, paid.browser_page_id) == ("Paid with ***", "shop;***", "***")
    assert paid.page_id
    assert (entered.event_name, entered.title) == ("PageEntered", "Hello ***")
