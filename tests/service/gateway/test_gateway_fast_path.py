"""The fast path: beacons that arrive in one chunk get the same responses as all others, in valid HTTP."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvloop
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall_gateway.beacons.connection import MAX_URL_BYTES, BoundedConnection
from footfall_gateway.beacons.intake import Intake
from footfall_servicekit.errors import RequestError
from structlog.testing import capture_logs

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually
from tests.tools.visits import event, now_ms

VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def post(*events: dict[str, Any], version: str = "1.1", headers: str = "", path: str = "/beacon") -> bytes:
    body = json.dumps(list(events)).encode()
    fixed = f"Host: x\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/{version}\r\n{fixed}{headers}\r\n".encode() + body


def page(**more: Any) -> dict[str, Any]:
    return event("PageEntered", VISIT, now_ms(), **more)


@pytest.fixture
async def connection(http: httpx.AsyncClient) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    yield reader, writer
    writer.close()
    await writer.wait_closed()


async def head(reader: asyncio.StreamReader) -> list[str]:
    async with asyncio.timeout(5):
        return (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")[:-2]


async def test_a_beacon_in_one_chunk_is_stored_and_its_connection_stays_open(
    connection: Connection, scripted_collector: ScriptedCollector
) -> None:
    reader, writer = connection
    for _ in range(2):
        writer.write(post(page(), headers="Origin: https://shop.example\r\nUser-Agent: Browser/1.0\r\n"))
        status, *headers = await head(reader)
        assert status == "http/1.1 204 no content"
        assert {line.partition(":")[0] for line in headers} == {"date", "access-control-allow-origin", "vary"}
    contexts = [batch.contexts[0] for batch in scripted_collector.batches]
    expected = ("https://shop.example", "Browser/1.0", "127.0.0.1")
    assert [(each.origin, each.user_agent, each.address) for each in contexts] == [expected] * 2
    assert all(abs(each.received_time_ms - now_ms()) < 10_000 for each in contexts)


@pytest.mark.parametrize(
    ("sec_gpc", "objects"),
    [("1", True), ("\t1 \t", True), ("1, 1", True), ("1 ,\t1", True), ("0", False), ("11", False), ("", False)],
)
async def test_global_privacy_control_counts_with_spaces_and_when_repeated(
    connection: Connection, scripted_collector: ScriptedCollector, sec_gpc: str, objects: bool
) -> None:
    reader, writer = connection
    writer.write(post(page(), headers=f"Sec-GPC: {sec_gpc}\r\n"))
    assert (await head(reader))[0] == "http/1.1 204 no content"
    assert scripted_collector.batches[0].contexts[0].global_privacy_control is objects


async def test_space_after_a_header_value_is_ignored(
    connection: Connection, scripted_collector: ScriptedCollector
) -> None:
    reader, writer = connection
    writer.write(post(page(), headers="Origin: https://shop.example \t\r\nUser-Agent: Browser/1.0 \r\n"))
    assert "access-control-allow-origin: https://shop.example" in await head(reader)
    [context] = scripted_collector.batches[0].contexts
    assert (context.origin, context.user_agent) == ("https://shop.example", "Browser/1.0")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine \t\r\n\r\n")
    assert "x-request-id: mine" in await head(reader)


async def test_each_response_names_the_origin_of_its_page(connection: Connection) -> None:
    reader, writer = connection
    for origin in ("https://a.example", "https://b.example", "https://a.example"):
        writer.write(post(page(), headers=f"Origin: {origin}\r\n"))
        assert f"access-control-allow-origin: {origin}" in await head(reader)


async def test_requests_sent_together_are_answered_in_order(connection: Connection) -> None:
    reader, writer = connection
    writer.write(post(page()) + post(page(visitID=7)) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await head(reader))[0].endswith("204 no content")
    status, *headers = await head(reader)
    assert status.endswith("400 bad request")
    [length] = [int(line.partition(":")[2]) for line in headers if line.startswith("content-length")]
    assert json.loads(await reader.readexactly(length))["rejected"][0]["reason"] == "malformed"
    assert (await head(reader))[0].endswith("200 ok")


@pytest.mark.parametrize(("version", "header"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
async def test_connection_close_is_honoured(connection: Connection, version: str, header: str) -> None:
    reader, writer = connection
    writer.write(post(page(), version=version, headers=header))
    assert "connection: close" in await head(reader)
    assert await reader.read() == b""


async def test_events_that_the_collector_rejects_are_listed(
    connection: Connection, scripted_collector: ScriptedCollector
) -> None:
    async def refuse(_batch: EventBatch) -> collector.CollectResponse:
        outcome = collector.Outcome(
            status=collector.OUTCOME_STATUS_REJECTED, reason=collector.REJECT_REASON_TOO_OLD, message="too old"
        )
        return collector.CollectResponse(outcomes=[outcome])

    scripted_collector.answer = refuse
    reader, writer = connection
    sent = page()
    writer.write(post(sent))
    status, *_ = await head(reader)
    assert status.endswith("400 bad request")
    answer = json.loads(await reader.readuntil(b"]}"))
    assert answer == {
        "accepted": 0,
        "rejected": [{"index": 0, "eventID": sent["eventID"], "reason": "too_old", "message": "too old"}],
    }


async def test_a_collector_that_fails_is_a_503(connection: Connection, scripted_collector: ScriptedCollector) -> None:
    async def fail(_batch: EventBatch) -> collector.CollectResponse:
        raise RequestError.exhausted("full", 5_000, "LOG_FULL")

    scripted_collector.answer = fail
    reader, writer = connection
    writer.write(post(page()))
    status, *headers = await head(reader)
    assert status.endswith("503 service unavailable")
    assert "retry-after: 5" in headers


async def test_a_fault_of_the_gateway_is_a_500_and_the_connection_closes(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Intake, "outcome", None)
    reader, writer = connection
    with capture_logs() as lines:
        writer.write(post(page()))
        status, *headers = await head(reader)
        assert status.endswith("500 internal server error")
        assert "connection: close" in headers
        assert await reader.read() == b"Internal Server Error"
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request failed"]
    assert not [record for record in caplog.records if record.name == "asyncio"], "the event loop would name the events"


async def test_a_client_that_does_not_read_gets_its_response_when_it_reads_on(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BoundedConnection] = []
    connect = BoundedConnection.connection_made

    def note(connection: BoundedConnection, transport: Any) -> None:
        made.append(connection)
        connect(connection, transport)

    monkeypatch.setattr(BoundedConnection, "connection_made", note)
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    writer.write(post(page()))
    await head(reader)
    made[0].pause_writing()  # as its transport does when much is unread
    writer.write(post(page()) + post(page()))
    await eventually(lambda: len(scripted_collector.batches) == 2)
    made[0].resume_writing()
    assert [(await head(reader))[0] for _ in range(2)] == ["http/1.1 204 no content"] * 2
    writer.close()
    await writer.wait_closed()
    assert len(scripted_collector.batches) == 3


async def test_a_beacon_in_two_chunks_is_stored(connection: Connection) -> None:
    reader, writer = connection
    request = post(page())
    writer.write(request[:-20])
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(request[-20:])
    assert (await head(reader))[0].endswith("204 no content")


async def test_a_beacon_is_stored_when_its_client_disconnects(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    may_go_on = scripted_collector.hold()
    _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    writer.write(post(page()))
    await eventually(lambda: len(scripted_collector.batches) == 1)
    writer.transport.abort()
    may_go_on.set()
    assert (await http.post("/beacon", json=page())).status_code == 204


@pytest.mark.parametrize("header", ["", "Expect: 100-continue\r\n"])
def test_a_connection_that_is_refused_with_two_requests_unanswered_logs_no_error(
    header: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def send(silent_collector: str) -> None:
        async with running_gateway(COLLECTOR_TARGET=silent_collector, collect_timeout_ms=300) as http:
            reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
            writer.write(post(page(), headers=header) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"?\r\n\r\n")
            await reader.read()
            writer.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uvloop.run(send(f"127.0.0.1:{silent.getsockname()[1]}"))  # as gateways do: its closed connections raise errors
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_behind_a_trusted_proxy_the_address_is_that_of_the_client(scripted_collector: ScriptedCollector) -> None:
    async with running_gateway(
        COLLECTOR_TARGET=scripted_collector.target, trusted_proxies="127.0.0.1, 10.0.0.0/8"
    ) as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        writer.write(post(page(), headers="X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3\r\n"))
        assert (await head(reader))[0].endswith("204 no content")
        writer.close()
        await writer.wait_closed()
    assert scripted_collector.batches[0].contexts[0].address == "203.0.113.9"


async def test_the_fast_path_serves_beacons_under_a_path_prefix(scripted_collector: ScriptedCollector) -> None:
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, path_prefixes="/onlinechat") as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        answers = []
        for path in ("/beacon", "/onlinechat/beacon"):
            writer.write(post(page(), path=path))
            answers.append([line.partition(":")[0] for line in await head(reader)])
        writer.close()
        await writer.wait_closed()
        assert answers[0] == answers[1]
        assert answers[0][0] == "http/1.1 204 no content"
        large = await http.get("/onlinechat/beacon.gif?e=" + "A" * 2 * MAX_URL_BYTES)
        assert large.status_code == 400, "not 414: it may bring as much as a body"
    assert len(scripted_collector.batches) == 2
