"""Background work of a process: owned tasks, whose failures are logged and counted or stop the process."""

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
    """The process must not run with these settings and this store. The text names them and says what to do."""


class Background:
    """The background work of a process. Work may end by itself; when it fails, a stop of the process is requested."""

    def __init__(self, stop_requested: asyncio.Event) -> None:
        self._stop_requested = stop_requested
        self._tasks: list[asyncio.Task[None]] = []
        self.exit_code = 0
        """The exit code for the process: 1 when work has failed, 2 after a RefusalError, else 0."""

    def start(self, work: Work) -> "asyncio.Task[None]":
        """Start work, which runs until `end`."""
        task = asyncio.create_task(self._own(work))
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        """Cancel the work that still runs, and return when all of it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _own(self, work: Work) -> None:
        try:
            await work()
        except RefusalError as refusal:
            _log.error("refusing to go on; the process stops", problem=str(refusal))
            self._fail(2)
        except (Exception, asyncio.CancelledError):
            if self._stop_requested.is_set():
                raise
            # A cancellation without a stop is a failure too: a gRPC call that is lost cancels the task that awaits it.
            _log.exception("background work failed; the process stops", work=name_of(work))
            self._fail(1)

    def _fail(self, exit_code: int) -> None:
        self.exit_code = self.exit_code or exit_code
        self._stop_requested.set()


async def repeat(every_s: float, transient: Errors, do: Callable[..., Awaitable[object]], *arguments: Any) -> None:
    """Background work that runs at the start, and again `every_s` after each end; see `attempt`."""
    while True:
        await attempt(transient, do, *arguments)
        await asyncio.sleep(every_s)


async def attempt(transient: Errors, do: Callable[..., Awaitable[object]], *arguments: Any) -> bool:
    """Run work that will run again. `transient` errors, such as an unavailable store, are logged as a warning.

    Returns False after any other failure, which is logged with its stack and counted.
    """
    try:
        await do(*arguments)
    except transient as error:
        _log.warning(
            "a store is not available; the work will be tried again", work=name_of(do), error=type(error).__name__
        )
    except Exception:
        _log.exception("background work failed; it will be tried again", work=name_of(do))
        metrics.BACKGROUND_FAILURES.labels(name_of(do)).inc()
        return False
    return True


def name_of(work: Callable[..., Any]) -> str:
    """The name of work in log lines and metrics."""
    return getattr(work.func if isinstance(work, partial) else work, "__qualname__", repr(work))
