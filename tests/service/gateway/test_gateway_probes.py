"""Readiness for beacons, for queries, and for both."""

import asyncio

import httpx
import pytest
from footfall_gateway.server import Gateway
from footfall_gateway.settings import GatewaySettings

from tests.service.gateway.conftest import before, running_gateway
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, new_id, now_ms

PATHS = ("/readyz", "/readyz/beacons", "/readyz/queries")


async def readiness(http: httpx.AsyncClient) -> list[int]:
    """The status of each path."""
    return [(await http.get(path)).status_code for path in PATHS]


@pytest.mark.parametrize(
    ("unavailable", "expected", "takes_beacons"),
    [
        ([], [200, 200, 200], True),
        (["history"], [503, 200, 503], True),
        (["identity"], [503, 200, 503], True),
        (["history", "identity"], [503, 200, 503], True),
        (["collector"], [503, 503, 200], False),
    ],
)
async def test_readiness_depends_on_the_services_that_are_available(
    suite: Suite, unavailable: list[str], expected: list[int], takes_beacons: bool
) -> None:
    async with running_gateway(
        **before(suite) | {f"{name.upper()}_TARGET": "127.0.0.1:1" for name in unavailable}
    ) as http:
        assert await readiness(http) == expected
        page = await http.post("/beacon", json=event("PageEntered", new_id(), now_ms()))
        assert page.status_code == (204 if takes_beacons else 503)
        body = (await http.get("/readyz")).json()
    assert body["services"] == {name: name not in unavailable for name in ("collector", "identity", "history")}
    assert body["reasons"] == dict.fromkeys(unavailable, "it does not answer (UNAVAILABLE)")


async def test_a_stopping_gateway_is_not_ready_but_serves_requests(suite: Suite) -> None:
    gateway = Gateway(GatewaySettings(**before(suite) | {"port": 0, "drain_delay_ms": 60_000}))
    port = await gateway.start()
    stopped = asyncio.create_task(gateway.stopped())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert await readiness(http) == [200, 200, 200]
        gateway.request_stop()

        async def is_unready() -> None:
            assert await readiness(http) == [503, 503, 503]
            assert (await http.get("/readyz")).json()["reasons"] == {"gateway": "it stops"}

        await eventually(is_unready)
        assert (await http.post("/beacon", json=event("PageEntered", new_id(), now_ms()))).status_code == 204
    gateway.request_stop()
    assert await stopped == 0
