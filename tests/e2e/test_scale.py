"""Two of every service and 16 partitions on a Valkey cluster say what one of each with one partition says."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from deploy.embedded import is_ready
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.process import STUBS, ServiceProcess, running_service
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import Event, event, live_state, now_ms, random_visit, scattered

pytestmark = pytest.mark.long

VISITS = 15
# What a killed reader held is taken over after 10 s.
PATIENCE_S = 60.0


class Scaled(NamedTuple):
    """A suite with a second process of each service beside it."""

    suite: Suite
    others: list[ServiceProcess]
    other_gateway: str
    gateway_process: "subprocess.Popen[bytes]"
    """That of the other gateway."""

    def kill_others(self) -> None:
        """Kill one process of each service; it does not start again."""
        for other in self.others:
            other.process.kill()
        self.gateway_process.kill()


@pytest.fixture(scope="module")
async def scaled(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scaled]:
    """Two of every service, with the rules of the suite; each gRPC target is both processes."""
    folder = tmp_path_factory.mktemp("scaled")
    ports = {service: free_ports(2) for service in STUBS}
    settings = {f"{service.upper()}_PORT": str(first) for service, (first, _) in ports.items()}
    settings |= {name: suite.environment[name] for name in ("CATEGORIES_FILE", "IDENTITY_POLICY_FILE")}
    for service, (first, second) in ports.items():
        settings[f"{service.upper()}_TARGET"] = f"ipv4:127.0.0.1:{first},127.0.0.1:{second}"
    # Never with TLS: a target of several addresses is no name that a certificate could hold.
    with running_suite(folder / "data", settings, on_cluster=True, is_mutual_tls=False) as scaled:
        async with AsyncExitStack() as beside:
            other_gateway, gateway_process = beside.enter_context(second_gateway(scaled))
            starting = (
                beside.enter_async_context(
                    running_service(service, folder, **{**scaled.environment, f"{service.upper()}_PORT": str(second)})
                )
                for service, (_, second) in ports.items()
            )
            others = await asyncio.gather(*starting)
            await eventually(lambda: is_ready(other_gateway), timeout=PATIENCE_S)
            yield Scaled(scaled, others, other_gateway, gateway_process)


@contextmanager
def second_gateway(suite: Suite) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Another gateway of a suite; gives its URL and its process."""
    [port] = free_ports(1)
    with (suite.data_dir / "log" / "gateway-2.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "footfall_gateway"],
            env={**os.environ, **suite.environment, "GATEWAY_PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(20)


def visits_of(mark: str) -> list[list[Event]]:
    """Random visits of the last half hour to a site of this test's own, by people of its own."""
    chance = random.Random(int(os.environ.get("FOOTFALL_SEED", "1")))  # noqa: S311 - repeatable, not secret
    visits = [random_visit(chance) for _ in range(VISITS)]
    for e in (e for events in visits for e in events):
        e |= {"timestamp": e["timestamp"] + 3_000_000, "site": mark}
        if "userID" in e["data"]:
            e["data"] = {"userID": f"{e['data']['userID']} {mark}"}
    return visits


async def post(https: list[httpx.AsyncClient], beacons: list[list[Event]]) -> None:
    """Send beacons to gateways in turn until they are taken: the retry that every client owes us."""
    waiting, gateways = asyncio.Semaphore(16), itertools.cycle(https)

    async def is_taken(beacon: list[Event]) -> bool:
        try:
            answer = await next(gateways).post("/beacon", json=beacon)
        except httpx.TransportError:
            return False
        assert answer.status_code in {200, 204, 503}, answer.text
        return answer.status_code == 204

    async def send(beacon: list[Event]) -> None:
        async with waiting:
            await eventually(partial(is_taken, beacon), timeout=PATIENCE_S, every=0.2)

    await asyncio.gather(*map(send, beacons))


async def ask(http: httpx.AsyncClient, path: str, until: asyncio.Event) -> Counter[int]:
    """Ask again and again; give the number of answers by status."""
    statuses = Counter[int]()
    while not until.is_set():
        statuses[(await http.get(path)).status_code] += 1
    return statuses


def questions(visits: list[list[Event]], mark: str) -> list[str]:
    """All that can be asked about visits and the people in them."""
    people = sorted({e["data"]["userID"] for events in visits for e in events if "userID" in e["data"]})
    paths = [f"/api/v1/visitors?site={mark}"]
    for visit_id in (events[0]["visitID"] for events in visits):
        paths += (f"/api/v1/visits/{visit_id}/{what}" for what in ("visitor", "explain"))
        paths += (f"/server/data/visits/{visit_id}{what}" for what in ("", "/pages", "/sessions", "/identities"))
    for person in people:
        paths += (f"/server/data/identities/{quote(person, safe='')}{what}" for what in ("", "/visits", "/events"))
    return paths


async def answer_to(http: httpx.AsyncClient, path: str) -> tuple[int, Any]:
    """What a suite answers, but for when it heard of it."""
    answer = await http.get(path)
    return answer.status_code, without_arrival(answer.json() if answer.content else None)


async def agree(one: httpx.AsyncClient, other: httpx.AsyncClient, path: str) -> int:
    """Both answer the same; give back the status."""
    (status, answer), (other_status, other_answer) = await asyncio.gather(answer_to(one, path), answer_to(other, path))
    assert (other_status, other_answer) == (status, answer), path
    return status


async def agree_on_all_events(one: httpx.AsyncClient, other: httpx.AsyncClient, events: list[Event]) -> None:
    """Both have stored all events of a visit, with the same attributions."""
    path = f"/server/data/visits/{events[0]['visitID']}/events"
    assert await agree(one, other, path) == 200
    _, stored = await answer_to(one, path)
    assert len(stored) == len(events)


def without_arrival(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: without_arrival(value) for key, value in answer.items() if key != "serverTimestamp"}
    return [without_arrival(each) for each in answer] if isinstance(answer, list) else answer


@pytest.mark.timeout(240)
async def test_two_of_everything_say_what_one_of_each_says(suite: Suite, scaled: Scaled) -> None:
    mark = f"scale{uuid.uuid4().hex[:8]}"
    visits = visits_of(mark)
    chance = random.Random(2)  # noqa: S311
    beacons = [beacon for events in visits for beacon in scattered(events, chance)]
    chance.shuffle(beacons)
    half = len(beacons) // 2

    async with suite.http() as one, scaled.suite.http() as first, scaled.suite.http() as second:
        second.base_url = httpx.URL(scaled.other_gateway)
        await post([one], beacons)
        await post([first, second], beacons[:half])
        taken = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(first, f"/api/v1/visitors?site={mark}", taken))
            scaled.kill_others()
            scaled.suite.kill("valkey")
            await post([first, second], beacons[half:])
            taken.set()
        assert asking.result()[200] > 0
        assert {*asking.result()} <= {200, 503}, "503 says when to ask again"

        for events in visits:
            await eventually(partial(agree_on_all_events, one, first, events), timeout=PATIENCE_S, every=0.2)
        for path in questions(visits, mark):
            await eventually(partial(agree, one, first, path), timeout=PATIENCE_S, every=0.2)

        erased = next(e["data"]["userID"] for events in visits for e in events if "userID" in e["data"])
        for http in (one, first):
            assert (await http.delete(f"/api/v1/identities/{quote(erased, safe='')}")).status_code == 200
        assert await agree(one, first, f"/server/data/identities/{quote(erased, safe='')}") == 404
        for events in visits:
            await eventually(partial(agree_on_all_events, one, first, events), timeout=PATIENCE_S, every=0.2)


async def test_while_a_node_is_down_events_of_the_other_partitions_are_stored(scaled: Scaled) -> None:
    at_ms = now_ms()
    events = [event("PageEntered", str(uuid.uuid4()), at_ms) for _ in range(100)]
    async with scaled.suite.http() as http:
        scaled.suite.stop("valkey")
        try:
            answer = await http.post("/beacon", json=events)
            assert answer.status_code == 200, answer.text
            refused = answer.json()["rejected"]
            assert answer.json()["accepted"] + len(refused) == len(events)
            assert {item["retry"] for item in refused} == {True}
            stored = events[next(n for n in range(len(events)) if n not in {item["index"] for item in refused})]
            assert (await live_state(http, stored["visitID"]))["state"] == "ANONYMOUS"
        finally:
            scaled.suite.start("valkey")
        await post([http], [events])

        async def are_stored_once() -> None:
            for sent in events:
                listed = await http.get(f"/server/data/visits/{sent['visitID']}/events")
                assert listed.status_code == 200
                assert len(listed.json()) == 1

        await eventually(are_stored_once, timeout=PATIENCE_S, every=0.5)
