"""Requests of trackers of other makers over HTTP: forms, answers, CORS, limits, settings."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall_gateway.beacons.endpoint import PIXEL

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.visits import now_ms

ORIGIN = {"Origin": "https://shop.example"}
TP2 = "/com.snowplowanalytics.snowplow/tp2"
SEGMENT = {"type": "track", "event": "AddToCart", "anonymousId": "a", "messageId": "m", "writeKey": "shop"}
POSTHOG = {"event": "AddToCart", "api_key": "shop", "properties": {"distinct_id": "a"}}
SNOWPLOW = {"data": [{"e": "se", "se_ac": "AddToCart", "duid": "a", "aid": "shop"}]}
MATOMO = urlencode({"e_a": "AddToCart", "_id": "a", "idsite": "shop"})
JSON = json.dumps(POSTHOG).encode()

ANSWERS = {
    "segment": ("application/json", b'{"success":true}'),
    "posthog": ("application/json", b'{"status":1}'),
    "snowplow": ("image/gif", PIXEL),
    "matomo": ("image/gif", PIXEL),
}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("segment", "POST /v1/t", {"json": SEGMENT}),
    ("segment", "POST /v1/batch/", {"json": {"writeKey": "shop", "batch": [SEGMENT]}}),
    ("posthog", "POST /e/?ip=0&ver=1", {"json": POSTHOG}),
    ("posthog", "POST /e/?compression=gzip-js", {"content": gzip.compress(JSON)}),
    ("posthog", "POST /batch/", {"content": gzip.compress(JSON), "headers": {"Content-Encoding": "gzip"}}),
    ("posthog", "POST /e/?compression=base64", {"data": {"data": base64.b64encode(JSON).decode()}}),
    ("posthog", "GET /e/?data=" + quote(base64.b64encode(JSON)), {}),
    ("snowplow", f"POST {TP2}", {"json": SNOWPLOW}),
    ("snowplow", "GET /i?" + urlencode(SNOWPLOW["data"][0]), {}),
    ("matomo", "POST /matomo.php?" + MATOMO, {}),
    ("matomo", "POST /matomo.php", {"content": MATOMO.encode()}),
    ("matomo", "POST /matomo.php", {"json": {"requests": ["?" + MATOMO]}}),
    ("matomo", "GET /piwik.php?" + MATOMO, {}),
]


async def counted(http: httpx.AsyncClient, protocol: str, status: int) -> float:
    """How many requests of a protocol were answered with a status."""
    line = f'footfall_gateway_tracker_requests_total{{protocol="{protocol}",status="{status}"}} '
    return sum(
        float(found.removeprefix(line)) for found in (await http.get("/metrics")).text.splitlines() if line in found
    )


@pytest.mark.parametrize(("protocol", "asked", "sent"), REQUESTS)
async def test_a_request_of_each_form_is_stored_and_answered_as_its_sdk_expects(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector, protocol: str, asked: str, sent: dict[str, Any]
) -> None:
    before = await counted(http, protocol, 200)
    headers = {**ORIGIN, **sent.get("headers", {}), "Sec-GPC": "1", "User-Agent": "Browser"}
    got = await http.request(*asked.split(" "), **sent | {"headers": headers})
    assert (got.status_code, got.headers["Content-Type"], got.content) == (200, *ANSWERS[protocol])
    assert got.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
    assert got.headers["Access-Control-Allow-Credentials"] == "true"
    assert got.headers["Cache-Control"] == "no-store"
    [batch] = scripted_collector.batches
    [context], [event] = batch.contexts, batch.events
    assert (event.event_name, event.site or context.site) == ("AddToCart", "shop")
    assert (context.origin, context.user_agent, context.global_privacy_control) == (ORIGIN["Origin"], "Browser", True)
    assert await counted(http, protocol, 200) == before + 1


@pytest.mark.parametrize("path", ["/v1/t", "/e/", TP2, "/matomo.php"])
async def test_a_page_of_any_origin_may_ask_with_what_sdks_send(http: httpx.AsyncClient, path: str) -> None:
    for asked, allowed in (
        ("authorization,anonymousid, sentat", "authorization,anonymousid, sentat"),
        ("a\tb", "content-type"),
        (",".join(["x"] * 21), "content-type"),
        ("x" * 2_000, "x" * 1_024),
        ("", "content-type"),
    ):
        preflight = await http.options(path, headers=ORIGIN | {"Access-Control-Request-Headers": asked})
        assert preflight.status_code == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        assert preflight.headers["Access-Control-Allow-Headers"] == allowed


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        ("/v1/t", {"content": b"{"}, 400, "the body is not JSON"),
        ("/v1/t", {"json": {"event": "E"}}, 400, "anonymousId, userId: one of them must be given"),
        ("/e", {"content": b"data=%25"}, 400, "the body is not JSON"),
        ("/e", {"content": b"\x1f\x8b"}, 400, "the body is not one complete gzip file"),
        ("/e", {"content": gzip.compress(b" " * 100_000)}, 413, "the body has more than 100 times its size"),
        ("/v1/t", {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415, "Content-Encoding: must be gzip"),
        ("/v1/batch", {"json": {"batch": [SEGMENT] * 1_001}}, 413, "events: at most 1000 in one request"),
        ("/v1/t", {"content": b" " * 1_100_000}, 413, "the body has more than 1048576 bytes"),
    ],
)
async def test_a_request_with_a_fault_is_refused_with_a_message(
    http: httpx.AsyncClient, path: str, sent: dict[str, Any], status: int, words: str
) -> None:
    answer = await http.post(path, **sent)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert words in answer.text


async def test_other_methods_are_405(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/t", json=SEGMENT)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST, OPTIONS")


async def test_a_request_without_an_event_is_a_success(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    for path, body in (
        ("/v1/batch", {"batch": []}),
        ("/v1/a", SEGMENT),
        ("/e", {"batch": [{"event": "$autocapture"}]}),
        (TP2, {"data": []}),
        ("/matomo.php", {"requests": []}),
    ):
        assert (await http.post(path, json=body)).status_code == 200
    assert not scripted_collector.batches


async def test_a_request_is_sent_again_as_a_whole_unless_all_of_it_is_stored_or_rejected(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    stored, rejected = collector.OUTCOME_STATUS_STORED, collector.OUTCOME_STATUS_REJECTED
    unavailable = collector.OUTCOME_STATUS_UNAVAILABLE
    body = {"batch": [SEGMENT, SEGMENT | {"messageId": "n"}]}
    for outcomes, status in (
        ([stored, stored], 200),
        ([stored, rejected], 200),
        ([rejected, rejected], 400),
        ([stored, unavailable], 503),
        ([unavailable, rejected], 503),
        ([unavailable, unavailable], 503),
    ):

        async def answer(_: EventBatch, outcomes: list[Any] = outcomes) -> collector.CollectResponse:
            return collector.CollectResponse(outcomes=[collector.Outcome(status=outcome) for outcome in outcomes])

        scripted_collector.answer = answer
        got = await http.post("/v1/batch", json=body)
        assert (got.status_code, "Retry-After" in got.headers) == (status, status == 503)


async def test_events_count_for_the_limits_of_their_sender(scripted_collector: ScriptedCollector) -> None:
    async with running_gateway(
        COLLECTOR_TARGET=scripted_collector.target,
        REDIS_URL="redis://127.0.0.1:1",
        RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS=10,
        rate_limit_loopback=True,
    ) as http:
        identified = {"batch": [{"type": "page", "anonymousId": "a", "userId": "dana"}] * 4}
        assert (await http.post("/v1/batch", json=identified)).status_code == 200
        assert (await http.post("/v1/batch", json={"batch": []})).status_code == 200
        assert (await http.post("/v1/t", json=SEGMENT)).status_code == 200
        refused = await http.post("/v1/t", json=SEGMENT)
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (429, True)


async def test_sdks_load_settings_that_ask_for_nothing_but_events(http: httpx.AsyncClient) -> None:
    segment = await http.get("/v1/projects/shop/settings", headers=ORIGIN)
    assert segment.json() == {"integrations": {"Segment.io": {"apiKey": "shop"}}}
    assert segment.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
    assert (await http.get("/sourceConfig/?p=npm&writeKey=shop")).json()["source"]["destinations"] == []
    assert (await http.post("/flags/?v=2", json={})).json()["featureFlags"] == {}
    assert "supportedCompression" in (await http.get("/array/shop/config")).json()
    for path in ("/v1/projects/a/b/settings", "/v1/projects//settings", "/array/config", "/v1/x"):
        assert (await http.get(path)).status_code == 404


async def test_a_wrong_clock_is_corrected_by_the_time_of_sending(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    at_ms = now_ms() - 3_600_000
    event = {"e": "pv", "duid": "a", "dtm": str(at_ms), "stm": str(at_ms + 5_000)}
    await http.post(TP2, json={"data": [event]})
    [batch] = scripted_collector.batches
    assert (batch.contexts[0].sent_time_ms, batch.events[0].timestamp_ms) == (at_ms + 5_000, at_ms)
