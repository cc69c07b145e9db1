"""Turns a seed into a run against a suite: clients that retry, faults or a backlog meanwhile, and what it came to."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from tests.chaos.clients import Client, Ledger, random_beacons, shopping_beacons
from tests.chaos.comparison import LOG, Verdict, drain, judge
from tests.chaos.injector import Outage, Storm
from tests.tools.suite import Suite

CLIENTS: Final = 8
# Each client rests so long between beacons that history keeps up with all of them on two cores.
REST_S: Final = 0.02
# A killed reader's entries are taken over after 10 s.
DRAINED_S: Final = 120.0
# The least that history is expected to store a second, for how long to wait for it.
SLOWEST_INGEST: Final = 300
LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True)
class Survival:
    """What a run under faults came to. `drain_s`: from the time all was confirmed."""

    ledger: Ledger
    storm: Storm
    drain_s: float
    verdict: Verdict


@asynccontextmanager
async def retrying_clients(suite: Suite, seed: int) -> AsyncIterator[Ledger]:
    """Let clients send random visits within, and afterwards until all that they have begun is confirmed."""
    ledger, leaving = Ledger(), asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            beacons = random_beacons(random.Random(f"{seed}/{number}"))
            clients.create_task(Client(suite, ledger, beacons, REST_S).run(leaving))
        yield ledger
        leaving.set()


async def survive(suite: Suite, seed: int, seconds: float) -> Survival:
    """Strike a suite for so long under retrying clients; heal and drain it; compare all it says with the reference."""
    storm = Storm(suite, random.Random(seed))
    async with retrying_clients(suite, seed) as ledger:
        await storm.rage(seconds)
    return Survival(ledger, storm, await drain(suite, DRAINED_S), await judge(suite, ledger.reference))


def confirmed_within(ledger: Ledger, outages: Sequence[Outage]) -> int:
    """How many requests were answered 2xx although an outage lasted from before they were sent until after that."""
    return sum(
        answer.status == 204 and any(one.began <= answer.began and answer.ended <= one.ended for one in outages)
        for answer in ledger.answers
    )


@dataclass(frozen=True)
class Backlog:
    """What a time without history came to.

    `behind`: events confirmed when history was started again. `log_bytes`: the log at its largest. `drain_s`: from that
    start until all events were confirmed and read.
    """

    ledger: Ledger
    behind: int
    fill_s: float
    drain_s: float
    log_bytes: int
    verdict: Verdict


async def fall_behind(suite: Suite, seed: int, events: int) -> Backlog:
    """Stop history; bring in so many events, or as many as the log takes; start history, and bring in the rest."""
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
            await asyncio.sleep(LOOK_EVERY_S)
        behind, fill_s = ledger.acknowledged, time.monotonic() - started
        await asyncio.to_thread(suite.start, "history")
        started = time.monotonic()
        await asyncio.wait(clients)
        await drain(suite, DRAINED_S + events / SLOWEST_INGEST)
        drain_s = time.monotonic() - started
        all_in.set()
    return Backlog(ledger, behind, fill_s, drain_s, watch.result(), await judge(suite, ledger.reference))


async def _largest_log(suite: Suite, until: asyncio.Event) -> int:
    """Look at the log until told; return the most bytes that it took."""
    most = 0
    async with Redis.from_url(suite.redis_url) as redis:
        while not until.is_set():
            most = max(most, await redis.memory_usage(LOG, samples=1_000) or 0)
            await asyncio.sleep(LOOK_EVERY_S)
    return most
