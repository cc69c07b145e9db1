"""A suite with little room for the log, for waiting and on disk: it refuses, keeps its bounds, goes on by itself."""

import asyncio
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.machine import usage
from deploy.embedded import valkey_server
from tests.chaos.run import fall_behind
from tests.chaos.verdict import Verdict
from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

MIB = 1024 * 1024
LOG_BOUND_BYTES = MIB
READING_BYTES = WAITING_BYTES = MIB
WAITING_EVENTS = 1_000
FLOOD = 200
# By docs/operations.md these bounds come to 10 MB; the rest is what any load makes a fresh process take.
MOST_GROWN = 3 * (READING_BYTES + WAITING_BYTES) + 1_000 * WAITING_EVENTS + 13_000 * FLOOD + 20 * MIB

# A limit on the size of files instead of a small disk, because anybody may set one anywhere. To Valkey it is the same:
# a write that ends short.
LIMITED_VALKEY = """#!/bin/sh
trap '' XFSZ
ulimit -S -f "$(cat '{limit}')"
exec '{server}' "$@"
"""


class Disk:
    """The room for the log. A change counts from Valkey's next start on."""

    def __init__(self, folder: Path) -> None:
        self._limit = folder / "limit"
        self.server = folder / "valkey-server"
        self.server.write_text(LIMITED_VALKEY.format(limit=self._limit, server=valkey_server()))
        self.server.chmod(stat.S_IRWXU)
        self.free()

    def fill(self, folder: Path, spare_bytes: int) -> None:
        """Leave so much room beyond the largest file in a folder."""
        largest = max(file.stat().st_size for file in folder.iterdir())
        self._limit.write_text(str((largest + spare_bytes) // 512))

    def free(self) -> None:
        """Leave all the room there is."""
        self._limit.write_text("unlimited")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """That of the cramped suite."""
    return Disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def cramped(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with little room. Who fills it frees it again."""
    settings = {
        "VALKEY_SERVER": str(disk.server),
        "COLLECTOR_LOG_MAX_BYTES": str(LOG_BOUND_BYTES),
        "GATEWAY_MAX_BATCHES_IN_FLIGHT": "1",
        "GATEWAY_MAX_BODY_BYTES_IN_FLIGHT": str(READING_BYTES),
        "GATEWAY_MAX_QUEUED_BYTES": str(WAITING_BYTES),
        "GATEWAY_MAX_QUEUED_EVENTS": str(WAITING_EVENTS),
    }
    with running_suite(tmp_path_factory.mktemp("cramped"), settings) as suite:
        yield suite


async def post(http: httpx.AsyncClient, visit_id: str, events: int) -> int:
    """Send events of a kilobyte each; return the status, which comes with the time to wait unless it is 204."""
    data = {"sku": "x" * 1_000}
    beacon = [event("AddToCart", visit_id, now_ms(), data=data) for _ in range(events)]
    answer = await http.post("/beacon", json=beacon)
    assert answer.status_code == 204 or int(answer.headers["Retry-After"]) >= 1
    return answer.status_code


@pytest.mark.timeout(240)
async def test_a_log_at_its_bound_refuses_until_it_is_drained_and_takes_the_rest(cramped: Suite) -> None:
    backlog = await fall_behind(cramped, seed=1, events=4_800)
    assert backlog.behind < backlog.ledger.acknowledged == 4_800
    assert {answer.status for answer in backlog.ledger.answers} == {204, 503}
    assert [answer for answer in backlog.ledger.answers if not answer.is_fit] == []
    assert backlog.log_bytes < 1.25 * LOG_BOUND_BYTES  # one group was under way
    assert backlog.verdict == Verdict()


async def test_a_flood_is_refused_beyond_the_bounds_and_memory_stays_below_them(cramped: Suite) -> None:
    visit_id, gateway = str(uuid.uuid4()), cramped.pid("gateway") or 0
    async with cramped.http() as http:
        before = usage(gateway).memory
        for _ in range(3):
            with cramped.frozen("collector"):
                answers = [asyncio.create_task(post(http, visit_id, 50)) for _ in range(FLOOD)]
                await eventually(lambda: sum(map(asyncio.Task.done, answers)) > FLOOD // 2, timeout=20)  # noqa: B023
            statuses = await asyncio.gather(*answers)
            assert statuses.count(503) > FLOOD // 2
            assert set(statuses) <= {204, 503}
        assert usage(gateway).memory - before < MOST_GROWN
        await eventually(lambda: is_taken(http, visit_id), timeout=60, every=0.2)


async def is_taken(http: httpx.AsyncClient, visit_id: str) -> bool:
    return await post(http, visit_id, 1) == 204


@pytest.mark.timeout(240)
async def test_without_room_on_disk_beacons_are_refused_and_with_room_taken_again(cramped: Suite, disk: Disk) -> None:
    visit_id, confirmed = str(uuid.uuid4()), 0
    async with cramped.http() as http:
        disk.fill(cramped.data_dir / "valkey" / "appendonlydir", spare_bytes=10_000)
        cramped.stop("valkey")
        cramped.start("valkey")
        try:
            while await post(http, visit_id, 1) == 204:
                confirmed += 1
            assert confirmed < 10
            for _ in range(3):  # Valkey has ended, and ends again at the first write
                assert await post(http, visit_id, 1) == 503
        finally:
            disk.free()
        await eventually(lambda: is_taken(http, visit_id), timeout=60, every=0.2)

        async def is_stored() -> bool:
            answer = await http.get(f"/server/data/visits/{visit_id}/events")
            # What was refused may be there too: nobody has said that it is not.
            return answer.status_code == 200 and len(answer.json()) >= confirmed + 1

        await eventually(is_stored, timeout=60)
