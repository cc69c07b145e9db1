"""Malformed, ambiguous, endless, oversized and slow requests are refused or cut off."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from footfall_gateway.beacons.connection import MAX_FIELDS, MAX_FIELDS_BYTES, MAX_PIPELINED

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.visits import event, new_id, now_ms

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
PATHS = ["/beacon", "/server/data/visits", "/healthz"]
IN_TIME_S = 30
SLOW_MS = 400


@asynccontextmanager
async def connected(http: httpx.AsyncClient) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(http: httpx.AsyncClient, *pieces: bytes) -> list[int]:
    """The statuses of the responses to these bytes, until the gateway closes the connection."""
    async with connected(http) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(IN_TIME_S):
            return statuses(await reader.read())


def statuses(raw: bytes) -> list[int]:
    return [int(number) for number in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


def post(path: str, *fields: bytes, body: bytes = b"") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"Host: x", b"Content-Type: text/plain", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
AMBIGUOUS = {
    "length beside chunked": [b"Content-Length: 4", CHUNKED],
    "chunked beside length": [CHUNKED, b"Content-Length: 4"],
    "two lengths": [b"Content-Length: 5", b"Content-Length: 0"],
    "one length twice": [b"Content-Length: 5", b"Content-Length: 5"],
    "a list of lengths": [b"Content-Length: 5, 5"],
    "a signed length": [b"Content-Length: +5"],
    "a negative length": [b"Content-Length: -5"],
    "a hexadecimal length": [b"Content-Length: 0x5"],
    "a length beyond 64 bits": [b"Content-Length: 18446744073709551621"],
    "a space before the colon": [b"Content-Length : 5"],
    "a folded line": [b"X: a\r\n b", b"Content-Length: 5"],
    "a folded encoding": [b"Transfer-Encoding:\r\n chunked"],
    "a bare LF": [b"X: a\nContent-Length: 5"],
    "a bare CR": [b"X: a\rContent-Length: 5"],
    "a NUL": [b"X: a\0b", b"Content-Length: 5"],
    "another encoding": [b"Transfer-Encoding: xchunked"],
    "an encoding in quotes": [b'Transfer-Encoding: "chunked"'],
    "a vertical tab before the encoding": [b"Transfer-Encoding: \x0bchunked"],
    "an encoding after chunked": [b"Transfer-Encoding: chunked, identity"],
    "an encoding before chunked": [b"Transfer-Encoding: gzip, chunked"],
    "identity, then chunked": [b"Transfer-Encoding: identity", CHUNKED],
    "chunked twice": [CHUNKED, CHUNKED],
    "two hosts": [b"Host: y", b"Content-Length: 5"],
    "a name of odd bytes": [b"X\xff: a", b"Content-Length: 5"],
    "no name": [b": a", b"Content-Length: 5"],
}


async def test_a_request_that_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_served(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    for path in PATHS:
        for name, fields in AMBIGUOUS.items():
            assert await exchange(http, post(path, *fields, body=b"0\r\n\r\n" + HIDDEN)) == [400], (path, name)
    assert scripted_collector.batches == []


async def test_chunks_that_are_none_are_refused(http: httpx.AsyncClient) -> None:
    wrong = [
        b"-1\r\n\r\n",
        b"0x0\r\n\r\n",
        b"0\n\n",
        b"0;a\nb\r\n\r\n",
        b"1\r\nabc\r\n0\r\n\r\n",
        b"f" * 20 + b"\r\nabc",
    ]
    for path in PATHS:
        for chunks in wrong:
            [status, *more] = await exchange(http, post(path, CHUNKED, body=chunks + HIDDEN))
            assert (status in {400, 401, 405}, more) == (True, []), (path, chunks)


async def test_malformed_requests_are_refused(http: httpx.AsyncClient) -> None:
    for head in (
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: x\n\n",
        b"GET /healthz /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /beacon HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ):
        assert await exchange(http, head + HIDDEN) == [400], head


async def test_garbage_behind_a_request_is_no_answer_to_it(
    http: httpx.AsyncClient, scripted_collector: ScriptedCollector
) -> None:
    may_go_on = scripted_collector.hold()
    beacon = post("/beacon", b"Content-Length: 2", body=b"{}")
    assert await exchange(http, beacon + b"garbage\r\n\r\n") == []
    may_go_on.set()


async def test_requests_sent_without_waiting_for_answers_are_bounded(http: httpx.AsyncClient) -> None:
    assert await exchange(http, HIDDEN * MAX_PIPELINED + LAST) == [200] * (MAX_PIPELINED + 1)
    with suppress(ConnectionError):
        assert len(await exchange(http, HIDDEN * (MAX_PIPELINED + 2))) <= MAX_PIPELINED


async def test_the_body_of_a_get_is_not_a_request(http: httpx.AsyncClient) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    assert await exchange(http, get + HIDDEN) == [200]


async def test_upgrades_are_ignored_and_the_connection_closes(http: httpx.AsyncClient) -> None:
    for protocol in (b"h2c", b"websocket"):
        fields = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
        assert await exchange(http, b"GET /healthz HTTP/1.1\r\n" + fields + HIDDEN) == [200]


async def test_fields_behind_a_body_say_nothing(scripted_collector: ScriptedCollector) -> None:
    trailing = b"X-Forwarded-For: 6.6.6.6\r\nOrigin: https://evil.example\r\n\r\n"
    fields = (CHUNKED, b"X-Forwarded-For: 203.0.113.9", b"Connection: close")
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, trusted_proxies="127.0.0.1") as http:
        assert await exchange(http, post("/beacon", *fields, body=b"2\r\n{}\r\n0\r\n" + trailing)) == [204]
    [context] = scripted_collector.batches[0].contexts
    assert (context.address, context.origin) == ("203.0.113.9", "")


async def test_a_head_is_bounded(http: httpx.AsyncClient) -> None:
    length = b"Content-Length: 0"
    for path in PATHS:
        assert await exchange(http, post(path, length, *[b"X: y"] * MAX_FIELDS)) == [431]
        assert await exchange(http, post(path, length, b"Cookie: " + b"c" * MAX_FIELDS_BYTES)) == [431]
        assert await exchange(http, post(f"{path}?{'e' * 1_100_000}", length)) == [414]
    assert await exchange(http, post(f"/tracker.js?{'&v=1' * 5_000}", length)) == [414]


@pytest.mark.parametrize(("size", "status"), [(65_000, 200), (65_001, 414), (65_600, 414), (900_000, 414)])
async def test_a_pixel_that_is_too_long_is_refused_with_a_readable_message(
    http: httpx.AsyncClient, size: int, status: int
) -> None:
    sent = event("PageEntered", new_id(), now_ms(), data={"text": "x" * 48_000})
    query = b"e=%b&" % b64encode(json.dumps(sent).encode(), b"-_").rstrip(b"=")
    query += b"_" * (size - len(query))
    fields = b"Host: x\r\nOrigin: https://shop.example\r\nConnection: close\r\n\r\n"
    async with connected(http) as (reader, writer):
        writer.write(b"GET /beacon.gif?%b HTTP/1.1\r\n%b" % (query, fields))
        async with asyncio.timeout(IN_TIME_S):
            raw = await reader.read()
    assert statuses(raw) == [status]
    assert b"access-control-allow-origin: https://shop.example" in raw
    assert (b"the query has more than 65000 bytes" in raw) is (status == 414)


async def test_a_head_without_an_end_is_cut_off_by_its_size(http: httpx.AsyncClient) -> None:
    head = post("/beacon", b"Cookie: ")[:-4]
    with suppress(ConnectionError):  # the gateway closes while there is more to read
        assert await exchange(http, head, *[b"c" * 100_000] * 12) == [431]


async def test_endless_trailer_fields_are_cut_off(http: httpx.AsyncClient) -> None:
    beacon = post("/beacon", CHUNKED, body=b"2\r\n{}\r\n0\r\n")
    for trailing in (b"X: y\r\n" * 20_000, b"X: " + b"y" * 1_000_000):
        with suppress(ConnectionError):
            assert await exchange(http, beacon, *[trailing] * 20) == [431]


async def test_a_large_cookie_of_odd_bytes_is_ignored(http: httpx.AsyncClient) -> None:
    cookie = b"Cookie: " + b"\xff;=," * 10_000
    assert await exchange(http, post("/beacon", b"Content-Length: 2", cookie, b"Connection: close", body=b"{}")) == [
        204
    ]


async def test_an_origin_no_browser_has_is_not_given_back(http: httpx.AsyncClient) -> None:
    for origin in (b"https://" + b"a" * 600, b"https://a.example/\xff", b"a\tb", b"null"):
        async with connected(http) as (reader, writer):
            writer.write(post("/beacon", b"Content-Length: 2", b"Origin: " + origin, b"Connection: close", body=b"{}"))
            async with asyncio.timeout(IN_TIME_S):
                raw = await reader.read()
            assert statuses(raw) == [204]
            named = b"access-control-allow-origin" in raw
            assert named == (origin == b"null")


async def trickle(writer: asyncio.StreamWriter, byte: bytes) -> None:
    while not writer.transport.is_closing():
        writer.write(byte)
        await asyncio.sleep(0.02)


SLOW = {
    "nothing at all": (b"", b""),
    "empty lines": (b"", b"\r\n"),
    "a head without an end": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
    "a second head without an end": (HIDDEN + b"GET /heal", b"t"),
    "a body that is not read": (HIDDEN[:-2] + b"Content-Length: 1000000\r\n\r\n", b"z"),
    "a body without an end": (post("/beacon", b"Content-Length: 1000000"), b" "),
    "trailing fields without an end": (post("/beacon", CHUNKED, body=b"2\r\n{}\r\n0\r\nX: "), b"y"),
}


async def test_clients_that_take_too_long_are_cut_off_and_cost_the_others_nothing() -> None:
    async with running_gateway(client_timeout_ms=SLOW_MS, body_timeout_ms=SLOW_MS) as http:
        answers = asyncio.gather(*(slowly(http, first, then) for first, then in SLOW.values()))
        async with asyncio.timeout(IN_TIME_S):
            while not answers.done():
                assert (await http.get("/healthz")).status_code == 200
                await asyncio.sleep(0.1)
        assert dict(zip(SLOW, await answers, strict=True)) == {
            "nothing at all": [],
            "empty lines": [],
            "a head without an end": [],
            "a second head without an end": [200],
            "a body that is not read": [200],
            "a body without an end": [408],
            "trailing fields without an end": [408],
        }


async def slowly(http: httpx.AsyncClient, first: bytes, then: bytes) -> list[int]:
    """The responses to a client that writes a little from time to time, until it is cut off."""
    raw = b""
    async with connected(http) as (reader, writer):
        dripping = asyncio.create_task(drip(writer, first, then))
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                raw += part
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
    return statuses(raw)


async def drip(writer: asyncio.StreamWriter, first: bytes, then: bytes) -> None:
    writer.write(first)
    while True:
        await asyncio.sleep(0.02)
        writer.write(then)


async def test_a_client_that_does_not_read_its_answers_is_cut_off() -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\n\r\n" * 100
    async with running_gateway(client_timeout_ms=SLOW_MS) as http, connected(http) as (_, writer):

        async def ask_on() -> None:
            while True:
                writer.write(asked)
                await writer.drain()
                await asyncio.sleep(0.02)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_on(), IN_TIME_S)


async def test_a_fast_client_may_keep_its_connection_open() -> None:
    async with running_gateway(client_timeout_ms=4 * SLOW_MS) as http, connected(http) as (reader, writer):
        for _ in range(3):
            await asyncio.sleep(1.5 * SLOW_MS / 1000)
            writer.write(HIDDEN)
            async with asyncio.timeout(IN_TIME_S):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        assert statuses(head) == [200]


async def test_a_connection_without_requests_is_closed_later_than_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footfall_gateway.server._KEEP_ALIVE_S", 4 * SLOW_MS / 1000)
    async with running_gateway(client_timeout_ms=SLOW_MS) as http, connected(http) as (reader, writer):
        loop = asyncio.get_running_loop()
        writer.write(HIDDEN)
        async with asyncio.timeout(IN_TIME_S):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            answered = loop.time()
            assert await reader.read() == b""
        assert loop.time() - answered >= 4 * SLOW_MS / 1000
