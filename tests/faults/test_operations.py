"""`footfall-ops` on a suite under load.

Back up and restore, verify, build live state again, change the partitions and the erasure key.
"""

import asyncio
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_eventlog.log import GROUPS, stream_key
from footfall_history.storage.documents import document_id
from footfall_history.storage.store import Store
from redis.asyncio import Redis

from deploy.demo import Visitor
from tests.chaos.clients import Ledger
from tests.chaos.comparison import Differences, compare, drain
from tests.chaos.run import retrying_clients
from tests.tools.eventually import eventually
from tests.tools.operators import ops
from tests.tools.suite import Program, Suite, running_suite
from tests.tools.visits import Event, event, now_ms

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TIMEOUT_S = 300.0
DEMO_EVENTS = int(os.environ.get("FOOTFALL_DEMO_EVENTS", "100000"))
EVENTS_PER_BEACON = 100
SENDERS = 4
READERS: tuple[Program, ...] = ("identity", "history")
SERVICES: tuple[Program, ...] = ("collector", *READERS)


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with running_suite(tmp_path) as suite:
        yield suite


@asynccontextmanager
async def opened(suite: Suite) -> AsyncIterator[Store]:
    store = Store.open(suite.mongo_url, "footfall", 20_000)
    yield store
    await store.close()


async def stored(store: Store, ids: Collection[str]) -> set[str]:
    return {document["_id"] for document in await store.read_events(ids, ["_id"])}


async def test_a_backup_under_load_restores_every_event_that_was_confirmed_before_it(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed_ms: dict[str, int] = {}
    confirm = Ledger.confirm

    def noting_times(ledger: Ledger, events: Iterable[Event]) -> None:
        given = [*events]
        confirm(ledger, given)
        for sent in given:
            event_id = str(sent["eventID"]).lower()
            dashed = "-".join(event_id[at:to] for at, to in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
            confirmed_ms.setdefault(document_id(sent["visitID"], dashed), now_ms())

    monkeypatch.setattr(Ledger, "confirm", noting_times)
    folder = tmp_path / "backup"
    async with retrying_clients(suite, 1):
        await asyncio.sleep(5)
        assert (await ops(suite, "backup", folder))[0] == 0
        await asyncio.sleep(2)
    for program in SERVICES:
        await asyncio.to_thread(suite.stop, program)
    async with opened(suite) as store, Redis.from_url(suite.redis_url) as redis:
        assert len(await stored(store, confirmed_ms)) > 0
        await redis.flushall()
        await store.events.database.client.drop_database("footfall")
        await asyncio.sleep(5)  # until no reader counts as running
        code, _, said = await ops(suite, "restore", folder)
        assert code == 0, said
        for program in SERVICES:
            await asyncio.to_thread(suite.start, program)
        await eventually(suite.is_ready, timeout=TIMEOUT_S)
        await drain(suite, TIMEOUT_S)
        moment = said.partition("confirmed before ")[2].split(". ")[0]
        moment_ms = int(datetime.fromisoformat(moment).timestamp() * 1000)
        before = {event_id for event_id, at_ms in confirmed_ms.items() if at_ms < moment_ms}
        assert 0 < len(before) < len(confirmed_ms)
        assert before - await stored(store, before) == set()
    code, differences, said = await ops(suite, "verify")
    assert (code, differences) == (0, []), said


async def test_all_attributions_of_demo_visitors_are_right_and_a_wrong_one_is_found(suite: Suite) -> None:
    sent = await send_demo(suite, DEMO_EVENTS)
    await drain(suite, TIMEOUT_S)
    code, differences, said = await ops(suite, "verify")
    assert (code, differences) == (0, []), said
    assert f"with {sent:,} events verified, 0 differences" in said
    async with opened(suite) as store:
        wrong = await store.events.find_one({"event_name": "AddToCart", "state": 3})
        assert wrong
        await store.events.update_one({"_id": wrong["_id"]}, {"$set": {"state": 2}})
    place = f"{wrong['visit_id']}/{wrong['event_id']}"
    code, differences, _ = await ops(suite, "verify", "--skip-live")
    assert (code, differences) == (1, [f"attribution\t{place}\tdiffers from the timeline: state"])


async def send_demo(suite: Suite, count: int) -> int:
    """Send the visits of demo visitors, all at the same time of day. Returns how many events there are."""
    sent = 0
    chance = random.Random(18)  # noqa: S311 - no secrets

    async def send(http: httpx.AsyncClient) -> None:
        nonlocal sent
        while sent < count:
            beacon: list[Event] = []
            while len(beacon) < EVENTS_PER_BEACON:
                at_ms = now_ms() - 60_000
                for _, events in Visitor(chance.random()).steps():
                    beacon += [event | {"timestamp": (at_ms := at_ms + 250)} for event in events]
            sent += len(beacon)
            while (answer := await http.post("/beacon", json=beacon)).status_code != 204:
                assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.5)

    async with suite.http(auth=None) as http, asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(send(http))
    return sent


async def test_live_state_is_built_again_when_it_is_asked_for(suite: Suite) -> None:
    async with retrying_clients(suite, 3) as ledger:
        await asyncio.sleep(2)
    await drain(suite, TIMEOUT_S)
    lost = [*ledger.reference.visits][:5]
    async with Redis.from_url(suite.redis_url) as redis:
        await redis.delete(*(f"visit:{{p00}}:{visit_id}" for visit_id in lost))
    code, differences, _ = await ops(suite, "verify")
    assert code == 1
    assert {line.split("\t")[1] for line in differences} == set(lost)
    assert (await ops(suite, "rebuild-live"))[0] == 0
    code, differences, said = await ops(suite, "verify")
    assert (code, differences) == (0, []), said
    assert await compare(suite, ledger.reference) == Differences()


async def test_partitions_change_under_load_and_nothing_is_lost_or_twice(suite: Suite) -> None:
    began = time.monotonic()
    async with AsyncExitStack() as running, retrying_clients(suite, 4) as ledger:
        await asyncio.sleep(3)
        for program in SERVICES:
            await asyncio.to_thread(suite.stop, program)
        await asyncio.sleep(5)  # until no reader counts as running
        code, _, said = await ops(suite, "repartition", 16)
        assert code == 0, said
        for program in SERVICES:
            await running.enter_async_context(started(suite, program, PARTITIONS="16"))
        await eventually(suite.is_ready, timeout=TIMEOUT_S)
        await asyncio.sleep(3)
        stopped_s = ledger.longest_outage_s(began)
        print(f"the intake stopped for {stopped_s:.1f} s")  # noqa: T201 - a measurement, shown by `pytest -s`
        await asyncio.sleep(0)
        running_services = running.pop_all()
    async with running_services:
        await drained(suite, 16)
        assert await compare(suite, ledger.reference) == Differences()
        suite.environment = {**suite.environment, "PARTITIONS": "16"}
        code, differences, said = await ops(suite, "verify")
        assert (code, differences) == (0, []), said


async def test_the_erasure_key_changes_and_who_is_erased_stays_erased(suite: Suite) -> None:
    visit_ids = {name: str(uuid.uuid4()) for name in ("ann", "bob", "late")}
    async with AsyncExitStack() as running, suite.http() as http:

        async def signs_in(name: str, visit: str, at_ms: int) -> None:
            answer = await http.post("/beacon", json=event("SignIn", visit_ids[visit], at_ms, name))
            assert answer.status_code == 204

        for name in ("ann", "bob"):
            await signs_in(name, name, now_ms())
        await drain(suite, TIMEOUT_S)
        assert (await http.delete("/api/v1/identities/ann")).status_code == 200
        for program in READERS:
            await asyncio.to_thread(suite.stop, program)
        await signs_in("ann", "late", now_ms() - 60_000)
        key = f"another key of some length,{suite.environment['ERASURE_KEY']}"
        suite.environment = {**suite.environment, "ERASURE_KEY": key}
        await asyncio.sleep(5)  # until no reader counts as running
        code, _, said = await ops(suite, "change-erasure-key")
        assert code == 0, said
        for program in READERS:
            await running.enter_async_context(started(suite, program))
        await eventually(suite.is_ready, timeout=TIMEOUT_S)
        await drain(suite, TIMEOUT_S)
        late = await http.get(f"/server/data/visits/{visit_ids['late']}/events")
        assert (late.status_code, "ann" in late.text) == (200, False)
        assert (await http.delete("/api/v1/identities/bob")).status_code == 200
        for name in ("ann", "bob"):
            assert (await http.get(f"/server/data/identities/{name}")).status_code == 404
        code, differences, said = await ops(suite, "verify")
        assert (code, differences) == (0, []), said


@asynccontextmanager
async def started(suite: Suite, program: Program, **settings: str) -> AsyncIterator[None]:
    """A service of the suite with other settings, in the place of the one that is stopped."""
    log = suite.data_dir / "log" / f"{program}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"footfall_{program}"),
            env=os.environ | suite.environment | settings,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def drained(suite: Suite, partitions: int) -> None:
    """Wait until all groups have handled the log of all partitions."""
    async with Redis.from_url(suite.redis_url) as redis:

        async def left() -> None:
            for number in range(partitions):
                groups: dict[str, Any] = {
                    about["name"].decode(): about for about in await redis.xinfo_groups(stream_key(number))
                }
                assert groups.keys() >= {*GROUPS}
                assert not any(groups[name]["lag"] or groups[name]["pending"] for name in GROUPS)

        await eventually(left, timeout=TIMEOUT_S, every=0.1)
