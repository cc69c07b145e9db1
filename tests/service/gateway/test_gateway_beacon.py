"""The beacon endpoint over a real socket: every response, and the batches that reach the collector."""

import asyncio
import base64
import gzip
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall_servicekit.errors import RequestError

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually
from tests.tools.later import later
from tests.tools.visits import event, new_id, now_ms

VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
STORED = collector.Outcome(status=collector.OUTCOME_STATUS_STORED)
REJECTED = collector.Outcome(
    status=collector.OUTCOME_STATUS_REJECTED,
    reason=collector.REJECT_REASON_TOO_OLD,
    message="timestamp: happened longer ago than this server accepts",
)
UNAVAILABLE = collector.Outcome(status=collector.OUTCOME_STATUS_UNAVAILABLE)
SUPPRESSED = collector.Outcome(status=collector.OUTCOME_STATUS_SUPPRESSED)
# What a later collector may answer: a status and a reason with the number 99.
LATER_STATUS = collector.Outcome.FromString(b"\x08\x63")
LATER_REASON = collector.Outcome.FromString(REJECTED.SerializeToString() + b"\x10\x63")


def page(**more: Any) -> dict[str, Any]:
    return event("PageEntered", VISIT, now_ms(), **more)


def answering(*outcomes: collector.Outcome) -> Any:
    """A collector that returns these outcomes for every batch."""

    async def answer(_batch: EventBatch) -> collector.CollectResponse:
        stored = sum(outcome == STORED for outcome in outcomes)
        return collector.CollectResponse(stored_count=stored, outcomes=outcomes)

    return answer


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


async def test_every_field_of_an_event_and_its_request_reaches_the_collector(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    sent = page(globalVisitID="6513270e-269e-4d37-b2a7-4de452e6b438", site="shop", eventType="SYSTEM")
    before = now_ms()
    answer = await http.post(
        "/beacon",
        json={"sentAt": 1767606012466, "site": "bank", "events": [sent]},
        headers={
            "Origin": "https://shop.example",
            "User-Agent": "Browser/1.0 (X11)",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    )
    assert (answer.status_code, answer.content) == (204, b"")
    [batch] = scripted_collector.batches
    [context], [got] = batch.contexts, batch.events
    assert before <= context.received_time_ms <= now_ms()
    assert (context.sent_time_ms, context.site, context.origin) == (1767606012466, "bank", "https://shop.example")
    assert (context.user_agent, context.address) == ("Browser/1.0 (X11)", "127.0.0.1")
    assert context.traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert (got.event_id, got.event_name, got.visit_id) == (sent["eventID"], "PageEntered", VISIT)
    assert (got.global_visit_id, got.browser_page_id) == (sent["globalVisitID"], sent["pageID"])
    assert (got.category, got.url, got.language_code) == (sent["category"], sent["url"], "en-US")
    assert (got.timestamp_ms, got.data_json, got.site) == (sent["timestamp"], b"{}", "shop")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "text/plain;charset=UTF-8", "Application/JSON ; charset=utf-8"],
)
async def test_json_is_accepted_under_both_media_types(http: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert (await http.post("/beacon", content=json.dumps(page()), headers=headers)).status_code == 204


@pytest.mark.parametrize("encoding", ["deflate", "identity, gzip", "x"])
async def test_another_encoding_is_refused_with_the_name_of_the_header(http: httpx.AsyncClient, encoding: str) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": encoding}
    answer = await http.post("/beacon", content=gzip.compress(json.dumps(page()).encode()), headers=headers)
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "gzip, identity")
    assert answer.json()["message"].startswith("Content-Encoding: must be gzip or identity")


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_gzip_body_is_accepted(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector, in_pieces: bool
) -> None:
    sent = [page(timestamp=at_ms) for at_ms in range(1, 10)]
    body = gzip.compress(json.dumps(sent).encode())

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 50):
            yield body[at : at + 50]

    headers = {"Content-Type": "text/plain", "Content-Encoding": "GZIP"}
    answer = await http.post("/beacon", content=pieces() if in_pieces else body, headers=headers)
    assert answer.status_code == 204
    [got] = scripted_collector.batches
    assert [event.timestamp_ms for event in got.events] == [*range(1, 10)]


async def test_a_gzip_body_is_limited_as_any_other_once_it_is_unpacked(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    for body, status, words in (
        (b"[]", 400, "the body is not gzip"),
        (gzip.compress(b"[]"), 400, "events: must not be empty"),
        (
            gzip.compress(b" " * 100_000),
            413,
            "the body has more than 100 times its size unpacked; send it uncompressed",
        ),
        (
            gzip.compress(secrets.token_hex(600_000).encode()),
            413,
            "the body has more than 1048576 bytes",
        ),
    ):
        answer = await http.post("/beacon", content=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["message"].startswith(words)


async def test_identity_encoding_is_accepted(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": "Identity"}
    assert (await http.post("/beacon", content=json.dumps(page()), headers=headers)).status_code == 204
    mark = {"e": base64.urlsafe_b64encode(b"\xef\xbb\xbf" + json.dumps(page()).encode()).decode()}
    assert (await http.get("/beacon.gif", params=mark, headers={"Content-Encoding": "gzip"})).status_code == 200


async def test_fractional_milliseconds_are_accepted(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    sent = {"sentAt": 1790000000000.75, "events": [page(timestamp=1790000000000.25), page(timestamp=1e300)]}
    assert (await http.post("/beacon", json=sent)).status_code == 204
    [got] = scripted_collector.batches
    assert got.contexts[0].sent_time_ms == 1790000000000
    assert [event.timestamp_ms for event in got.events] == [1790000000000, 2**63 - 1]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"{", "text/plain", 400, "the body is not JSON"),
        (b"[]", "text/plain", 400, "events: must not be empty"),
        (b"{}", "application/xml", 415, "Content-Type: must be application/json or text/plain"),
        (b"{}", "", 415, "Content-Type: must be application/json or text/plain"),
        (b"[" + b"{}," * 1000 + b"{}]", "text/plain", 413, "events: at most 1000 in one beacon"),
        (b" " * 3_000_000, "text/plain", 413, "the body has more than 1048576 bytes"),
        (b" " * 7_900_000, "text/plain", 413, "the body has more than 1048576 bytes"),
    ],
)
async def test_a_body_that_is_not_a_beacon_is_refused_with_a_message(
    http: httpx.AsyncClient, body: bytes, content_type: str, status: int, words: str
) -> None:
    answer = await http.post("/beacon", content=body, headers={"Content-Type": content_type} if content_type else {})
    assert (answer.status_code, answer.json()) == (status, {"accepted": 0, "rejected": [], "message": words})


@pytest.mark.parametrize(
    ("outcomes", "status", "rejected"),
    [
        ([STORED, STORED], 204, None),
        ([STORED, SUPPRESSED], 204, None),
        ([STORED, REJECTED], 200, [(1, "too_old", None)]),
        ([REJECTED, REJECTED], 400, [(0, "too_old", None), (1, "too_old", None)]),
        ([UNAVAILABLE, STORED], 200, [(0, "unavailable", True)]),
        ([UNAVAILABLE, REJECTED], 503, [(0, "unavailable", True), (1, "too_old", None)]),
        ([UNAVAILABLE, UNAVAILABLE], 503, [(0, "unavailable", True), (1, "unavailable", True)]),
        ([later(STORED), LATER_REASON], 200, [(1, "rejected", None)]),
        ([STORED, LATER_STATUS], 200, [(1, "unavailable", True)]),  # that is no promise
    ],
)
async def test_outcomes_become_one_response(
    http: httpx.AsyncClient,
    scripted_collector: ScriptedCollector,
    outcomes: list[collector.Outcome],
    status: int,
    rejected: list[Any] | None,
) -> None:
    scripted_collector.answer = answering(*outcomes)
    events = [page(), page()]
    answer = await http.post("/beacon", json=events)
    assert answer.status_code == status
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert ("Access-Control-Expose-Headers" in answer.headers) == (status == 503)
    if rejected is None:
        assert not answer.content
        return
    body = answer.json()
    assert body["accepted"] == len(outcomes) - len(rejected)
    assert [(r["index"], r["reason"], r.get("retry")) for r in body["rejected"]] == rejected
    assert [r["eventID"] for r in body["rejected"]] == [events[r["index"]]["eventID"] for r in body["rejected"]]
    assert all(r["message"] for r in body["rejected"])


async def test_events_refused_by_gateway_and_collector_are_listed_together(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    scripted_collector.answer = answering(STORED, REJECTED)
    answer = await http.post("/beacon", json=["no event", page(), page(), {"timestamp": "no time"}])
    assert answer.status_code == 200
    assert [(r["index"], r["reason"]) for r in answer.json()["rejected"]] == [
        (0, "malformed"),
        (2, "too_old"),
        (3, "malformed"),
    ]


async def test_a_beacon_of_malformed_events_does_not_reach_the_collector(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    assert (await http.post("/beacon", json=[1, 2])).status_code == 400
    assert not scripted_collector.batches


@pytest.mark.parametrize("make_error", [RequestError.unavailable, RequestError.exhausted])
async def test_a_collector_that_cannot_store_is_503_with_retry_after(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector, make_error: Callable[[str, int], RequestError]
) -> None:
    async def refuse(_batch: EventBatch) -> collector.CollectResponse:
        # Made here: pytest keeps parameters, and the traceback of an error that was raised keeps the gRPC server.
        raise make_error("the log cannot store", 6_100)

    scripted_collector.answer = refuse
    answer = await http.post("/beacon", json=page())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert answer.headers["Access-Control-Expose-Headers"] == "retry-after", "pages of other origins may read it"


async def test_a_failing_collector_is_503_without_details(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    async def break_down(_batch: EventBatch) -> collector.CollectResponse:
        raise RuntimeError("internal text")

    scripted_collector.answer = break_down
    answer = await http.post("/beacon", json=page())
    assert answer.status_code == 503
    assert "internal text" not in answer.text


async def test_an_unavailable_collector_is_503() -> None:
    async with running_gateway(COLLECTOR_TARGET="127.0.0.1:1") as http:
        answer = await http.post("/beacon", json=page())
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1


async def test_a_response_without_outcomes_confirms_nothing(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    async def short(_batch: EventBatch) -> collector.CollectResponse:
        return collector.CollectResponse(stored_count=1)

    scripted_collector.answer = short
    assert (await http.post("/beacon", json=[page(), page()])).status_code == 503


async def test_waiting_beacons_share_a_batch_and_each_gets_its_own_response(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    """The first batch is held back; the beacons that arrive meanwhile are one batch, of which some are refused."""
    may_go_on = asyncio.Event()

    async def refuse_the_odd(batch: EventBatch) -> collector.CollectResponse:
        if len(scripted_collector.batches) == 1:
            await may_go_on.wait()
        odd = [int(e.event_name) % 2 for e in batch.events]
        outcomes = [REJECTED if is_odd else STORED for is_odd in odd]
        return collector.CollectResponse(stored_count=len(odd) - sum(odd), outcomes=outcomes if any(odd) else [])

    scripted_collector.answer = refuse_the_odd
    first = asyncio.create_task(http.post("/beacon", json=page(eventName="0")))
    await eventually(lambda: len(scripted_collector.batches) == 1)
    later = [asyncio.create_task(http.post("/beacon", json=page(eventName=str(n)))) for n in range(1, 21)]
    await eventually(lambda: sum(len(batch.events) for batch in scripted_collector.batches) == 21)
    may_go_on.set()
    assert (await first).status_code == 204
    assert [(await answer).status_code for answer in later] == [400, 204] * 10
    assert len(scripted_collector.batches) < 21
    batch = max(scripted_collector.batches, key=lambda batch: len(batch.events))
    assert [e.context_index for e in batch.events] == list(range(len(batch.contexts)))


async def test_a_full_queue_refuses_beacons_and_recovers(scripted_collector: ScriptedCollector) -> None:
    may_go_on = scripted_collector.hold()
    settings = {"max_batches_in_flight": 1, "max_queued_events": 1_000, "large_body_bytes": 1024 * 1024}
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, **settings) as http:
        held = [asyncio.create_task(http.post("/beacon", json=page()))]
        await eventually(lambda: len(scripted_collector.batches) == 1)
        held.append(asyncio.create_task(http.post("/beacon", json=[page()] * 999)))
        await asyncio.sleep(0.1)
        refused = await http.post("/beacon", json=[page()] * 2)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        may_go_on.set()
        assert [(await answer).status_code for answer in held] == [204, 204]
        assert (await http.post("/beacon", json=page())).status_code == 204


async def test_a_large_beacon_leaves_alone_and_the_others_do_not_wait_for_it(
    scripted_collector: ScriptedCollector,
) -> None:
    may_go_on = asyncio.Event()

    async def hold_large(batch: EventBatch) -> collector.CollectResponse:
        if any(len(event.data_json) > 1_000 for event in batch.events):
            await may_go_on.wait()
        return collector.CollectResponse(stored_count=len(batch.events))

    scripted_collector.answer = hold_large
    settings = {"max_batches_in_flight": 1, "large_body_bytes": 2_000, "batch_max_wait_ms": 200}
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, **settings) as http:
        large = [asyncio.create_task(http.post("/beacon", json=page() | {"data": {"a": "x" * 3_000}})) for _ in "ab"]
        await eventually(lambda: len(scripted_collector.batches) >= 1)
        others = await asyncio.gather(*(http.post("/beacon", json=page()) for _ in range(20)))
        assert [answer.status_code for answer in others] == [204] * 20
        assert not any(answer.done() for answer in large)
        may_go_on.set()
        assert [(await answer).status_code for answer in large] == [204, 204]


@pytest.mark.parametrize("name", ["SignIn", "UserInfo", "SignOut"])
async def test_beacons_that_identify_nobody_do_not_wait_for_those_that_do(
    scripted_collector: ScriptedCollector, name: str
) -> None:
    may_go_on = asyncio.Event()

    async def hold_identifying(batch: EventBatch) -> collector.CollectResponse:
        if any(event.event_name == name for event in batch.events):
            await may_go_on.wait()
        return collector.CollectResponse(stored_count=len(batch.events))

    scripted_collector.answer = hold_identifying
    identifying = page() | {"eventName": name, "data": {"userID": "dana"}}
    settings = {"max_batches_in_flight": 1, "batch_max_wait_ms": 200}
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, **settings) as http:
        beacons = ([identifying], [page(), identifying])
        held = [asyncio.create_task(http.post("/beacon", json=beacon)) for beacon in beacons]
        others = await asyncio.gather(*(http.post("/beacon", json=page()) for _ in range(20)))
        assert [answer.status_code for answer in others] == [204] * 20
        assert not any(answer.done() for answer in held)
        may_go_on.set()
        assert [(await answer).status_code for answer in held] == [204, 204]


async def test_a_stopping_gateway_answers_requests_in_progress(scripted_collector: ScriptedCollector) -> None:
    async def slow(batch: EventBatch) -> collector.CollectResponse:
        await asyncio.sleep(0.3)
        return collector.CollectResponse(stored_count=len(batch.events))

    scripted_collector.answer = slow
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target) as http:
        answer = asyncio.create_task(http.post("/beacon", json=page()))
        await eventually(lambda: len(scripted_collector.batches) == 1)
    assert (await answer).status_code == 204


async def test_the_pixel_is_an_image_once_the_event_is_stored(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    answer = await http.get("/beacon.gif", params={"e": encoded(page())})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/gif")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content.startswith(b"GIF89a")
    assert (await http.get("/beacon.gif", params={"e": encoded([page(), page()]).rstrip("=")})).status_code == 200
    assert sum(len(batch.events) for batch in scripted_collector.batches) == 3

    scripted_collector.answer = answering(REJECTED)
    refused = await http.get("/beacon.gif", params={"e": encoded(page())})
    assert (refused.status_code, refused.json()["rejected"][0]["reason"]) == (400, "too_old")


@pytest.mark.parametrize("query", ["", "e=", "e=%25%25", "e=a", "e=bm8", "f=e30"])
async def test_a_pixel_without_an_event_is_400(http: httpx.AsyncClient, query: str) -> None:
    assert (await http.get(f"/beacon.gif?{query}")).status_code == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/beacon"), ("PUT", "/beacon"), ("POST", "/beacon.gif")])
async def test_other_methods_are_405(http: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["Allow"]


async def test_an_open_site_may_be_read_from_any_page_without_credentials(http: httpx.AsyncClient) -> None:
    preflight = await http.options(
        "/beacon", headers={"Origin": "https://any.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type, content-encoding, traceparent"
    for answer in (preflight, await http.post("/beacon", json=page(), headers={"Origin": "https://any.example"})):
        assert answer.headers["Access-Control-Allow-Origin"] == "https://any.example"
        assert answer.headers["Vary"] == "origin"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.fixture
async def limited(scripted_collector: ScriptedCollector, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway whose sites limit their origins."""
    sites = tmp_path / "sites.toml"
    sites.write_text(
        '[[site]]\nname = "shop"\norigins = ["https://shop.example", "https://*.shop.example"]\n'
        '[[site]]\nname = "bank"\norigins = ["https://bank.example:8443"]\n'
    )
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, SITES_FILE=sites) as client:
        yield client


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://shop.example", True),
        ("https://www.eu.shop.example", True),
        ("https://bank.example:8443", True),
        ("http://www.shop.example", False),
        ("https://bank.example", False),
        ("https://shop.example.evil.example", False),
        ("null", False),
    ],
)
async def test_only_pages_of_configured_origins_may_read_an_answer(
    limited: httpx.AsyncClient, origin: str, allowed: bool
) -> None:
    for answer in (
        await limited.options("/beacon", headers={"Origin": origin}),
        await limited.post("/beacon", json=page(), headers={"Origin": origin}),
    ):
        assert answer.status_code == 204
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)


async def test_an_endless_body_times_out(scripted_collector: ScriptedCollector) -> None:
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, body_timeout_ms=100) as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(b"POST /beacon HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n{")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head
        writer.close()
        await writer.wait_closed()


async def test_an_event_is_stored_when_its_client_disconnects(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    may_go_on = scripted_collector.hold()
    first = asyncio.create_task(http.post("/beacon", json=page()))
    await eventually(lambda: len(scripted_collector.batches) == 1)
    event_id, body = new_id(), b""
    body = json.dumps(page(eventID=event_id)).encode()
    with socket.create_connection((http.base_url.host, http.base_url.port or 0)) as leaving:
        head = f"POST /beacon HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        leaving.sendall(head.encode() + body)
    staying = asyncio.create_task(http.post("/beacon", json=page()))
    await asyncio.sleep(0.1)
    may_go_on.set()
    assert [(await answer).status_code for answer in (first, staying)] == [204, 204]
    await eventually(lambda: event_id in {e.event_id for batch in scripted_collector.batches for e in batch.events})
