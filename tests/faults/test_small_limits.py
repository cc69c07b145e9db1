"""A suite with small limits for the log, for queued beacons and on disk: it refuses beacons and recovers by itself."""

import asyncio
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.machine import usage
from deploy.embedded import valkey_server
from tests.chaos.comparison import Differences, drain
from tests.chaos.run import run_with_backlog
from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

pytestmark = pytest.mark.long

MIB = 1024 * 1024
LOG_BOUND_BYTES = MIB
READING_BYTES = WAITING_BYTES = MIB
WAITING_EVENTS = 1_000
FLOOD = 200
# By docs/ops/failures.md these limits come to 10 MB. The rest is what a fresh process needs under any load.
MOST_GROWN = 3 * (READING_BYTES + WAITING_BYTES) + 1_000 * WAITING_EVENTS + 13_000 * FLOOD + 20 * MIB

# A limit on the size of files instead of a small disk, because it needs no privileges. For Valkey both are the same:
# a write that ends early.
LIMITED_VALKEY = """#!/bin/sh
trap '' XFSZ
ulimit -S -f "$(cat '{limit}')"
exec '{server}' "$@"
"""


class Disk:
    """The disk space for the log. A change takes effect when Valkey is started again."""

    def __init__(self, folder: Path) -> None:
        self._limit = folder / "limit"
        self.server = folder / "valkey-server"
        self.server.write_text(LIMITED_VALKEY.format(limit=self._limit, server=valkey_server()))
        self.server.chmod(stat.S_IRWXU)
        self.free()

    def fill(self, folder: Path, spare_bytes: int) -> None:
        """Leave this much space beyond the largest file in a folder."""
        largest = max(file.stat().st_size for file in folder.iterdir())
        self._limit.write_text(str((largest + spare_bytes) // 512))

    def free(self) -> None:
        """Remove the limit."""
        self._limit.write_text("unlimited")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """The disk of the limited suite."""
    return Disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def limited(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite with small limits. A test that fills its disk frees it again."""
    settings = {
        "VALKEY_SERVER": str(disk.server),
        "COLLECTOR_LOG_MAX_BYTES": str(LOG_BOUND_BYTES),
        "GATEWAY_MAX_BATCHES_IN_FLIGHT": "1",
        "GATEWAY_MAX_BODY_BYTES_IN_FLIGHT": str(READING_BYTES),
        "GATEWAY_MAX_QUEUED_BYTES": str(WAITING_BYTES),
        "GATEWAY_MAX_QUEUED_EVENTS": str(WAITING_EVENTS),
    }
    with running_suite(tmp_path_factory.mktemp("limited"), settings) as suite:
        yield suite


async def post(http: httpx.AsyncClient, visit_id: str, events: int) -> int:
    """Send events of a kilobyte each. Returns the status; any but 204 has a Retry-After header."""
    data = {"sku": "x" * 1_000}
    beacon = [event("AddToCart", visit_id, now_ms(), data=data) for _ in range(events)]
    answer = await http.post("/beacon", json=beacon)
    assert answer.status_code == 204 or int(answer.headers["Retry-After"]) >= 1
    return answer.status_code


@pytest.mark.timeout(240)
async def test_a_full_log_refuses_beacons_until_it_is_read(limited: Suite) -> None:
    backlog = await run_with_backlog(limited, seed=1, events=4_800)
    assert backlog.behind < backlog.ledger.acknowledged == 4_800
    assert {answer.status for answer in backlog.ledger.answers} == {204, 503}
    assert [answer for answer in backlog.ledger.answers if not answer.is_documented] == []
    assert backlog.log_bytes < 1.25 * LOG_BOUND_BYTES  # one batch was in flight
    assert backlog.differences == Differences()


async def test_a_flood_is_refused_and_memory_stays_below_the_limits(limited: Suite) -> None:
    visit_id, gateway = str(uuid.uuid4()), limited.pid("gateway") or 0
    async with limited.http() as http:
        before = usage(gateway).memory
        for _ in range(3):
            with limited.frozen("collector"):
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
async def test_with_a_full_disk_beacons_are_refused_until_there_is_room(limited: Suite, disk: Disk) -> None:
    visit_id, confirmed = str(uuid.uuid4()), 0
    await drain(limited, 60)  # what reads the log writes to it as well
    async with limited.http() as http:
        limited.stop("valkey")
        disk.fill(limited.data_dir / "valkey" / "appendonlydir", spare_bytes=10_000)
        limited.start("valkey")
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
            # Events of refused beacons may be stored as well.
            return answer.status_code == 200 and len(answer.json()) >= confirmed + 1

        await eventually(is_stored, timeout=60)
