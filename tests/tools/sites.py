"""Two groups of sites in one suite, and clients whose keys are limited to some of them."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import httpx
from footfall_eventlog.keys import KeyScope

from tests.tools.keys import new_key
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event

SITES = """
[[site]]
name = "shop"

[[site]]
name = "bank"

[[site]]
name = "bank-help"
group = "bank"
"""


def running_suite_of_sites(folder: Path) -> AbstractContextManager[Suite]:
    """A suite of these sites."""
    (folder / "sites.toml").write_text(SITES)
    return running_suite(folder / "data", {"SITES_FILE": str(folder / "sites.toml")})


@asynccontextmanager
async def client_of(suite: Suite, *sites: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key that may do everything, on these sites."""
    token = new_key(Path(suite.environment["GATEWAY_KEYS_FILE"]), "-".join(sites), KeyScope, sites)
    async with suite.http(auth=None, headers={"Authorization": f"Bearer {token}"}) as http:
        yield http


async def send(http: httpx.AsyncClient, *events: Event) -> None:
    """Let pages send events."""
    assert (await http.post("/beacon", json=list(events))).status_code == 204
