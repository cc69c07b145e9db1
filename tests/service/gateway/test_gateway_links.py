"""Links between domains: each carries a visit once, at all gateways together."""

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import httpx
import pytest

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.visits import now_ms

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
PAGE = {"Origin": "https://pay.example"}
NAME = "f57f845e-aa25-429c-92bf-ce86ff5612f2.25c17381-4db0-41b6-a7a0-23b525f178ad.1795884115446"


@pytest.fixture
def gateway(scripted_collector: ScriptedCollector, redis_database_url: str) -> Running:
    return partial(running_gateway, COLLECTOR_TARGET=scripted_collector.target, REDIS_URL=redis_database_url)


def name() -> str:
    return f"{uuid.uuid4()}.{uuid.uuid4()}.{now_ms()}"


async def test_a_link_is_used_once_at_all_gateways(gateway: Running) -> None:
    async with gateway() as one, gateway() as other:
        link = name()
        first = await one.post("/link", params={"name": link}, headers=PAGE)
        assert (first.status_code, first.headers["access-control-allow-origin"]) == (204, PAGE["Origin"])
        for http in (one, other):
            again = await http.post("/link", params={"name": link}, headers=PAGE)
            assert again.status_code == 409
        assert (await other.post("/link", params={"name": name()})).status_code == 204


async def test_without_redis_no_link_continues_a_visit(gateway: Running) -> None:
    async with gateway(REDIS_URL="redis://127.0.0.1:1") as http:
        assert (await http.post("/link", params={"name": name()}, headers=PAGE)).status_code == 409


async def test_links_count_for_the_limit_of_their_sender(gateway: Running) -> None:
    async with gateway(RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS=2, rate_limit_loopback=True) as http:
        answers = [await http.post("/link", params={"name": name()}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [204, 204, 429]


@pytest.mark.parametrize("text", ["", "x", NAME + "x", NAME.upper(), "../" + NAME, NAME + "\n"])
async def test_a_malformed_link_name_is_refused(gateway: Running, text: str) -> None:
    async with gateway() as http:
        assert (await http.post("/link", params={"name": text}, headers=PAGE)).status_code == 400
