"""Requests of pages for codes of their visits: which are refused before identity is asked."""

import uuid
from pathlib import Path

from tests.service.gateway.conftest import running_gateway

UNREACHABLE = "127.0.0.1:1"
SITES = """
[[site]]
name = "shop"
origins = ["https://shop.example"]
"""


async def test_only_pages_of_a_site_may_ask_and_only_they_may_read_why_not(
    redis_database_url: str, tmp_path: Path
) -> None:
    (file := tmp_path / "sites.toml").write_text(SITES)
    async with running_gateway(
        COLLECTOR_TARGET=UNREACHABLE, IDENTITY_TARGET=UNREACHABLE, REDIS_URL=redis_database_url, SITES_FILE=str(file)
    ) as http:
        for origin, site, status in (
            ("https://shop.example", "", 503),
            ("https://shop.example", "shop", 503),
            ("https://shop.example", "bank", 404),
            ("https://evil.example", "", 404),
            ("https://evil.example", "shop", 404),
            ("https://shop.example.evil.example", "shop", 404),
            ("null", "shop", 404),
        ):
            asked = {"visitID": str(uuid.uuid4()), "site": site}
            answer = await http.post("/visit-code", params=asked, headers={"Origin": origin})
            assert answer.status_code == status, (origin, site)
            allowed = "https://shop.example" if origin == "https://shop.example" else None
            assert answer.headers.get("access-control-allow-origin") == allowed
        assert (await http.get("/visit-code", params={"visitID": str(uuid.uuid4())})).status_code == 405
        assert (await http.post("/visit-code")).status_code == 400


async def test_a_request_counts_as_100_events_of_its_sender(redis_database_url: str) -> None:
    async with running_gateway(
        COLLECTOR_TARGET=UNREACHABLE,
        IDENTITY_TARGET=UNREACHABLE,
        REDIS_URL=redis_database_url,
        RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS=250,
        rate_limit_loopback=True,
    ) as http:
        asked = {"visitID": str(uuid.uuid4())}
        answers = [await http.post("/visit-code", params=asked) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 429]
