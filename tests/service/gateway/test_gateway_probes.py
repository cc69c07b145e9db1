"""What balancers and operators are told: ready for beacons, for queries, for everything."""

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
    """What each of the paths answers."""
    return [(await http.get(path)).status_code for path in PATHS]


@pytest.mark.parametrize(
    ("away", "expected", "takes_beacons"),
    [
        ([], [200, 200, 200], True),
        (["history"], [503, 200, 503], True),
        (["identity"], [503, 200, 503], True),
        (["history", "identity"], [503, 200, 503], True),
        (["collector"], [503, 503, 200], False),
    ],
)
async def test_it_is_ready_for_what_the_services_that_are_there_can_do(
    suite: Suite, away: list[str], expected: list[int], takes_beacons: bool
) -> None:
    async with running_gateway(**before(suite) | {f"{name.upper()}_TARGET": "127.0.0.1:1" for name in away}) as http:
        assert await readiness(http) == expected
        page = await http.post("/beacon", json=event("PageEntered", new_id(), now_ms()))
        assert page.status_code == (204 if takes_beacons else 503)
        services = (await http.get("/readyz")).json()["services"]
    assert services == {name: name not in away for name in ("collector", "identity", "history")}


async def test_from_the_moment_it_is_told_to_stop_it_is_ready_for_nothing_and_takes_what_comes(suite: Suite) -> None:
    gateway = Gateway(GatewaySettings(**before(suite) | {"port": 0, "drain_delay_ms": 60_000}))
    port = await gateway.start()
    stopped = asyncio.create_task(gateway.stopped())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert await readiness(http) == [200, 200, 200]
        gateway.request_stop()

        async def is_unready() -> None:
            assert await readiness(http) == [503, 503, 503]

        await eventually(is_unready)
        assert (await http.post("/beacon", json=event("PageEntered", new_id(), now_ms()))).status_code == 204
    gateway.request_stop()
    assert await stopped == 0
