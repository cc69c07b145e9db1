"""Trackers of other makers: what each message of each protocol becomes, by table, and whole visits by the reference."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid5

import pytest
from footfall_collector.admission import Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from footfall_eventlog.admitted import transition_of
from footfall_gateway.beacons import BeaconError, Envelope, TooManyEventsError
from footfall_gateway.beacons.intake import Beacon, Sender, batch_of
from footfall_gateway.trackers import matomo, posthog, segment, snowplow
from footfall_gateway.trackers.translation import Request, as_uuid, milliseconds
from footfall_timeline import Transition, VisitState, merge

from tests.tools.attributions import attribution_at
from tests.tools.reference import Reference
from tests.tools.trackers import SDKS, Sdk, random_visit

NOW_MS = 1_795_867_200_000
"""Noon of 28 November 2026, in UTC."""
DEVICE = "0b1d6f2a-6f0d-4b53-9d2c-2f9f0c3a7e11"
SESSION = "5c571c1e-8a44-4f4e-9a3e-0d1f6f2a7b22"
MESSAGE = "b17112d1-937b-45a0-be62-5066c96b432d"
PAGE = "https://shop.example/loans"
TRANSLATORS: dict[str, tuple[dict[str, str], Callable[[Request, bytes], Envelope]]] = {
    "segment": (segment.PATHS, segment.translate),
    "posthog": (posthog.PATHS, posthog.translate),
    "snowplow": (snowplow.PATHS, snowplow.translate),
    "matomo": (matomo.PATHS, matomo.translate),
}

Item = dict[str, Any]


def translated(
    protocol: str, path: str, body: bytes | Item = b"", headers: dict[bytes, bytes] | None = None
) -> Envelope:
    """The envelope of a request: a POST, or a GET when there is no body."""
    paths, translate = TRANSLATORS[protocol]
    path, _, query = path.partition("?")
    text = json.dumps(body).encode() if isinstance(body, dict) else body
    request = Request(paths[path], query.encode(), headers or {}, NOW_MS)
    return translate(request, text or query.encode())


def tracked(envelope: Envelope) -> list[tuple[str | None, dict[str, Any]]]:
    """Name and data of each event."""
    assert not envelope.rejections, envelope.rejections
    return [(event.event_name, json.loads(bytes(event.data))) for event in envelope.events]


# --- what all have in common


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("2026-11-28T12:00:00.000Z", NOW_MS),
        ("2026-11-28T13:00:00+01:00", NOW_MS),
        ("2026-11-28 12:00:00", NOW_MS),
        (str(NOW_MS), NOW_MS),
        (NOW_MS + 0.75, NOW_MS),
        ("yesterday", None),
        ("²", None),
        ("", None),
        (None, None),
    ],
)
def test_times_of_every_form(sent: str | float | None, expected: int | None) -> None:
    assert milliseconds(sent) == expected


def test_ids_that_are_no_uuids_always_become_the_same_ones() -> None:
    assert as_uuid(DEVICE.upper().replace("-", "")) == DEVICE
    assert as_uuid("ajs-next-17") == as_uuid("ajs-next-17") == "c5ba03e9-6813-5527-bea8-3c0fb7c9b25b"
    assert as_uuid("ajs-next-18") != as_uuid("ajs-next-17")


@pytest.mark.parametrize(
    ("protocol", "path", "body", "words"),
    [
        ("segment", "/v1/batch", b"{", "the body is not JSON"),
        ("segment", "/v1/batch", b"\xff", "the body is not UTF-8"),
        ("segment", "/v1/batch", b'{"batch":{}}', "events: expected array, got object"),
        ("segment", "/v1/t", b'{"writeKey":1}', "writeKey: expected str, got int"),
        ("posthog", "/e", b"hello", "the body is not JSON"),
        ("posthog", "/e", b"data=%7B", "the body is not JSON"),
        ("posthog", "/batch", b'{"batch":[', "the body is not JSON"),
        ("snowplow", "/com.snowplowanalytics.snowplow/tp2", b"[]", "body: expected object, got array"),
        ("matomo", "/matomo.php", b'{"requests":1}', "events: expected array, got int"),
        ("posthog", "/e", b"&".join([b"a=1"] * 1_001), "the request has more than 1000 fields"),
    ],
)
def test_a_body_of_another_kind_is_refused_with_its_fault(protocol: str, path: str, body: bytes, words: str) -> None:
    with pytest.raises(BeaconError) as refused:
        translated(protocol, path, body)
    assert str(refused.value) == words


def test_half_of_a_surrogate_pair_is_all_that_is_lost() -> None:
    body = b'{"anonymousId":"a","event":"E","properties":{"name":"cut \\ud83d"}}'
    assert tracked(translated("segment", "/v1/t", body)) == [("E", {"name": "cut \ufffd"})]


def test_numbers_are_not_changed() -> None:
    body = b'{"anonymousId":"a","event":"E","properties":{"n":12345678901234567890123,"x":1e999}}'
    [event] = translated("segment", "/v1/t", body).events
    assert bytes(event.data) == b'{"n":12345678901234567890123,"x":1e999}'


def test_more_events_than_a_beacon_may_have_are_refused() -> None:
    page = {"type": "page", "anonymousId": "a"}
    assert len(translated("segment", "/v1/batch", {"batch": [page] * 1_000}).events) == 1_000
    with pytest.raises(TooManyEventsError):
        translated("segment", "/v1/batch", {"batch": [page] * 1_001})
    with pytest.raises(TooManyEventsError):  # with a UserInfo before each
        translated("segment", "/v1/batch", {"batch": [page | {"userId": "dana"}] * 501})


def test_an_item_with_a_fault_does_not_affect_the_others() -> None:
    good = {"type": "track", "event": "E", "anonymousId": "a"}
    items = [good, {"type": "track", "event": 5}, {"type": "track", "event": "E"}, 7, {**good, "x": "y" * 70_000}]
    envelope = translated("segment", "/v1/batch", {"batch": items})
    assert envelope.positions == [0]
    assert [(rejection.position, rejection.reason, rejection.message) for rejection in envelope.rejections] == [
        (1, "malformed", "event: expected str, got int"),
        (2, "invalid_visit_id", "anonymousId, userId: one of them must be given"),
        (3, "malformed", "body: expected object, got int"),
        (4, "too_large", "event: at most 65536 bytes"),
    ]


# --- Segment and RudderStack

MESSAGES: list[tuple[str, Item, list[tuple[str, Item]]]] = [
    ("/v1/t", {"event": "AddToCart", "properties": {"sku": "A-1"}}, [("AddToCart", {"sku": "A-1"})]),
    ("/v1/track", {"event": "AddToCart"}, [("AddToCart", {})]),
    ("/v1/t", {"event": "AddToCart", "userId": "dana"}, [("AddToCart", {})]),
    ("/v1/t", {"event": "Signed Out"}, [("SignOut", {})]),
    ("/v1/t", {"event": "logout"}, [("SignOut", {})]),
    ("/v1/t", {"event": "User Logged Out"}, [("SignOut", {})]),
    (
        "/v1/p",
        {"name": "Loans", "properties": {"title": "Our loans", "referrer": "https://search.example/"}},
        [("PageEntered", {"name": "Loans", "title": "Our loans", "referrer": "https://search.example/"})],
    ),
    ("/v1/page", {"userId": "dana"}, [("UserInfo", {"userID": "dana"}), ("PageEntered", {})]),
    ("/v1/p", {"properties": {"referrer": "$direct"}}, [("PageEntered", {})]),
    ("/v1/s", {"name": "Home"}, [("PageEntered", {"name": "Home"})]),
    (
        "/v1/i",
        {"userId": "dana", "traits": {"email": "dana@shop.example", "userID": "other"}},
        [("UserInfo", {"userID": "dana", "email": "dana@shop.example"})],
    ),
    ("/v1/i", {"userId": 42, "context": {"traits": {"phone": "1"}}}, [("UserInfo", {"phone": "1", "userID": "42"})]),
    (
        "/v1/i",
        {"userId": "dana", "traits": {"footfallToken": "a.b.c"}},
        [("SignIn", {"token": "a.b.c", "userID": "dana"})],
    ),
    ("/v1/i", {"userId": "", "traits": {"email": "x"}}, [("Identify", {"email": "x"})]),
    ("/v1/g", {"groupId": "g1", "traits": {"plan": "pro"}}, [("Group", {"groupId": "g1", "plan": "pro"})]),
    ("/v1/a", {"previousId": "a", "userId": "dana"}, []),
    ("/v1/t", {"event": "SignIn", "userId": "dana", "properties": {"x": 1}}, [("SignIn", {"x": 1, "userID": "dana"})]),
]


@pytest.mark.parametrize(("path", "message", "expected"), MESSAGES)
def test_messages_of_segment(path: str, message: Item, expected: list[tuple[str, Item]]) -> None:
    assert tracked(translated("segment", path, {"anonymousId": DEVICE, **message})) == expected


def test_ids_times_and_context_of_segment() -> None:
    message = {
        "type": "page",
        "messageId": MESSAGE,
        "anonymousId": DEVICE,
        "originalTimestamp": "2026-11-28T11:59:00.000Z",
        "timestamp": "2026-11-28T11:00:00.000Z",
        "context": {"page": {"url": PAGE}, "locale": "en-US"},
    }
    envelope = translated("segment", "/v1/batch", {"batch": [message], "sentAt": "2026-11-28T12:00:00.000Z"})
    [event] = envelope.events
    assert (event.event_id, event.global_visit_id, event.page_id) == (MESSAGE, DEVICE, MESSAGE)
    assert (event.timestamp, envelope.sent_ms) == (NOW_MS - 60_000, NOW_MS)
    assert (event.url, event.language_code) == (PAGE, "en-US")
    assert event.visit_id == str(uuid5(UUID(DEVICE), "2026-11-28"))

    message["properties"], message["context"] = {"url": PAGE + "/1"}, {"sessionId": 1795867100000}
    [event] = translated("segment", "/v1/batch", {"batch": [message]}).events
    assert (event.url, event.visit_id) == (PAGE + "/1", str(uuid5(UUID(DEVICE), "1795867100000")))

    [event] = translated("segment", "/v1/t", {"event": "E", "userId": "dana"}).events  # of a server
    assert (event.global_visit_id, event.timestamp) == (as_uuid("user/dana"), NOW_MS)


@pytest.mark.parametrize(
    ("path", "body", "headers", "site"),
    [
        ("/v1/t", {"writeKey": "shop"}, {}, "shop"),
        ("/v1/t", {}, {b"authorization": b"Basic " + base64.b64encode(b"shop:")}, "shop"),
        ("/v1/batch", {}, {b"authorization": b"basic c2hvcA=="}, "shop"),
        ("/beacon/v1/batch?writeKey=shop", {}, {}, "shop"),
        ("/v1/t", {}, {b"authorization": b"Basic ?"}, None),
        ("/v1/t", {}, {b"authorization": b"Bearer c2hvcA=="}, None),
    ],
)
def test_the_write_key_is_the_site(path: str, body: Item, headers: dict[bytes, bytes], site: str | None) -> None:
    assert translated("segment", path, body or b"{}", headers).site == site


# --- PostHog

POSTHOG: list[tuple[Item, list[tuple[str, Item]]]] = [
    ({"event": "AddToCart", "properties": {"sku": "A-1", "$lib": "web"}}, [("AddToCart", {"sku": "A-1"})]),
    (
        {"event": "$pageview", "properties": {"title": "Loans", "$referrer": "https://search.example/"}},
        [("PageEntered", {"referrer": "https://search.example/", "title": "Loans"})],
    ),
    ({"event": "$pageview", "properties": {"$referrer": "$direct"}}, [("PageEntered", {})]),
    (
        {"event": "$pageview", "properties": {"$user_id": "dana"}},
        [("UserInfo", {"userID": "dana"}), ("PageEntered", {})],
    ),
    ({"event": "$pageleave", "properties": {"$prev_pageview_duration": 2.5}}, [("PageExited", {"duration": 2.5})]),
    (
        {
            "event": "$identify",
            "properties": {"distinct_id": "dana", "$anon_distinct_id": DEVICE},
            "$set": {"email": "dana@shop.example"},
            "$set_once": {"email": "old", "plan": "pro", "$initial_referrer": "x"},
        },
        [("UserInfo", {"email": "dana@shop.example", "plan": "pro", "userID": "dana"})],
    ),
    (
        {"event": "$set", "properties": {"$user_id": "dana", "$set": {"phone": "1"}}},
        [("UserInfo", {"phone": "1", "userID": "dana"})],
    ),
    (
        {"event": "$identify", "properties": {"distinct_id": "dana", "$set": {"footfallToken": "a.b.c"}}},
        [("SignIn", {"token": "a.b.c", "userID": "dana"})],
    ),
    ({"event": "$set", "properties": {"$set": {"phone": "1"}}}, []),
    ({"event": "logged_out"}, [("SignOut", {})]),
    ({"event": "$autocapture"}, []),
    ({"event": "$snapshot"}, []),
    ({"event": "$groupidentify"}, []),
    ({"event": "$create_alias"}, []),
]


@pytest.mark.parametrize(("event", "expected"), POSTHOG)
def test_events_of_posthog(event: Item, expected: list[tuple[str, Item]]) -> None:
    properties = {"distinct_id": DEVICE, "$device_id": DEVICE} | event.get("properties", {})
    assert tracked(translated("posthog", "/e", event | {"properties": properties})) == expected


def test_ids_times_and_context_of_posthog() -> None:
    properties = {
        "token": "shop",
        "distinct_id": "dana",
        "$device_id": DEVICE,
        "$session_id": SESSION,
        "$pageview_id": "p1",
        "$current_url": PAGE,
        "$browser_language": "en-US",
        "$time": (NOW_MS - 2_000) / 1_000,
    }
    event = {"event": "$pageleave", "uuid": MESSAGE, "timestamp": "2026-11-28T11:59:00.000Z", "properties": properties}
    body = {"api_key": "bank", "batch": [event], "sent_at": "2026-11-28T12:00:00.000Z"}
    envelope = translated("posthog", "/batch", body)
    [one] = envelope.events
    assert (one.event_id, one.global_visit_id, one.visit_id, one.page_id) == (MESSAGE, DEVICE, SESSION, "p1")
    assert (one.timestamp, one.url, one.language_code) == (NOW_MS - 60_000, PAGE, "en-US")
    assert (envelope.sent_ms, envelope.site, one.site) == (NOW_MS, "bank", "shop")

    del event["timestamp"]
    text = json.dumps([event]).encode()
    for sent in (
        text,
        b"data=" + quote(text).encode(),
        b"data=" + quote(base64.b64encode(text)).encode(),
        b"data=" + base64.b64encode(text),
        base64.b64encode(text),
    ):
        envelope = translated("posthog", f"/e?_={NOW_MS}", sent)
        [one] = envelope.events
        assert (one.event_id, one.timestamp, envelope.sent_ms) == (MESSAGE, NOW_MS - 2_000, NOW_MS)


# --- Snowplow

TP2 = "/com.snowplowanalytics.snowplow/tp2"


def self_describing(schema: str, data: Item) -> str:
    outer = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
    return json.dumps({"schema": outer, "data": {"schema": schema, "data": data}})


def base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


CART = self_describing("iglu:example.shop/add_to_cart/jsonschema/1-0-0", {"sku": "ÀÿA-1"})
SIGN_IN = self_describing("iglu:example.shop/SignIn/jsonschema/1-0-0", {"footfallToken": "a.b.c"})
SNOWPLOW: list[tuple[Item, list[tuple[str, Item]]]] = [
    (
        {"e": "pv", "page": "Loans", "refr": "https://x/"},
        [("PageEntered", {"title": "Loans", "referrer": "https://x/"})],
    ),
    ({"e": "pv", "uid": "dana"}, [("UserInfo", {"userID": "dana"}), ("PageEntered", {})]),
    ({"e": "pp", "uid": "dana"}, [("Heartbeat", {})]),
    ({"e": "ue", "ue_pr": CART}, [("add_to_cart", {"sku": "ÀÿA-1"})]),
    ({"e": "ue", "ue_px": base64url(CART)}, [("add_to_cart", {"sku": "ÀÿA-1"})]),
    ({"e": "ue", "ue_pr": SIGN_IN, "uid": "dana"}, [("SignIn", {"token": "a.b.c", "userID": "dana"})]),
    (
        {"e": "se", "se_ca": "shop", "se_ac": "add", "se_la": "A-1", "se_va": "2"},
        [("add", {"category": "shop", "label": "A-1", "value": "2"})],
    ),
    ({"e": "se", "se_ca": "user", "se_ac": "logout", "uid": "dana"}, [("SignOut", {"category": "user"})]),
    ({"e": "tr", "tr_id": "1", "tr_tt": 9.5}, [("Transaction", {"orderId": "1", "total": "9.5"})]),
    ({"e": "ti", "ti_id": "1", "ti_sk": "A"}, [("TransactionItem", {"orderId": "1", "sku": "A"})]),
    ({"e": "zz"}, []),
]


@pytest.mark.parametrize(("event", "expected"), SNOWPLOW)
def test_events_of_snowplow(event: Item, expected: list[tuple[str, Item]]) -> None:
    assert tracked(translated("snowplow", TP2, {"schema": "x", "data": [{"duid": DEVICE, **event}]})) == expected
    assert tracked(translated("snowplow", "/i?" + urlencode({"duid": DEVICE, **event}))) == expected


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"e": "ue", "ue_px": "%%%"}, "ue_px: must be base64url"),
        ({"e": "ue", "ue_pr": "{"}, "the body is not JSON"),
        ({"e": "ue"}, "the body is not JSON"),
        ({"e": "ue", "ue_pr": self_describing("add_to_cart", {})}, "schema: must be iglu:vendor/name/format/version"),
        ({"e": "pv", "co": "5"}, "body: expected object, got int"),
    ],
)
def test_events_of_snowplow_with_a_fault_are_rejected(event: Item, message: str) -> None:
    [rejection] = translated("snowplow", TP2, {"data": [{"duid": DEVICE, **event}]}).rejections
    assert (rejection.reason, rejection.message) == ("malformed", message)


def test_ids_times_and_context_of_snowplow() -> None:
    entities = {
        "schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0",
        "data": [
            {"schema": "iglu:example/other/jsonschema/1-0-0", "data": {"id": "x"}},
            {"schema": "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0", "data": {"id": "p1"}},
        ],
    }
    event = {
        "e": "pv",
        "eid": MESSAGE,
        "duid": DEVICE,
        "sid": SESSION,
        "aid": "shop",
        "dtm": str(NOW_MS - 60_000),
        "stm": str(NOW_MS),
        "url": PAGE,
        "lang": "en-US",
    }
    for context in ({"co": json.dumps(entities)}, {"cx": base64url(json.dumps(entities))}):
        envelope = translated("snowplow", TP2, {"data": [event | context]})
        [one] = envelope.events
        assert (one.event_id, one.global_visit_id, one.visit_id, one.page_id) == (MESSAGE, DEVICE, SESSION, "p1")
        assert (one.timestamp, envelope.sent_ms, one.site) == (NOW_MS - 60_000, NOW_MS, "shop")
        assert (one.url, one.language_code) == (PAGE, "en-US")


# --- Matomo

MATOMO: list[tuple[Item, list[tuple[str, Item]]]] = [
    (
        {"url": PAGE, "action_name": "Loans", "urlref": "https://x/"},
        [("PageEntered", {"title": "Loans", "referrer": "https://x/"})],
    ),
    ({"url": PAGE, "uid": "dana"}, [("UserInfo", {"userID": "dana"}), ("PageEntered", {})]),
    ({"url": PAGE, "pf_net": "5"}, [("PageEntered", {})]),
    ({"url": PAGE, "new_visit": "1"}, [("SignOut", {}), ("PageEntered", {})]),
    ({"url": PAGE, "ping": "1", "uid": "dana"}, [("Heartbeat", {})]),
    (
        {"url": PAGE, "e_c": "shop", "e_a": "AddToCart", "e_n": "A-1", "e_v": "2", "ca": "1"},
        [("AddToCart", {"category": "shop", "name": "A-1", "value": "2"})],
    ),
    ({"url": PAGE, "e_c": "user", "e_a": "Logout", "uid": "dana"}, [("SignOut", {"category": "user"})]),
    (
        {"url": PAGE, "e_c": "user", "e_a": "SignIn", "e_n": "a.b.c", "uid": "dana"},
        [("SignIn", {"token": "a.b.c", "userID": "dana"})],
    ),
    (
        {"url": PAGE, "search": "loan", "search_count": "3"},
        [("Search", {"keyword": "loan", "count": "3"})],
    ),
    ({"url": PAGE, "link": "https://x/"}, [("Outlink", {"url": "https://x/"})]),
    ({"url": PAGE, "download": "https://x/f.pdf"}, [("Download", {"url": "https://x/f.pdf"})]),
    ({"url": PAGE, "idgoal": "3", "revenue": "9"}, [("Goal", {"goal": "3", "revenue": "9"})]),
    ({"url": PAGE, "idgoal": "0", "ec_id": "77", "revenue": "9"}, [("Order", {"orderId": "77", "revenue": "9"})]),
    ({"url": PAGE, "idgoal": "0", "revenue": "9"}, [("CartUpdated", {"revenue": "9"})]),
    ({"url": PAGE, "c_n": "banner", "ca": "1"}, []),
    ({"url": PAGE, "ma_id": "1", "ca": "1"}, []),
]


@pytest.mark.parametrize(("parameters", "expected"), MATOMO)
def test_requests_of_matomo(parameters: Item, expected: list[tuple[str, Item]]) -> None:
    form = urlencode({"idsite": "1", "rec": "1", "_id": "0123456789abcdef", **parameters})
    assert tracked(translated("matomo", "/matomo.php?" + form)) == expected
    assert tracked(translated("matomo", "/piwik.php", form.encode())) == expected
    assert tracked(translated("matomo", "/matomo.php", {"requests": ["?" + form, form]})) == expected * 2


def test_ids_times_and_context_of_matomo() -> None:
    form = {"idsite": "7", "_id": "0123456789abcdef", "url": PAGE, "pv_id": "aB3dE6", "rand": "12345"}
    [event] = translated("matomo", "/matomo.php", urlencode(form).encode()).events
    device = as_uuid("0123456789abcdef")
    assert (event.global_visit_id, event.visit_id) == (device, str(uuid5(UUID(device), "2026-11-28")))
    assert (event.site, event.page_id, event.url, event.timestamp) == ("7", "aB3dE6", PAGE, NOW_MS)

    [counted] = translated("matomo", "/matomo.php", urlencode(form | {"_idvc": "3"}).encode()).events
    assert counted.visit_id == str(uuid5(UUID(device), "3"))

    later = translated("matomo", "/matomo.php", urlencode(form | {"cdo": "60"}).encode()).events[0]
    assert (later.event_id, later.timestamp) == (event.event_id, NOW_MS - 60_000)
    other = translated("matomo", "/matomo.php", urlencode(form | {"rand": "6"}).encode()).events[0]
    assert other.event_id != event.event_id
    for created in (str(NOW_MS // 1_000 - 9), "2026-11-28 11:59:51"):
        [event] = translated("matomo", "/matomo.php", urlencode(form | {"cdt": created}).encode()).events
        assert event.timestamp == NOW_MS - 9_000


# --- whole visits


@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: str(sdk.name))
@pytest.mark.parametrize("seed", range(20))
def test_duplicate_late_and_shuffled_messages_make_the_visit_that_happened(sdk: Sdk, seed: int) -> None:
    chance = random.Random(f"{sdk.name} {seed}")  # noqa: S311 - repeatable, not secret
    visit = random_visit(chance, NOW_MS - 600_000)
    messages = [sdk.message(visit, step) for step in visit.steps]
    arriving = messages + chance.sample(messages, len(messages) // 2)
    chance.shuffle(arriving)
    reference = Reference()
    expected = [event for step in visit.steps for event in sdk.events(step)]
    visit_id = sdk.visit_id(visit)
    reference.visits[visit_id] = {event.event_id: event for event in expected}

    transitions: list[Transition] = []
    events = {}
    admission = Admission(Sites(), Redactor(), max_event_age_ms=86_400_000)
    while arriving:
        count = chance.randint(1, 4)
        _, path, body = sdk.request(arriving[:count], NOW_MS)
        del arriving[:count]
        envelope = translated(sdk.name, path.replace("/?", "?"), body)
        assert not envelope.rejections
        batch = batch_of([Beacon(Sender(NOW_MS), envelope)])
        assert not admission.admit(batch, NOW_MS)
        assert {event.site for event in batch.events} == {"shop"}
        transitions += filter(None, map(transition_of, batch.events))
        events.update({event.event_id: event for event in batch.events})

    assert {event.visit_id for event in events.values()} == {visit_id}
    state = VisitState(visit_id, merge(transitions))
    found = {
        (event.event_time_ms, event.event_name): attribution_at(state, event.event_time_ms, event.event_id)[:2]
        for event in events.values()
    }
    stamps = reference.walk(visit_id).stamps
    assert {key: (attribution[0].name, attribution[1]) for key, attribution in found.items()} == {
        (event.at_ms, event.name): stamps[event.event_id][:2] for event in expected
    }
