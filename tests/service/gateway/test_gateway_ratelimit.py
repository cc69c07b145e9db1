"""Limits per address and site: each gateway enforces them immediately, all together soon."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_gateway.beacons.rate_limit import Limits, RateLimiter

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually
from tests.tools.visits import event, new_id, now_ms

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
UNAVAILABLE_REDIS = "redis://127.0.0.1:1"


@pytest.fixture
def gateway(scripted_collector: ScriptedCollector) -> Running:
    """A gateway with a limit of 10 events a minute, loopback included."""
    return partial(
        running_gateway,
        COLLECTOR_TARGET=scripted_collector.target,
        RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS=10,
        rate_limit_loopback=True,
    )


def page(count: int = 1) -> list[dict[str, Any]]:
    return [event("PageEntered", new_id(), now_ms()) for _ in range(count)]


async def test_an_address_that_has_used_its_minute_must_wait(gateway: Running) -> None:
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS) as http:
        assert (await http.post("/beacon", json=page(9))).status_code == 204
        assert (
            await http.post("/beacon", content=b"not JSON", headers={"Content-Type": "text/plain"})
        ).status_code == 400
        for refused in (await http.post("/beacon", json=page()), await http.get("/beacon.gif?e=e30")):
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert refused.json()["message"] == "too many events or bytes from this address; try again later"
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "body", [b"[" + b"5," * 8 + b"5]", b"[" + b"5," * 1_000 + b"5]"], ids=["bad items", "too many"]
)
async def test_bad_events_count_as_good_ones_do(gateway: Running, body: bytes) -> None:
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS) as http:
        bad = await http.post("/beacon", content=body, headers={"Content-Type": "text/plain"})
        assert bad.status_code in {400, 413}
        assert (await http.post("/beacon", json=page(2))).status_code == 429


async def test_a_beacon_counts_before_it_is_taken(gateway: Running, scripted_collector: ScriptedCollector) -> None:
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS) as http:
        answers = [await http.post("/beacon", json=page(count)) for count in (6, 6, 3, 2)]
        assert [answer.status_code for answer in answers] == [204, 429, 204, 429]  # and each refusal counts for one
    assert sum(len(batch.events) for batch in scripted_collector.batches) == 9


@pytest.mark.parametrize("name", ["ADDRESS", "SITE"])
async def test_bytes_are_limited_too(gateway: Running, name: str) -> None:
    settings = {"RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0, f"RATE_LIMIT_BYTES_PER_MINUTE_PER_{name}": 100_000}
    large = page()[0] | {"data": {"text": "x" * 40_000}}
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS, **settings) as http:
        answers = [await http.post("/beacon", json=large) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [204, 204, 429]
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert (await http.post("/beacon", json=page())).status_code == 204


@pytest.mark.parametrize("path", ["/beacon", "/v1/batch"])
@pytest.mark.parametrize(
    ("length", "sent"),
    [(b"Content-Length: 70000", b""), (b"Transfer-Encoding: chunked", b"%x\r\n%b" % (70_000, b"[" * 70_000))],
    ids=["said", "chunked"],
)
async def test_a_body_beyond_the_limit_is_refused_before_it_is_complete(
    gateway: Running, path: str, length: bytes, sent: bytes
) -> None:
    settings = {"RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0, "RATE_LIMIT_BYTES_PER_MINUTE_PER_ADDRESS": 60_000}
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS, body_timeout_ms=300_000, **settings) as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n%b\r\n\r\n"
        writer.write(head % (path.encode(), length) + sent)
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 60)
        if not sent:  # the client may send the rest, and its next request
            assert answer.startswith(b"HTTP/1.1 429 ")  # and not 100
            writer.write(b"x" * 70_000 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)) == b"HTTP/1.1 200 OK\r\n"
        assert b" 429 " in answer
        assert b"too many events or bytes from this address" in answer
        writer.transport.abort()


async def test_gateways_share_the_bytes_of_an_address(gateway: Running, redis_database_url: str) -> None:
    settings = {
        "REDIS_URL": redis_database_url,
        "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0,
        "RATE_LIMIT_BYTES_PER_MINUTE_PER_ADDRESS": 100_000,
    }
    large = page()[0] | {"data": {"text": "x" * 60_000}}
    async with gateway(**settings) as one, gateway(**settings) as other:
        for http in (one, other):
            assert (await http.post("/beacon", json=large)).status_code == 204

        async def is_refused_somewhere() -> bool:
            return 429 in [(await http.post("/beacon", json=page())).status_code for http in (one, other)]

        await eventually(is_refused_somewhere, timeout=5, every=0.5)


async def test_loopback_is_exempt_by_default_and_0_is_no_limit(gateway: Running) -> None:
    for settings in ({"rate_limit_loopback": False}, {"RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0}):
        async with gateway(REDIS_URL=UNAVAILABLE_REDIS, **settings) as http:
            answers = [await http.post("/beacon", json=page(count)) for count in (9, 9, 11)]
            assert [answer.status_code for answer in answers] == [204] * 3


async def test_addresses_behind_a_trusted_proxy_are_counted_separately(gateway: Running) -> None:
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS, trusted_proxies="127.0.0.1", rate_limit_loopback=False) as http:
        first, second = ({"X-Forwarded-For": address} for address in ("203.0.113.7", "203.0.113.8"))
        assert (await http.post("/beacon", json=page(10), headers=first)).status_code == 204
        assert (await http.post("/beacon", json=page(), headers=first)).status_code == 429
        assert (await http.post("/beacon", json=page(), headers=second)).status_code == 204


async def test_nobody_else_can_say_where_a_beacon_comes_from(
    gateway: Running, scripted_collector: ScriptedCollector
) -> None:
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS) as http:
        await http.post("/beacon", json=page(), headers={"X-Forwarded-For": "203.0.113.7"})
    assert scripted_collector.batches[0].contexts[0].address == "127.0.0.1"


async def test_gateways_share_what_an_address_has_used(gateway: Running, redis_database_url: str) -> None:
    async with gateway(REDIS_URL=redis_database_url) as one, gateway(REDIS_URL=redis_database_url) as other:
        assert (await one.post("/beacon", json=page(6))).status_code == 204
        assert (await other.post("/beacon", json=page(6))).status_code == 204

        async def is_refused_somewhere() -> bool:
            answers = [
                await http.post("/beacon", content=b"{", headers={"Content-Type": "text/plain"})
                for http in (one, other)
            ]
            return 429 in [answer.status_code for answer in answers]

        await eventually(is_refused_somewhere, timeout=5, every=0.5)


async def test_a_site_that_has_used_its_minute_must_wait_and_the_others_need_not(
    gateway: Running, tmp_path: Path
) -> None:
    (tmp_path / "sites.toml").write_text("""
        [[site]]
        name = "shop"
        origins = ["https://*.shop.example"]
        [[site]]
        name = "blog"
    """)
    settings = {
        "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0,
        "RATE_LIMIT_EVENTS_PER_MINUTE_PER_SITE": 10,
        "SITES_FILE": tmp_path / "sites.toml",
    }
    shop, evil = {"Origin": "https://www.shop.example"}, {"Origin": "https://evil.example"}
    async with gateway(REDIS_URL=UNAVAILABLE_REDIS, **settings) as http:
        foreign = await http.post("/beacon", json={"site": "shop", "events": page(50)}, headers=evil)
        assert foreign.status_code == 204  # not the shop's: admission refuses them
        assert (await http.post("/beacon", json=page(10), headers=shop)).status_code == 204
        for body in (page(), {"site": "shop", "events": page()}, [page()[0] | {"site": "blog"}, *page()]):
            refused = await http.post("/beacon", json=body, headers=shop)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert refused.json()["message"] == "too many events or bytes for this site; try again later"
        assert (await http.post("/beacon", json={"site": "blog", "events": page()})).status_code == 204


async def test_gateways_share_what_a_site_has_used(gateway: Running, redis_database_url: str) -> None:
    settings = {"RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 0, "RATE_LIMIT_EVENTS_PER_MINUTE_PER_SITE": 10}
    async with (
        gateway(REDIS_URL=redis_database_url, **settings) as one,
        gateway(REDIS_URL=redis_database_url, **settings) as other,
    ):
        assert (await one.post("/beacon", json=page(6))).status_code == 204
        assert (await other.post("/beacon", json=page(6))).status_code == 204

        async def is_refused_somewhere() -> bool:
            return 429 in [(await http.post("/beacon", json=page())).status_code for http in (one, other)]

        await eventually(is_refused_somewhere, timeout=5, every=0.8)


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("not an address", "not an address", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, are_one: bool) -> None:
    limiter = RateLimiter(Limits("address", 5, 0), Limits("site", 0, 0), UNAVAILABLE_REDIS)
    limiter.add(one, 5, 0)
    assert bool(limiter.wait_s(other, 1, 0)) == are_one
