"""The life of a process: start, signals, the tasks it owns, and an ordered stop. The same for gRPC and for HTTP."""

import asyncio
import gc
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
import uvloop
from google.protobuf.internal import api_implementation

from footfall_servicekit import logs, metrics, tracing
from footfall_servicekit.background import Background, Work, name_of
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.settings import ProcessSettings, renamed, unknown_variables

_log = structlog.get_logger()


class Process(ABC):
    """A process that serves requests. A subclass says how it listens and how it stops listening.

    `background` work runs from start to stop. It may end by itself; when it raises, the process stops with exit code 1,
    or 2 for a RefusalError. `close` runs last, in the order given: flush first, then close channels and stores.
    `stopping` is set when streams without an end of their own must end: pass it to what serves such streams.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        *,
        background: Sequence[Work] = (),
        close: Sequence[Work] = (),
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._drain_delay_s = settings.drain_delay_ms / 1000
        self._grace_s = settings.stop_grace_ms / 1000
        self._works = background
        self._close = close
        self._stopping = stopping or asyncio.Event()
        self._stop_requested = asyncio.Event()
        self._force_stop = asyncio.Event()
        self._background = Background(self._stop_requested)
        self.port = 0

    @abstractmethod
    async def _listen(self) -> int:
        """Bind and serve; return the port."""

    @abstractmethod
    def _report_stopping(self) -> None:
        """Report this process as not ready, while it still serves."""

    @abstractmethod
    async def _drain(self, grace_s: float) -> None:
        """Refuse new requests, and return when those in flight have ended or the grace is over. May be cancelled."""

    @abstractmethod
    async def _cut_off(self) -> None:
        """End what is still in flight. Does nothing after `_drain` has returned, or when `_listen` has failed."""

    async def start(self) -> int:
        """Bind, serve, start the background work, and return the port. Raises what `_listen` raises."""
        self.port = await self._listen()
        for work in self._works:
            self._background.start(work)
        return self.port

    def request_stop(self) -> None:
        """Request the ordered stop. A second request forces it: only closing is left."""
        if self._stop_requested.is_set():
            self._force_stop.set()
        self._stop_requested.set()

    async def stop(self) -> int:
        """Stop now; see `stopped`."""
        self.request_stop()
        return await self.stopped()

    async def stopped(self) -> int:
        """Wait until a stop is requested, carry it out, and return the exit code: 0 unless something has failed."""
        await self._stop_requested.wait()
        _log.info("stopping")
        self._report_stopping()
        await self._unless_forced(asyncio.sleep(self._drain_delay_s))
        self._stopping.set()
        await self._unless_forced(self._drain(self._grace_s))
        await self._cut_off()
        await self._background.end()
        exit_code = self._background.exit_code
        for close in self._close:
            try:
                await close()
            except Exception:
                _log.exception("closing failed", work=name_of(close))
                exit_code = exit_code or 1
        _log.info("stopped", exit_code=exit_code)
        return exit_code

    async def _unless_forced(self, step: Coroutine[Any, Any, None]) -> None:
        forced = asyncio.create_task(self._force_stop.wait())
        doing = asyncio.create_task(step)
        try:
            await asyncio.wait((forced, doing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            forced.cancel()
            doing.cancel()
            await asyncio.gather(forced, doing, return_exceptions=True)


async def serve(process: Process) -> int:
    """Serve until SIGTERM or SIGINT, stop in order, and return the exit code. A second signal forces the stop."""
    with _signals_request(process.request_stop):
        try:
            await process.start()
        except (OSError, RuntimeError) as error:
            _log.error("cannot listen", error=type(error).__qualname__)
            process.request_stop()
            await process.stop()
            return 1
        return await process.stopped()


@contextmanager
def _signals_request(request_stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT request a stop, and SIGUSR1 change the log level.

    Afterwards they do nothing: the process is about to end.
    """
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: request_stop, signal.SIGINT: request_stop, signal.SIGUSR1: logs.toggle_debug}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        # The loop never forgets a handler, nor what the handler refers to: gRPC with TLS would wait for two seconds at
        # the end of the process for its channels and servers to be released.
        for number in handlers:
            loop.add_signal_handler(number, _do_nothing)


def _do_nothing() -> None:
    pass


def run(settings: ProcessSettings, service_name: str, main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run the main coroutine of a process on uvloop, and exit with what it returns."""
    logs.configure(service_name, settings.log_level)
    metrics.describe_process(service_name)
    tracing.configure(service_name, settings.traces_endpoint, settings.trace_share)
    FailureLog.interval_s = settings.failure_log_interval_s
    for each in renamed(type(settings), os.environ):
        used = each.new if each.is_ignored else each.old
        _log.warning("a variable has a new name", old=each.old, new=each.new, used=used)
    for name, nearest in unknown_variables(type(settings), os.environ).items():
        _log.warning("a variable of the environment is not known", variable=name, nearest=nearest or None)
    if (implementation := api_implementation.Type()) != "upb":
        sys.exit(f"protobuf runs on {implementation!r}, which is many times slower: install a wheel that has upb")
    # Imported objects are never freed. A full garbage collection over them takes 10 to 40 ms, while calls wait.
    gc.collect()
    gc.freeze()
    exit_code = uvloop.run(main())
    tracing.close()
    sys.exit(exit_code)
