"""Connections beyond what a gateway serves at once: refused with the time to wait, and only they."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.service.gateway.conftest import ScriptedCollector, running_gateway
from tests.tools.eventually import eventually
from tests.tools.visits import event, new_id, now_ms


@asynccontextmanager
async def connected(port: int | None) -> AsyncIterator[None]:
    """A connection on which nothing is sent."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    yield
    writer.close()
    await writer.wait_closed()


async def test_requests_on_more_connections_than_it_serves_are_refused_but_for_whether_it_lives(
    scripted_collector: ScriptedCollector,
) -> None:
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, max_connections=2) as http:
        page = event("PageEntered", new_id(), now_ms())
        async with connected(http.base_url.port), connected(http.base_url.port):
            refused = await http.post("/beacon", json=page)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert (await http.get("/healthz")).status_code == 200

        async def is_taken() -> bool:
            return (await http.post("/beacon", json=page)).status_code == 204

        await eventually(is_taken)


async def test_it_asks_the_system_for_as_many_files_as_its_connections_need(
    scripted_collector: ScriptedCollector,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    try:
        async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, max_connections=600):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
