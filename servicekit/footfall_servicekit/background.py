"""Turns work that runs beside serving into tasks that somebody owns, so that no failure of it goes unseen."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from footfall_servicekit import metrics

Work = Callable[[], Coroutine[Any, Any, None]]
Errors = type[Exception] | tuple[type[Exception], ...]

_log = structlog.get_logger()


class RefusalError(Exception):
    """What is found in a store forbids to go on with these settings. The text names them and says what to do."""


class Background:
    """The background work of a process. Work may end by itself; when some of it dies, the process is asked to stop."""

    def __init__(self, stop_requested: asyncio.Event) -> None:
        self._stop_requested = stop_requested
        self._tasks: list[asyncio.Task[None]] = []
        self.exit_code = 0
        """What the process must end with: 1 when some of it has died, 2 when it has refused to go on."""

    def start(self, work: Work) -> "asyncio.Task[None]":
        """Begin work, which goes on until `end`."""
        task = asyncio.create_task(self._own(work))
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        """Cancel what still runs, and return when all has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _own(self, work: Work) -> None:
        try:
            await work()
        except RefusalError as refusal:
            _log.error("refusing to go on; the process stops", problem=str(refusal))
            self._die(2)
        except (Exception, asyncio.CancelledError):
            if self._stop_requested.is_set():
                raise
            # A cancellation that nobody here asked for is a death too: a lost gRPC call ends the one who awaits it so.
            _log.exception("background work died; the process stops", work=name_of(work))
            self._die(1)

    def _die(self, exit_code: int) -> None:
        self.exit_code = self.exit_code or exit_code
        self._stop_requested.set()


async def repeat(every_s: float, away: Errors, do: Callable[..., Awaitable[object]], *arguments: Any) -> None:
    """Background work that is done at the start and then so long after each time; see `attempt`."""
    while True:
        await attempt(away, do, *arguments)
        await asyncio.sleep(every_s)


async def attempt(away: Errors, do: Callable[..., Awaitable[object]], *arguments: Any) -> bool:
    """Do what will be done again whatever happens. `away`: a store does not answer, which is worth a warning.

    False when it has failed in any other way: that is logged with its stack, and counted.
    """
    try:
        await do(*arguments)
    except away as error:
        _log.warning("to be done later: a store is away", work=name_of(do), error=type(error).__name__)
    except Exception:
        _log.exception("background work failed; it will be tried again", work=name_of(do))
        metrics.BACKGROUND_FAILURES.labels(name_of(do)).inc()
        return False
    return True


def name_of(work: Callable[..., Any]) -> str:
    """What log lines and metrics call it."""
    return getattr(work.func if isinstance(work, partial) else work, "__qualname__", repr(work))
