"""Every event received ends as exactly one thing, as each stage counts it, and what cannot be stored is not lost."""

import asyncio
import base64
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pymongo import AsyncMongoClient

from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event, event, now_ms

SITES = """
[[site]]
name = "default"
[[site]]
name = "private"
honour_global_privacy_control = true
"""
DAY_MS = 86_400_000
OBJECTS = {"Sec-GPC": "1"}

Counts = dict[tuple[str, ...], float]


class Counted:
    """A suite, and what its processes have counted."""

    def __init__(self, suite: Suite, metrics_ports: dict[str, int]) -> None:
        self.suite = suite
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in metrics_ports.items()} | {"gateway": suite.url}

    async def metrics(self, service: str) -> Counts:
        """By name and labels."""
        async with self.suite.http() as http:
            text = (await http.get(f"{self.urls[service]}/metrics")).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(sample.name, *filter(None, sample.labels.values())): sample.value for sample in samples}

    async def events(self, service: str) -> Counts:
        """By outcome and reason."""
        found = await self.metrics(service)
        return {key[1:]: n for key, n in found.items() if key[0] == f"footfall_{service}_events_total" and n}

    async def dead_letters(self, *arguments: str) -> str:
        """What `footfall-history dead-letters` prints."""
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "footfall-history", "dead-letters", *arguments,
            env={**os.environ, **self.suite.environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, problems = await process.communicate()
        assert process.returncode == 0, problems.decode()
        return out.decode()


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "sites.toml").write_text(SITES)
    ports = dict(zip(("collector", "history"), free_ports(2), strict=True))
    settings = {f"{name.upper()}_METRICS_PORT": str(port) for name, port in ports.items()}
    with running_suite(folder, settings | {"SITES_FILE": str(folder / "sites.toml")}) as suite:
        yield Counted(suite, ports)


@pytest.fixture
async def http(counted: Counted) -> AsyncIterator[httpx.AsyncClient]:
    async with counted.suite.http() as http:
        yield http


@pytest.fixture
async def unstorable(counted: Counted) -> AsyncIterator[Any]:
    """The collection of events, which refuses those with this name."""
    client: AsyncMongoClient[Any] = AsyncMongoClient(counted.suite.mongo_url)
    database = client["footfall"]
    await database.command({"collMod": "events", "validator": {"event_name": {"$ne": "Unstorable"}}})
    yield database
    await client.close()


async def status(http: httpx.AsyncClient, sent: Event) -> str:
    """What the receipt of an event says became of it."""
    answer = await http.get(f"/api/v1/receipts/{sent['visitID']}/{sent['eventID']}")
    return str(answer.json()["status"]) if answer.status_code == 200 else str(answer.status_code)


async def test_every_event_ends_as_exactly_one_thing_at_each_stage(
    counted: Counted, http: httpx.AsyncClient, unstorable: Any
) -> None:
    visit, at_ms = str(uuid.uuid4()), now_ms()
    good = [event("PageEntered", visit, at_ms), event("AddToCart", visit, at_ms + 1, data={"gift": "of hers"})]
    refused = event("Unstorable", visit, at_ms + 2, data={"gift": "of hers"})
    objecting = event("PageEntered", str(uuid.uuid4()), at_ms, site="private")
    rejected = {
        "malformed": event("PageEntered", visit, at_ms) | {"timestamp": "noon"},
        "too_old": event("PageEntered", visit, at_ms - 8 * DAY_MS),
        "invalid_visit_id": event("PageEntered", "mine", at_ms),
        "unknown_site": event("PageEntered", visit, at_ms, site="elsewhere"),
    }

    async def post(code: int, *events: Event, **headers: str) -> None:
        beacon = {"sentAt": now_ms(), "events": events, "dropped": 3}
        assert (await http.post("/beacon", json=beacon, headers=headers)).status_code == code

    await post(200, *good, good[0], *rejected.values(), refused)
    await post(204, *good, refused)  # again, as after a lost answer
    await post(400, *rejected.values())
    await post(204, objecting, event("PageExited", objecting["visitID"], at_ms + 1, site="private"), **OBJECTS)
    await post(204, event("PageEntered", visit, at_ms + 3, site="private"))  # a visitor who does not object
    await post(204, event("PageEntered", visit, at_ms + 4), **OBJECTS)  # a site that does not ask
    picture = base64.urlsafe_b64encode(json.dumps(event("PageExited", visit, at_ms + 5)).encode()).decode()
    assert (await http.get("/beacon.gif", params={"e": picture})).status_code == 200
    by_server = event("AddToCart", visit, at_ms + 6, site="private")
    assert (await http.post(f"/server/data/visits/{visit}/events", json=by_server, headers=OBJECTS)).status_code == 200

    rejections = {("rejected", reason): 2.0 for reason in rejected}
    to_collector = {key: count for key, count in rejections.items() if key[1] != "malformed"}
    assert await counted.events("gateway") == {("stored",): 11, ("suppressed",): 2} | rejections
    assert await counted.events("collector") == {("stored",): 11, ("suppressed",): 2} | to_collector

    async def are_all_read() -> None:
        # Each event, sent twice or three times, is stored or kept as a dead letter once.
        assert await counted.events("history") == {("stored",): 6, ("duplicate",): 4, ("unstorable",): 1}

    await eventually(are_all_read, timeout=20)
    assert (await counted.metrics("gateway"))["footfall_gateway_client_dropped_events_total",] == 6 * 3
    assert {await status(http, one) for one in (*good, by_server)} == {"STORED"}
    assert {await status(http, one) for one in (objecting, rejected["too_old"])} == {"404"}
    assert await status(http, refused) == "DEAD_LETTER"


async def test_what_could_not_be_stored_is_listed_repaired_and_replayed(
    counted: Counted, http: httpx.AsyncClient, unstorable: Any
) -> None:
    visit = str(uuid.uuid4())
    signed_in = event("SignIn", visit, now_ms() - 1_000, "dana@shop.example")
    sent = event("Unstorable", visit, now_ms(), data={"gift": "of hers"})
    assert (await http.post("/beacon", json=[signed_in, sent])).status_code == 204

    async def is_put_aside() -> bool:
        return await status(http, sent) == "DEAD_LETTER"

    await eventually(is_put_aside, timeout=20)
    path = f"/api/v1/receipts/{visit}/{sent['eventID']}"
    receipt = (await http.get(path)).json()
    assert receipt["deadLetter"]["reason"] == "MongoDB refuses it with code 121"
    assert (receipt["site"], receipt["visitor"]) == ("default", None)
    gauges = ("footfall_history_dead_letters",), ("footfall_history_dead_letters_oldest_timestamp_seconds",)

    async def is_told() -> None:
        found = await counted.metrics("history")
        assert found[gauges[0]] >= 1
        assert 0 < found[gauges[1]] <= receipt["deadLetter"]["createTime"] / 1000

    await eventually(is_told, timeout=20)

    letter = f"{visit}/{uuid.UUID(sent['eventID'])}"
    listed = await counted.dead_letters("list")
    assert f"\t{letter}\tMongoDB refuses it with code 121\n" in listed
    assert "of hers" not in listed + await counted.dead_letters("show", letter)

    await counted.dead_letters("replay", letter)
    await eventually(is_put_aside, timeout=20)  # again: nothing has changed

    assert (
        await counted.dead_letters("repair", letter, "--set", "event_name=AddToCart", "--drop", "data") == f"{letter}\n"
    )
    assert f"{letter}\n" in await counted.dead_letters("replay", "--all")

    async def is_stored() -> bool:
        return await status(http, sent) == "STORED"

    await eventually(is_stored, timeout=20)
    stored = (await http.get(path)).json()
    assert stored["visitor"]["identityId"] == "dana@shop.example"
    assert (stored["receivedTime"], stored["deadLetter"]) == (receipt["receivedTime"], None)
    [found] = [
        one for one in (await http.get(f"/server/data/visits/{visit}/events")).json() if one["eventName"] != "SignIn"
    ]
    assert (found["eventName"], found["data"]) == ("AddToCart", {})
