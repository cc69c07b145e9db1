"""The indexes that a process needs in its store. They are made one after the other, while the process serves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from footfall_servicekit import metrics
from footfall_servicekit.failure_log import FailureLog

_SLOW_S = 1.0
"""What takes longer is a build, or waiting for a build that another process has begun."""
_PAUSE_S = 0.5

_failures = FailureLog("an index cannot be made; trying again", "index")
_log = structlog.get_logger()


class IndexMissingError(Exception):
    """An index that is needed does not exist yet. Without it the store would read a whole collection."""


class Indexes:
    """Indexes by name, in the order in which they are made."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exist = {name: asyncio.Event() for name in names}
        self._has_begun = False

    @property
    def missing(self) -> list[str]:
        """Those that are not known to exist; all of them until `make` has asked the store."""
        return [name for name, exists in self._exist.items() if not exists.is_set()]

    def require(self, name: str) -> None:
        """Raise IndexMissingError if the index does not exist. Without `make` all are taken to exist."""
        if self._has_begun and not self._exist[name].is_set():
            raise IndexMissingError(name)

    async def wait_for(self, names: Iterable[str]) -> None:
        """Return when `make` has found or made these indexes."""
        for name in names:
            await self._exist[name].wait()

    async def make(self, create: Callable[[str], Awaitable[object]]) -> None:
        """Make those that do not exist. Returns when all exist; an index that cannot be made is tried again.

        `create` returns when an index exists. It must not end before a long build does, and it must wait for a build
        that another process has begun.
        """
        self._has_begun = True
        self._count()
        for number, (name, exists) in enumerate(self._exist.items(), start=1):
            started = time.monotonic()
            slow = asyncio.get_running_loop().call_later(_SLOW_S, self._report_build, name, number)
            try:
                await _repeated(create, name)
            finally:
                slow.cancel()
                metrics.INDEX_BUILD_STARTED.remove(name)
            exists.set()
            self._count()
            took_s = time.monotonic() - started
            if took_s >= _SLOW_S:
                _log.info("an index is built", index=name, number=number, of=len(self._exist), seconds=round(took_s))
                # A store that answers no other command during a build works off those that wait.
                await asyncio.sleep(_PAUSE_S)

    def _report_build(self, name: str, number: int) -> None:
        metrics.INDEX_BUILD_STARTED.labels(name).set(time.time() - _SLOW_S)
        _log.warning("an index is being built", index=name, number=number, of=len(self._exist))

    def _count(self) -> None:
        missing_count = len(self.missing)
        metrics.INDEXES.labels("missing").set(missing_count)
        metrics.INDEXES.labels("ready").set(len(self._exist) - missing_count)


async def _repeated(create: Callable[[str], Awaitable[object]], name: str) -> None:
    """Repeat until it succeeds. A build that failed late is expensive, so the pause grows with its duration."""
    while True:
        started = time.monotonic()
        try:
            await create(name)
        except Exception as error:
            _failures.failed(name, error=type(error).__name__, code=str(getattr(error, "code", "")))
            await asyncio.sleep(max(_PAUSE_S, (time.monotonic() - started) / 10))
        else:
            _failures.worked(name)
            return
