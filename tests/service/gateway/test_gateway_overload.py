"""Connections beyond the limit: only these are refused, with Retry-After."""

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


async def test_requests_on_too_many_connections_are_refused_except_healthz(
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
