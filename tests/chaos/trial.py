"""Tries one fault of the table under load, and counts what it has cost."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from footfall_eventlog.log import RECORDS_GROUP
from footfall_eventlog.partitions import hash_tag
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from tests.chaos.clients import Ledger
from tests.chaos.comparison import Differences, compare, drain
from tests.chaos.faults import Fault
from tests.chaos.injections import Target
from tests.chaos.probe import probing
from tests.chaos.run import retrying_clients
from tests.tools.eventually import eventually
from tests.tools.suite import PROGRAMS, Program, Suite

MAX_RETURN_S: Final = 3.0
"""The goal: a suite is back this long after the end of a fault, and is not ready in an outage that is longer."""
# About 150 events a second, so that history keeps up and a comparison takes few seconds.
_PAUSE_S: Final = 0.1
_LEAD_S: Final = 1.0
_POLL_S: Final = 0.05
_LIMIT_S: Final = 120.0


@dataclass(frozen=True)
class Trial:
    """What happened when a fault was tried.

    - `lasted_s`: how long the fault lasted; 0 if it was over as soon as it had begun.
    - `outage_s`: the longest time without a confirmation.
    - `not_ready_after_s`: from the beginning of the fault to the first answer of `/readyz` other than 200, if any.
    - `back_after_s`: from the end of the fault.
    - `ended`: programs that ended, although they are not part of the fault.
    """

    fault: Fault
    lasted_s: float
    ledger: Ledger
    differences: Differences
    outage_s: float
    not_ready_after_s: float | None
    back_after_s: float
    ended: Collection[Program]

    def shortfalls(self) -> list[str]:
        """What is not as promised, in words."""
        found = [*self.differences.shortfalls(), *self.ledger.shortfalls()]
        if self.ended:
            found.append(f"ended: {', '.join(self.ended)}")
        if self.outage_s > MAX_RETURN_S and self.not_ready_after_s is None:
            found.append(f"no confirmation for {self.outage_s:.1f} s, but `/readyz` said ready")
        if self.back_after_s > MAX_RETURN_S:
            found.append(f"back after {self.back_after_s:.1f} s")
        return found


async def try_fault(suite: Suite, fault: Fault, seed: int, seconds: float) -> Trial:
    """Inject a fault under load, wait until the suite is back, and compare with the reference.

    Raises TimeoutError when the suite does not come back.
    """
    async with asyncio.timeout(seconds + _LIMIT_S):
        return await _try_fault(suite, fault, seed, seconds)


async def _try_fault(suite: Suite, fault: Fault, seed: int, seconds: float) -> Trial:
    pids = {program: suite.pid(program) for program in PROGRAMS}
    async with retrying_clients(suite, seed, _PAUSE_S) as ledger, probing(suite, ledger) as probe:
        while not ledger.acknowledged:
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_LEAD_S)
        snapshot = await asyncio.to_thread(suite.snapshot, fault.snapshot) if fault.snapshot else None
        await asyncio.sleep(fault.age_s)
        began = time.monotonic()
        async with fault.inject(Target(suite, seconds, snapshot)) as only_in_log:
            await asyncio.sleep(seconds)
            ended = time.monotonic() if seconds else began
        back = await probe.returned(only_in_log)
    await drain(suite, _LIMIT_S)
    if only_in_log:  # identity waits ten seconds for what history was storing
        await eventually(lambda: _is_rebuilt(suite), timeout=_LIMIT_S, every=0.2)
    return Trial(
        fault=fault,
        lasted_s=seconds,
        ledger=ledger,
        differences=await compare(suite, ledger.reference, only_in_log),
        outage_s=ledger.longest_outage_s(began, back),
        not_ready_after_s=probe.not_ready_after_s(began),
        back_after_s=back - ended,
        ended=[each for each in PROGRAMS if each not in fault.ends and suite.pid(each) != pids[each]],
    )


async def _is_rebuilt(suite: Suite) -> bool:
    """Whether identity has built live state again from history: only then its checkpoint is of this state of Redis."""
    async with Redis.from_url(suite.redis_url) as redis:
        epoch = await redis.hget(f"checkpoint:{hash_tag(0)}:{RECORDS_GROUP}", "epoch")
        process = (await redis.info("server"))["run_id"]
    async with AsyncMongoClient[dict[str, str]](suite.mongo_url) as mongo:
        checkpoint = await mongo["footfall"]["identity_checkpoints"].find_one({"_id": "0/1"})
    return checkpoint is not None and (checkpoint["epoch"].encode(), checkpoint["node"]) == (epoch, process)
