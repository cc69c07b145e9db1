"""Too many connections: what is refused and closed, and what is answered all the time."""

import asyncio
import json
import os
import re
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvloop

from deploy.certificates import Authority
from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.visits import event, new_id, now_ms

OPEN_FILES = 256
ALLOWED = OPEN_FILES - 100
NEARLY_ALL = ALLOWED - ALLOWED // 16 + 1
CLOSED = "connections without a complete request are closed"
SENDERS = 3 * OPEN_FILES
FLOOD_S = 3
IN_TIME_S = 2.0  # one second on a machine without other load
CLOSED_CONNECTIONS = "footfall_gateway_closed_connections_total"
REFUSED = 'footfall_gateway_refused_requests_total{limit="all"}'
BEACON_OF = b"POST /beacon HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
WHOLE_BEACON = BEACON_OF % 2 + b"{}"
HALF_A_BEACON = BEACON_OF % 1_000 + b"{"

Connected = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


@contextmanager
def gateway_process(port: int, log: Path, **settings: object) -> Iterator[None]:
    """A gateway that may open `OPEN_FILES`."""
    environment = {"GATEWAY_PORT": port, "GATEWAY_DRAIN_DELAY_MS": 0} | settings
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'ulimit -n {OPEN_FILES} && exec "$0" -m footfall_gateway', sys.executable],
            env=os.environ | {name: str(value) for name, value in environment.items()},
            stdout=file,
        )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0


def send_half_beacons(port: int, address: str, count: int, is_over: threading.Event) -> None:
    """Keep so many connections of this address open that wait for the rest of a beacon."""
    with ExitStack() as held, selectors.DefaultSelector() as senders:
        while not is_over.is_set():
            for _ in range(min(40, count - len(senders.get_map()))):
                sender = held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=(address, 0)))
                with suppress(OSError):
                    sender.sendall(HALF_A_BEACON)
                senders.register(sender, selectors.EVENT_READ)
            for closed, _ in senders.select(0.1):
                senders.unregister(closed.fileobj)
                cast("socket.socket", closed.fileobj).close()


@asynccontextmanager
async def slow_senders(port: int, address: str, count: int) -> AsyncIterator[None]:
    is_over = threading.Event()
    sending = asyncio.create_task(asyncio.to_thread(send_half_beacons, port, address, count, is_over))
    try:
        yield
    finally:
        is_over.set()
        await sending


async def in_time(request: Awaitable[httpx.Response]) -> int:
    begun = time.monotonic()
    status = (await request).status_code
    took = time.monotonic() - begun
    assert took < IN_TIME_S, took
    return status


async def metric(http: httpx.AsyncClient, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (.+)$", (await http.get("/metrics")).text, re.MULTILINE)
    return float(found[1]) if found else 0


def lines(log: Path, event_name: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event_name]


async def test_slow_senders_leave_no_other_client_without_an_answer(
    tmp_path: Path, scripted_collector: ScriptedCollector
) -> None:
    [port] = free_ports(1)
    log = tmp_path / "gateway.log"
    settings = {"COLLECTOR_TARGET": scripted_collector.target, "FAILURE_LOG_INTERVAL_S": 3}
    a_connection_a_request = httpx.Limits(max_keepalive_connections=0)
    with gateway_process(port, log, **settings):
        await eventually(lambda: "listening" in log.read_text())
        [too_few] = lines(log, "the limit of open files allows fewer connections")
        assert (too_few["wanted"], too_few["allowed"]) == (10_000, ALLOWED)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=a_connection_a_request) as http:
            async with slow_senders(port, "127.0.0.2", SENDERS):
                asked, end = 0, time.monotonic() + FLOOD_S
                while time.monotonic() < end:
                    assert await in_time(http.get("/healthz")) == 200
                    assert await in_time(http.post("/beacon", json=event("PageEntered", new_id(), now_ms()))) == 204
                    asked += 1
                assert asked > FLOOD_S
            [began, *_] = lines(log, CLOSED)
            assert (began["level"], began["limit"], began["open"]) == ("warning", str(ALLOWED), NEARLY_ALL)
            await eventually(lambda: f"{CLOSED} (ended)" in log.read_text())
            [ended] = lines(log, f"{CLOSED} (ended)")
            assert ended["count"] == await metric(http, CLOSED_CONNECTIONS)
            assert ended["count"] > SENDERS - OPEN_FILES
            assert await metric(http, "footfall_gateway_connections") == 1


async def test_requests_on_too_many_connections_are_refused_except_health(
    scripted_collector: ScriptedCollector,
) -> None:
    may_go_on = scripted_collector.hold()
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, max_connections=2) as http:
        page = event("PageEntered", new_id(), now_ms())
        before = await metric(http, REFUSED)
        async with asyncio.TaskGroup() as beacons:
            served = [beacons.create_task(http.post("/beacon", json=page)) for _ in range(2)]
            await eventually(lambda: len(scripted_collector.batches) == 2)
            refused = await http.post("/beacon", json=page)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz/beacons")).status_code == 503
            may_go_on.set()
        assert [beacon.result().status_code for beacon in served] == [204, 204]

        async def is_counted() -> bool:  # refused while three connections are open
            return await metric(http, REFUSED) > before

        await eventually(is_counted)


@asynccontextmanager
async def connected(http: httpx.AsyncClient, address: str, count: int, sent: bytes) -> AsyncIterator[Connected]:
    """Connections of this address, opened one after the other, each of which has sent this."""
    async with AsyncExitStack() as held:
        opened = []
        for _ in range(count):
            opened.append(await asyncio.open_connection("127.0.0.1", http.base_url.port, local_addr=(address, 0)))
            held.callback(opened[-1][1].transport.abort)
            opened[-1][1].write(sent)
            await asyncio.sleep(0.001)  # so that the gateway accepts them in this order
        yield opened


async def answer_on(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str) -> bytes:
    """The head of the answer to a GET."""
    reader, writer = connection
    writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
    return head


def closed_ones(connections: Connected) -> list[int]:
    return [number for number, (reader, _) in enumerate(connections) if reader.at_eof() or reader.exception()]


@pytest.mark.parametrize("proxies", ["", "127.0.0.2"])
async def test_connections_without_a_complete_request_are_closed_when_few_are_left(
    proxies: str, scripted_collector: ScriptedCollector
) -> None:
    may_go_on = scripted_collector.hold()
    limits = {"max_connections": 32, "max_connections_per_address": 0, "trusted_proxies": proxies}
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, **limits) as http, AsyncExitStack() as held:
        [beacon] = await held.enter_async_context(connected(http, "127.0.0.2", 1, WHOLE_BEACON))
        await eventually(lambda: len(scripted_collector.batches) == 1)
        one = await held.enter_async_context(connected(http, "127.0.0.1", 1, HALF_A_BEACON))
        idle = await held.enter_async_context(connected(http, "127.0.0.2", 3, b""))
        for connection in idle:
            assert b"200 OK" in await answer_on(connection, "/healthz")
        slow = await held.enter_async_context(connected(http, "127.0.0.2", 26, HALF_A_BEACON))
        # Behind a proxy the oldest ones of all; else the oldest ones of the address that has most.
        expected: tuple[list[int], ...] = ([0], [0, 1], []) if proxies else ([], [0, 1, 2], [])
        await eventually(lambda: (closed_ones(one), closed_ones(idle), closed_ones(slow)) == expected)
        may_go_on.set()
        assert b"204 No Content" in await asyncio.wait_for(beacon[0].readuntil(b"\r\n\r\n"), 30)


async def test_connections_that_arrive_together_close_only_as_many_as_needed() -> None:
    a_connection_a_request = httpx.Limits(max_keepalive_connections=0)
    async with (
        running_gateway(max_connections=32, max_connections_per_address=0) as gateway,
        httpx.AsyncClient(base_url=gateway.base_url, limits=a_connection_a_request) as http,
        AsyncExitStack() as held,
    ):
        before = await metric(http, CLOSED_CONNECTIONS)
        for _ in range(40):  # without a turn of the gateway's loop
            held.enter_context(socket.create_connection(("127.0.0.1", gateway.base_url.port)))

        async def has_room() -> bool:
            return await metric(http, "footfall_gateway_connections") <= 30

        await eventually(has_room)
        assert await metric(http, CLOSED_CONNECTIONS) - before <= 15


async def test_one_address_has_a_limit_of_connections_unless_it_is_a_trusted_proxy(
    scripted_collector: ScriptedCollector,
) -> None:
    limits = {"max_connections_per_address": 2, "trusted_proxies": "127.0.0.3"}
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, **limits) as http, AsyncExitStack() as held:
        refused_requests = 'footfall_gateway_refused_requests_total{limit="address"}'
        before = await metric(http, refused_requests)
        first, second, third = await held.enter_async_context(connected(http, "127.0.0.2", 3, b""))
        assert b"200 OK" in await answer_on(third, "/healthz")
        refused = await answer_on(third, "/tracker.js")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        assert await metric(http, refused_requests) == before + 1
        for allowed in (first, second, *await held.enter_async_context(connected(http, "127.0.0.3", 3, b""))):
            assert b"200 OK" in await answer_on(allowed, "/tracker.js")


def test_connections_without_a_tls_handshake_are_closed_when_few_are_left_or_after_the_limit_of_clients(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    limits = {"max_connections": 32, "max_connections_per_address": 0, "client_timeout_ms": 2_000}

    async def connect_without_handshakes() -> None:
        async with (
            running_gateway(tls_cert_file=certificate, tls_key_file=key, **limits) as http,
            connected(http, "127.0.0.2", 31, b"") as silent,
            httpx.AsyncClient(verify=ssl.create_default_context(cafile=authority.file)) as https,
        ):
            await eventually(lambda: closed_ones(silent) == [0, 1, 2])
            assert (await https.get(f"https://127.0.0.1:{http.base_url.port}/healthz")).status_code == 200
            await eventually(lambda: closed_ones(silent) == [*range(31)])

    uvloop.run(connect_without_handshakes())  # as gateways do: TLS is uvloop's


async def test_the_limit_of_open_files_is_raised_for_the_connections(
    scripted_collector: ScriptedCollector,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    try:
        async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, max_connections=600):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
