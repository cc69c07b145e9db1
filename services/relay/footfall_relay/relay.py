"""Runs the deliveries of all outlets: in each partition one process at a time."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from footfall_eventlog.partitions import TRANSIENT_ERRORS
from footfall_servicekit.background import attempt
from footfall_servicekit.reloading import ReloadingFile

from footfall_relay import metrics
from footfall_relay.delivery import Delivery
from footfall_relay.outlets_file import Outlet
from footfall_relay.positions import LEASE_MS, Positions

_LOOK_EVERY_S: Final = 1.0
_HOLD_EVERY_S: Final = LEASE_MS / 1000 / 5


class Relay:
    """Starts and stops deliveries as the outlets file, pauses and leases say."""

    def __init__(
        self,
        file: ReloadingFile[Mapping[str, Outlet]],
        positions: Positions,
        deliver: Callable[[Outlet, int], Delivery],
    ) -> None:
        self._file = file
        self._positions = positions
        self._deliver = deliver
        self._held: set[int] = set()
        self._measured: set[str] = set()
        self._running: dict[tuple[str, int], tuple[Outlet, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Relay until cancelled."""
        holding = asyncio.create_task(self._hold())
        try:
            while not holding.done():
                await attempt(TRANSIENT_ERRORS, self._look)
                await asyncio.wait([holding], timeout=_LOOK_EVERY_S)
            holding.result()
        finally:
            holding.cancel()
            await self._stop([*self._running])
            await asyncio.gather(holding, return_exceptions=True)

    async def release(self) -> None:
        """Let another process go on immediately."""
        for number in self._held:
            await attempt(TRANSIENT_ERRORS, self._positions.release, number)

    async def _hold(self) -> None:
        while True:
            for number in self._positions.redis.numbers:
                await attempt(TRANSIENT_ERRORS, self._hold_one, number)
            await asyncio.sleep(_HOLD_EVERY_S)

    async def _hold_one(self, number: int) -> None:
        if await self._positions.hold(number):
            self._held.add(number)
        else:
            self._held.discard(number)

    async def _look(self) -> None:
        outlets = await asyncio.to_thread(self._file.current)
        paused = await self._positions.paused() | {outlet.name for outlet in outlets.values() if outlet.paused}
        wanted = {
            (name, number): outlet for name, outlet in outlets.items() if name not in paused for number in self._held
        }
        ended = [key for key, (outlet, task) in self._running.items() if wanted.get(key) != outlet or task.done()]
        await self._stop(ended)
        for key, outlet in wanted.items():
            if key not in self._running:
                self._running[key] = outlet, asyncio.create_task(self._deliver(outlet, key[1]).run())
        for number in [*self._held]:
            await self._positions.mark(number, outlets)
        await self._measure(outlets, paused)

    async def _stop(self, keys: list[tuple[str, int]]) -> None:
        tasks = [self._running.pop(key)[1] for key in keys]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _measure(self, outlets: Mapping[str, Outlet], paused: set[str]) -> None:
        for name in self._measured - outlets.keys():
            for gauge in (metrics.LAG_SECONDS, metrics.PAUSED, metrics.DEAD_LETTERS):
                gauge.remove(name)
        self._measured = {*outlets}
        for name in outlets:
            lags = [await self._positions.lag_s(name, number) for number in self._held]
            metrics.LAG_SECONDS.labels(name).set(max(lags, default=0.0))
            metrics.PAUSED.labels(name).set(name in paused)
            metrics.DEAD_LETTERS.labels(name).set(await self._positions.count_dead(name))
            for counter in (metrics.LOST, metrics.DROPPED):
                counter.labels(name)  # from the start, so that an alert sees the first increase
