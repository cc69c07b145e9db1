"""A store that is restored from an older snapshot, or emptied, under a suite that runs on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from tests.chaos.clients import Ledger
from tests.chaos.comparison import Differences, compare, drain
from tests.chaos.run import retrying_clients
from tests.tools.eventually import eventually
from tests.tools.suite import Program, Suite, running_suite

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of this file, whose random visits, an hour old, are live."""
    with running_suite(tmp_path_factory.mktemp("suite"), {"VISIT_IDLE_MINUTES": "1440"}) as suite:
        yield suite


async def load(suite: Suite, seed: int, seconds: float) -> Ledger:
    """What clients have sent and got confirmed in this time."""
    async with retrying_clients(suite, seed) as ledger:
        await asyncio.sleep(seconds)
    return ledger


def lines(suite: Suite, program: Program, text: str) -> int:
    return (suite.data_dir / "log" / f"{program}.log").read_text().count(text)


@asynccontextmanager
async def a_further_line(suite: Suite, text: str, *programs: Program) -> AsyncIterator[None]:
    """Wait after the block until each program has written a line once more."""
    before = {program: lines(suite, program, text) for program in programs}
    yield
    await eventually(
        lambda: all(lines(suite, program, text) > count for program, count in before.items()), timeout=TIMEOUT_S
    )


@pytest.mark.parametrize("is_emptied", [False, True], ids=["restored", "emptied"])
async def test_live_state_that_redis_lost_is_built_again_from_history(suite: Suite, *, is_emptied: bool) -> None:
    ledgers = [await load(suite, 1, 2)]
    snapshot = await asyncio.to_thread(suite.snapshot, "valkey")
    ledgers.append(await load(suite, 2, 3))
    await drain(suite, TIMEOUT_S)
    async with (
        a_further_line(suite, "live state is complete again", "identity"),
        a_further_line(suite, "Redis has gone back to an earlier state", "identity", "history"),
    ):
        if is_emptied:
            async with Redis.from_url(suite.redis_url) as redis:
                await redis.flushall()
        else:
            await asyncio.to_thread(suite.restore, "valkey", snapshot)
        ledgers.append(await load(suite, 3, 3))
    await drain(suite, TIMEOUT_S)
    for ledger in ledgers:
        assert ledger.acknowledged > 0
        assert await compare(suite, ledger.reference) == Differences()


async def test_what_mongodb_lost_is_read_again_from_the_log(suite: Suite) -> None:
    async with retrying_clients(suite, 4) as ledger:
        await asyncio.sleep(2)
        snapshot = await asyncio.to_thread(suite.snapshot, "mongo")
        known = set(people(ledger))
        await asyncio.sleep(3)
        async with a_further_line(suite, "MongoDB has gone back to an earlier state", "history", "identity"):
            await asyncio.to_thread(suite.restore, "mongo", snapshot)
        await asyncio.sleep(1)
    await drain(suite, TIMEOUT_S)
    assert await compare(suite, ledger.reference) == Differences()
    async with suite.http() as http:
        for person in [person for person in people(ledger) if person not in known][:20]:
            assert await is_known(http, person), "signed in after the snapshot"


def people(ledger: Ledger) -> list[str]:
    return [sent.user for visit in ledger.reference.visits.values() for sent in visit.values() if sent.user]


async def is_known(http: httpx.AsyncClient, person: str) -> bool:
    return (await http.get(f"/server/data/identities/{quote(person, safe='')}")).status_code == 200
