"""A site that is added to SITES_FILE is known to all services soon, without a restart."""

from pathlib import Path

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import running_suite
from tests.tools.visits import event, new_id, now_ms

SITE = '[[site]]\nname = "{}"\ngroup = "{}"\n'


@pytest.mark.long
async def test_a_new_site_is_accepted_and_its_visits_are_found(tmp_path: Path) -> None:
    (sites := tmp_path / "sites.toml").write_text(SITE.format("shop", "shops"))
    with running_suite(tmp_path, {"SITES_FILE": str(sites)}) as suite:
        async with suite.http() as http:
            visit_id = new_id()

            async def send() -> httpx.Response:
                return await http.post("/beacon", json=event("SignIn", visit_id, now_ms(), "dana", site="bank"))

            refused = await send()
            assert (refused.status_code, "unknown_site" in refused.text) == (400, True)
            sites.write_text(sites.read_text() + SITE.format("bank", "banks"))

            async def is_accepted() -> bool:
                return (await send()).status_code == 204

            await eventually(is_accepted)
            for path in (f"/server/data/visits/{visit_id}", f"/api/v1/visits/{visit_id}/visitor"):

                async def is_found(path: str = path) -> bool:
                    return (await http.get(path)).status_code == 200

                await eventually(is_found)
