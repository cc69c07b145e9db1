"""Background work of a gateway: failures are reported, and every waiting beacon gets a response."""

import asyncio
import re
import socket
import uuid
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
async def test_the_process_ends_with_a_reason_when_its_server_ends(
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
    assert died["event"] == "background work failed; the process stops"
    assert died["exc_info"]


async def test_a_second_request_to_stop_waits_for_no_http_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        targets = dict.fromkeys(("IDENTITY_TARGET", "HISTORY_TARGET"), f"127.0.0.1:{silent.getsockname()[1]}")
        gateway = Gateway(settings(**targets, allow_anonymous=True, stop_grace_ms=60_000, query_timeout_ms=60_000))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{await gateway.start()}", timeout=60) as http:
            in_flight = asyncio.create_task(http.get(f"/server/data/visits/{uuid.uuid4()}"))
            await eventually(lambda: bool(gateway._server.server_state.tasks))
            stopped = asyncio.create_task(gateway.stop())
            await eventually(lambda: gateway._server.should_exit)
            await asyncio.sleep(0.3)  # more than a turn of the server
            assert not stopped.done(), "it waits for the request"
            gateway.request_stop()
            assert await asyncio.wait_for(stopped, 5) == 0
            in_flight.cancel()


async def test_sharing_rate_limits_continues_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, redis_database_url: str
) -> None:
    outcomes = iter([KeyError])
    shared = asyncio.Event()
    share = MinuteLimit.share

    async def share_after_failing(limit: MinuteLimit, strategy: Any) -> None:
        if failure := next(outcomes, None):
            raise failure
        await share(limit, strategy)
        shared.set()

    monkeypatch.setattr(MinuteLimit, "share", share_after_failing)
    async with running_gateway(REDIS_URL=redis_database_url) as http:
        await asyncio.wait_for(shared.wait(), 30)
        assert await failures(http, "RateLimiter.share") == 1


async def test_metrics_are_open_metrics_for_who_accepts_them() -> None:
    async with running_gateway() as http:
        answer = await http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        plain = await http.get("/metrics", headers={"accept": "*/*"})
        assert plain.headers["content-type"].startswith("text/plain")
        assert "\nfootfall_process_ready 1.0\n" in plain.text


async def failures(http: httpx.AsyncClient, work: str) -> float:
    text = (await http.get("/metrics")).text
    found = re.search(rf'^footfall_background_failures_total{{work="{work}"}} (.+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0


async def test_a_batch_whose_channel_is_closed_is_not_confirmed(
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
