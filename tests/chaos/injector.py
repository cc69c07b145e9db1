"""Injects faults: every two seconds, a random program of the suite is killed or frozen."""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from tests.tools.eventually import eventually
from tests.tools.suite import PROGRAMS, Program, Suite

FAULT_INTERVAL_S: Final = 2.0
# Some freezes are shorter than the time limits of the callers, some are longer.
FREEZE_S: Final = (0.3, 4.0)
RECOVERY_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.005


class Outage(NamedTuple):
    """A time range by the monotonic clock, in seconds, in which a program certainly confirmed nothing."""

    began: float
    ended: float


class FaultInjector:
    """Injects the faults of one run, and records them."""

    def __init__(self, suite: Suite, random_source: random.Random) -> None:
        self._suite = suite
        self._chance = random_source
        self._turns = {program: asyncio.Lock() for program in PROGRAMS}
        self.kills: Counter[Program] = Counter()
        self.freezes: Counter[Program] = Counter()
        self.log_outages: list[Outage] = []

    async def run(self, seconds: float) -> None:
        """Inject faults for this long. Returns when every program runs and the suite is ready."""
        async with asyncio.TaskGroup() as faults:
            for program, is_kill in islice(self._faults(), round(seconds / FAULT_INTERVAL_S)):
                faults.create_task(self._inject(program, is_kill=is_kill))
                await asyncio.sleep(FAULT_INTERVAL_S)
        await eventually(lambda: asyncio.to_thread(self._suite.is_ready), timeout=RECOVERY_TIMEOUT_S, every=0.1)

    def _faults(self) -> Iterator[tuple[Program, bool]]:
        """Endless faults as program and whether to kill it: rounds of all combinations in random order."""
        while True:
            faults = [(program, is_kill) for program in PROGRAMS for is_kill in (True, False)]
            self._chance.shuffle(faults)
            yield from faults

    async def _inject(self, program: Program, *, is_kill: bool) -> None:
        async with self._turns[program]:
            outage = await (self._kill(program) if is_kill else self._freeze(program, self._chance.uniform(*FREEZE_S)))
        (self.kills if is_kill else self.freezes)[program] += 1
        if program == "valkey":
            self.log_outages.append(outage)

    async def _kill(self, program: Program) -> Outage:
        """Kill a program, which supervisord restarts. The outage ends before a process listens on Valkey's port."""
        pid = await self._pid(program)
        os.kill(pid, signal.SIGKILL)
        while self._suite.pid(program) == pid:
            await asyncio.sleep(_POLL_S)
        began = ended = looked = time.monotonic()
        while not _listens(self._suite.redis_url):
            ended = looked
            await asyncio.sleep(_POLL_S)
            looked = time.monotonic()
        return Outage(began, ended)

    async def _freeze(self, program: Program, seconds: float) -> Outage:
        await self._pid(program)
        with self._suite.frozen(program):
            began = time.monotonic()
            await asyncio.sleep(seconds)
            return Outage(began, time.monotonic())

    async def _pid(self, program: Program) -> int:
        """The process id of a program once it runs: supervisord delays the restart if it died soon after its start."""
        while (pid := self._suite.pid(program)) is None:
            await asyncio.sleep(_POLL_S)
        return pid


def _listens(url: str) -> bool:
    host, _, port = url.removeprefix("redis://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
