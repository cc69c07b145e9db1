"""Turns a seed into faults: every two seconds a random program of the suite is killed or frozen."""

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

EVERY_S: Final = 2.0
# Some shorter than what waits for it is ready to wait, some longer.
FREEZE_S: Final = (0.3, 4.0)
HEALED_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.005


class Outage(NamedTuple):
    """A stretch of the monotonic clock, in seconds, in which a program certainly confirmed nothing."""

    began: float
    ended: float


class Storm:
    """The faults of one run, and what they were."""

    def __init__(self, suite: Suite, chance: random.Random) -> None:
        self._suite = suite
        self._chance = chance
        self._turns = {program: asyncio.Lock() for program in PROGRAMS}
        self.kills: Counter[Program] = Counter()
        self.freezes: Counter[Program] = Counter()
        self.log_outages: list[Outage] = []

    async def rage(self, seconds: float) -> None:
        """Strike for so long; return when every program runs and the suite is ready."""
        async with asyncio.TaskGroup() as faults:
            for program, is_kill in islice(self._blows(), round(seconds / EVERY_S)):
                faults.create_task(self._strike(program, is_kill=is_kill))
                await asyncio.sleep(EVERY_S)
        await eventually(lambda: asyncio.to_thread(self._suite.is_ready), timeout=HEALED_S, every=0.1)

    def _blows(self) -> Iterator[tuple[Program, bool]]:
        """Which program, and whether it is killed: all there are in random order, again and again."""
        while True:
            blows = [(program, is_kill) for program in PROGRAMS for is_kill in (True, False)]
            self._chance.shuffle(blows)
            yield from blows

    async def _strike(self, program: Program, *, is_kill: bool) -> None:
        async with self._turns[program]:
            outage = await (self._kill(program) if is_kill else self._freeze(program, self._chance.uniform(*FREEZE_S)))
        (self.kills if is_kill else self.freezes)[program] += 1
        if program == "valkey":
            self.log_outages.append(outage)

    async def _kill(self, program: Program) -> Outage:
        """Kill it; supervisord starts another. The outage ends before anything listens where Valkey did."""
        pid = await self._pid(program)
        os.kill(pid, signal.SIGKILL)
        while self._suite.pid(program) == pid:
            await asyncio.sleep(_LOOK_EVERY_S)
        began = ended = looked = time.monotonic()
        while not _listens(self._suite.redis_url):
            ended = looked
            await asyncio.sleep(_LOOK_EVERY_S)
            looked = time.monotonic()
        return Outage(began, ended)

    async def _freeze(self, program: Program, seconds: float) -> Outage:
        await self._pid(program)
        with self._suite.frozen(program):
            began = time.monotonic()
            await asyncio.sleep(seconds)
            return Outage(began, time.monotonic())

    async def _pid(self, program: Program) -> int:
        """Its process id, once it runs: one that died soon after its start supervisord starts again only later."""
        while (pid := self._suite.pid(program)) is None:
            await asyncio.sleep(_LOOK_EVERY_S)
        return pid


def _listens(url: str) -> bool:
    host, _, port = url.removeprefix("redis://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
