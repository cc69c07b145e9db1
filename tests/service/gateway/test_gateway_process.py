"""What runs in a gateway beside requests: no failure of it goes unseen, and no waiting beacon is forgotten."""

import asyncio
import re
import socket
from typing import Any

import httpx
import pytest
import structlog
from footfall.collector.v1.collector_service_pb2 import CollectRequest, CollectResponse
from footfall.event.v1.event_pb2 import EventBatch
from footfall_gateway.backends import Backends
from footfall_gateway.beacons.rate_limit import MinuteLimit
from footfall_gateway.problem import Problem
from footfall_gateway.server import Gateway, _Server
from footfall_gateway.settings import GatewaySettings

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually


def settings(**changes: Any) -> GatewaySettings:
    return GatewaySettings(**({"port": 0, "drain_delay_ms": 0} | changes))


@pytest.mark.parametrize("failure", [KeyError, None])
async def test_a_server_that_dies_or_ends_ends_the_process_and_says_why(
    failure: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(_server: Any, sockets: list[socket.socket]) -> None:
        sockets[0].close()
        if failure:
            raise failure

    monkeypatch.setattr(_Server, "serve", die)
    gateway = Gateway(settings())
    with structlog.testing.capture_logs() as lines:
        await gateway.start()
        assert await asyncio.wait_for(gateway.stopped(), 30) == 1
    [died] = [line for line in lines if line["log_level"] == "error"]
    assert died["event"] == "background work died; the process stops"
    assert died["exc_info"]


async def test_sharing_rate_limits_outlives_a_failure_that_nobody_thought_of(
    monkeypatch: pytest.MonkeyPatch, redis_database_url: str
) -> None:
    outcomes = iter([KeyError])
    told = asyncio.Event()
    tell = MinuteLimit.tell

    async def tell_after_failing(limit: MinuteLimit, strategy: Any) -> None:
        if failure := next(outcomes, None):
            raise failure
        await tell(limit, strategy)
        told.set()

    monkeypatch.setattr(MinuteLimit, "tell", tell_after_failing)
    async with running_gateway(REDIS_URL=redis_database_url) as http:
        await asyncio.wait_for(told.wait(), 30)
        assert await failures(http, "RateLimiter.share") == 1


async def failures(http: httpx.AsyncClient, work: str) -> float:
    text = (await http.get("/metrics")).text
    found = re.search(rf'^footfall_background_failures_total{{work="{work}"}} (.+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0


async def test_a_batch_whose_channel_is_closed_is_known_not_to_be_confirmed(
    scripted_collector: ScriptedCollector,
) -> None:
    async def wait(_batch: EventBatch) -> CollectResponse:
        await asyncio.sleep(60)
        return CollectResponse()

    scripted_collector.answer = wait
    backends = Backends(settings(COLLECTOR_TARGET=scripted_collector.target))
    collecting = asyncio.create_task(backends.collect(CollectRequest()))
    await eventually(lambda: bool(scripted_collector.batches))
    await backends.close()
    with pytest.raises(Problem) as raised:
        await asyncio.wait_for(collecting, 30)
    assert raised.value.status == 503
