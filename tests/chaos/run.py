"""Runs against a suite: clients that retry, with faults or with a backlog, and the comparison afterwards."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from tests.chaos.clients import Client, Ledger, random_beacons, shopping_beacons
from tests.chaos.comparison import LOG, Differences, compare, drain
from tests.chaos.injector import FaultInjector, Outage
from tests.tools.suite import Suite

CLIENTS: Final = 8
# Long enough that history keeps up with all clients on two cores.
PAUSE_S: Final = 0.02
# A killed reader's entries are taken over after 10 s.
DRAIN_TIMEOUT_S: Final = 120.0
# The lowest rate of history that is expected, for the time limit.
MIN_EVENTS_PER_S: Final = 300
POLL_S: Final = 0.2


@dataclass(frozen=True)
class FaultRun:
    """The result of a run under faults. `drain_s`: from the time when all events were confirmed."""

    ledger: Ledger
    injector: FaultInjector
    drain_s: float
    differences: Differences


@asynccontextmanager
async def retrying_clients(suite: Suite, seed: int, pause_s: float = PAUSE_S) -> AsyncIterator[Ledger]:
    """Let clients send random visits within the block, and then until all sent events are confirmed.

    `pause_s` is the pause of a client between confirmed requests.
    """
    ledger, stopping = Ledger(), asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            beacons = random_beacons(random.Random(f"{seed}/{number}"))
            clients.create_task(Client(suite, ledger, beacons, pause_s).run(stopping))
        yield ledger
        stopping.set()


async def run_with_faults(suite: Suite, seed: int, seconds: float) -> FaultRun:
    """Inject faults for this long under retrying clients, let the suite recover, and compare with the reference."""
    injector = FaultInjector(suite, random.Random(seed))
    async with retrying_clients(suite, seed) as ledger:
        await injector.run(seconds)
    return FaultRun(ledger, injector, await drain(suite, DRAIN_TIMEOUT_S), await compare(suite, ledger.reference))


def confirmed_within(ledger: Ledger, outages: Sequence[Outage]) -> int:
    """The number of requests that were answered 2xx although they were sent and answered within an outage."""
    return sum(
        answer.status == 204 and any(one.began <= answer.began and answer.ended <= one.ended for one in outages)
        for answer in ledger.answers
    )


@dataclass(frozen=True)
class BacklogRun:
    """The result of a run with a backlog.

    - `behind`: number of events confirmed when history was started again.
    - `fill_s`: seconds until then.
    - `drain_s`: seconds from then until all events were confirmed and read.
    - `log_bytes`: largest size of the log.
    """

    ledger: Ledger
    behind: int
    fill_s: float
    drain_s: float
    log_bytes: int
    differences: Differences


async def run_with_backlog(suite: Suite, seed: int, events: int) -> BacklogRun:
    """Stop history, send events until the log is full, start history, and send the rest."""
    ledger, all_in = Ledger(), asyncio.Event()
    suite.stop("history")
    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(_largest_log(suite, all_in))
        clients = [
            tasks.create_task(Client(suite, ledger, beacons, 0).run(all_in))
            for number in range(CLIENTS)
            for beacons in [shopping_beacons(random.Random(f"{seed}/{number}"), events // CLIENTS)]
        ]
        while not all(client.done() for client in clients) and all(answer.status == 204 for answer in ledger.answers):
            await asyncio.sleep(POLL_S)
        behind, fill_s = ledger.acknowledged, time.monotonic() - started
        await asyncio.to_thread(suite.start, "history")
        started = time.monotonic()
        await asyncio.wait(clients)
        await drain(suite, DRAIN_TIMEOUT_S + events / MIN_EVENTS_PER_S)
        drain_s = time.monotonic() - started
        all_in.set()
    return BacklogRun(ledger, behind, fill_s, drain_s, watch.result(), await compare(suite, ledger.reference))


async def _largest_log(suite: Suite, until: asyncio.Event) -> int:
    """Measure the log until `until` is set. Returns its largest size in bytes."""
    most = 0
    async with Redis.from_url(suite.redis_url) as redis:
        while not until.is_set():
            most = max(most, await redis.memory_usage(LOG, samples=1_000) or 0)
            await asyncio.sleep(POLL_S)
    return most
