"""Background work of a process: owned tasks, whose failures are logged and counted or stop the process."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import structlog

from footfall_servicekit import metrics
from footfall_servicekit.failure_log import FailureLog

Work = Callable[[], Coroutine[Any, Any, None]]
Errors = type[Exception] | tuple[type[Exception], ...]

_CANCEL_AGAIN_S: Final = 5.0  # longer than work may take to end

_log = structlog.get_logger()
_unavailable = FailureLog("a store is not available; the work will be tried again", "work")
_failed = FailureLog("background work failed; it will be tried again", "work", "error")


class RefusalError(Exception):
    """The process must not run with these settings and this store. The text names them and says what to do."""


class NotReadyError(Exception):
    """The process cannot do its work now. The text says why, for operators, and may be shown to anyone."""


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
        ending = asyncio.gather(*self._tasks, return_exceptions=True)
        while not ending.done():
            for task in self._tasks:
                task.cancel()
            await asyncio.wait([ending], timeout=_CANCEL_AGAIN_S)  # closing a client of PyMongo may lose a cancellation

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
    work = name_of(do)
    try:
        await do(*arguments)
    except transient as error:
        _unavailable.failed(work, error=type(error).__name__)
    except Exception as error:
        _failed.failed(work, exc_info=error, error=type(error).__name__)
        metrics.BACKGROUND_FAILURES.labels(work).inc()
        return False
    else:
        for log in (_unavailable, _failed):
            log.worked(work)
    return True


def name_of(work: Callable[..., Any]) -> str:
    """The name of work in log lines and metrics."""
    return getattr(work.func if isinstance(work, partial) else work, "__qualname__", repr(work))
