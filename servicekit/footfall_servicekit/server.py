"""Turns servicers into a running process: bind, health, reflection, readiness, background work, and a stop in order."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import grpc
import structlog
import uvloop
from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]  # ships none
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # ships none

from footfall_servicekit import logs
from footfall_servicekit.access import Access, AccessTable
from footfall_servicekit.background import Background, Work, name_of
from footfall_servicekit.channel import server_options
from footfall_servicekit.health import SERVICE_NAME as HEALTH_NAME
from footfall_servicekit.health import Health
from footfall_servicekit.interceptor import ServerInterceptor
from footfall_servicekit.metrics import MetricsPort
from footfall_servicekit.settings import ProcessSettings, ServiceSettings, renamed, unknown_variables
from footfall_servicekit.tls import server_credentials

Servicers = Mapping[str, Callable[[grpc.aio.Server], None]]
"""Full name of a gRPC service -> what adds its servicer to a server: `partial(add_XServicer_to_server, X())`."""

_log = structlog.get_logger()

_READY_POLL_S = 0.5
_READY_TIMEOUT_S = 2.0
_FAILURES_TO_UNREADY = 3
_SUCCESSES_TO_READY = 2


async def _always_ready() -> bool:
    return True


class Server:
    """One process's gRPC server and what lives and dies with it.

    `access` holds where clients must show certificates. Of `frequent`, the methods that come with every batch, only
    failures are logged at level info, and each has room of its own. `ready` says whether the dependencies answer; an
    exception counts as no.
    `background` work runs from start to stop; it may end by itself, but when it raises, the process stops with exit
    code 1, or 2 for a RefusalError. `close` runs last, in the order given.
    `stopping` is set when streams without an end of their own must end: hand it to servicers that have such.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        servicers: Servicers,
        *,
        access: AccessTable = MappingProxyType({}),
        frequent: Collection[str] = (),
        ready: Callable[[], Awaitable[bool]] = _always_ready,
        background: Sequence[Work] = (),
        close: Sequence[Work] = (),
        stopping: asyncio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._servicers = servicers
        self._access = Access(access, settings.client_roles) if settings.grpc_tls_client_ca_file else None
        self._frequent = frequent
        self._ready = ready
        self._works = background
        self._close = close
        self._stopping = stopping or asyncio.Event()
        self._health = Health(servicers)
        self._metrics: MetricsPort | None = None
        self._asked_to_stop = asyncio.Event()
        self._in_a_hurry = asyncio.Event()
        self._background = Background(self._asked_to_stop)
        self.port = 0

    async def start(self) -> int:
        """Bind, serve, and return the port.

        Raises RuntimeError or OSError when a port has been taken meanwhile, KeyError for a service that no loaded
        proto defines.
        """
        settings = self._settings
        interceptor = ServerInterceptor(
            settings.max_rpc_duration_ms / 1000,
            self._access,
            self._frequent,
            max_calls=settings.max_concurrent_rpcs,
            max_streams=settings.max_streams_per_method,
        )
        # Not `maximum_concurrent_rpcs`: it counts health checks and open streams too, and refuses without details.
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=server_options(settings.max_message_bytes))
        for name, add in self._servicers.items():
            descriptor_pool.Default().FindServiceByName(name)  # a misspelt name would make health and reflection lie
            add(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*self._servicers, HEALTH_NAME, reflection.SERVICE_NAME), self._grpc)
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        if pair := settings.grpc_pair:
            credentials = server_credentials(pair, settings.grpc_tls_client_ca_file)
            self.port = self._grpc.add_secure_port(address, credentials)
        else:
            self.port = self._grpc.add_insecure_port(address)
        if settings.metrics_port is not None:
            self._metrics = MetricsPort(settings.host, settings.metrics_port)
        await self._grpc.start()
        for work in (self._poll_readiness, *self._works):
            self._background.start(work)
        _log.info("listening", port=self.port, metrics_port=self._metrics and self._metrics.port)
        return self.port

    def request_stop(self) -> None:
        """Ask for the ordered stop; asked again, skip what is left of it but closing."""
        if self._asked_to_stop.is_set():
            self._in_a_hurry.set()
        self._asked_to_stop.set()

    async def stop(self) -> int:
        """Stop now; see `stopped`."""
        self.request_stop()
        return await self.stopped()

    async def stopped(self) -> int:
        """Wait until a stop is asked for, carry it out, and return the exit code: 0 unless something had died."""
        await self._asked_to_stop.wait()
        _log.info("stopping")
        self._health.report(serving=False)
        await self._unless_in_a_hurry(asyncio.sleep(self._settings.drain_delay_ms / 1000))
        self._stopping.set()
        self._health.end()
        await self._unless_in_a_hurry(self._grpc.stop(self._settings.stop_grace_ms / 1000))
        await self._grpc.stop(None)
        await self._background.end()
        exit_code = self._background.exit_code
        for close in self._close:
            try:
                await close()
            except Exception:
                _log.exception("closing failed", work=name_of(close))
                exit_code = exit_code or 1
        if self._metrics:
            self._metrics.close()
        _log.info("stopped", exit_code=exit_code)
        return exit_code

    async def _unless_in_a_hurry(self, step: Coroutine[Any, Any, None]) -> None:
        hurry = asyncio.create_task(self._in_a_hurry.wait())
        doing = asyncio.create_task(step)
        try:
            await asyncio.wait((hurry, doing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            doing.cancel()
            await asyncio.gather(hurry, doing, return_exceptions=True)

    async def _poll_readiness(self) -> None:
        """Report the first answer and the first success at once, then a change only after several answers in a row."""
        told: bool | None = None
        against, needed = 0, 1
        while True:
            reason = await self._why_not_ready()
            serving = reason is None
            against = against + 1 if serving != told else 0
            if against >= needed and not self._asked_to_stop.is_set():
                # At the start it is no news that a dependency is still missing.
                write_line = _log.info if told is None else _log.warning
                told, against = serving, 0
                self._health.report(serving=serving)
                if serving:
                    needed = _FAILURES_TO_UNREADY
                    _log.info("serving")
                else:
                    needed = _SUCCESSES_TO_READY if needed > 1 else 1
                    write_line("not serving", reason=reason)
            await asyncio.sleep(_READY_POLL_S)

    async def _why_not_ready(self) -> str | None:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return None if await self._ready() else "a dependency does not answer"
        except Exception as error:  # whatever it is, it is no success
            return type(error).__qualname__


async def serve(server: Server) -> int:
    """Serve until SIGTERM or SIGINT, stop in order, and return the exit code. A second signal skips to closing."""
    with stopped_by_signals(server.request_stop):
        try:
            await server.start()
        except (OSError, RuntimeError) as error:
            _log.error("cannot listen", error=type(error).__qualname__)
            await server.stop()
            return 1
        return await server.stopped()


@contextmanager
def stopped_by_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT ask for a stop; afterwards they do nothing, and the process is about to end."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, request_stop)
    try:
        yield
    finally:
        # The loop never forgets a handler, and with it all that it knows of: gRPC with TLS would wait for two seconds
        # at the end of the process for its channels and servers to go.
        for number in numbers:
            loop.add_signal_handler(number, _do_nothing)


def _do_nothing() -> None:
    pass


def run(settings: ProcessSettings, service_name: str, main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a process's main coroutine on uvloop and exit with what it returns."""
    logs.configure(service_name, settings.log_level)
    for each in renamed(type(settings), os.environ):
        counts = each.new if each.is_ignored else each.old
        _log.warning("a variable has a new name", old=each.old, new=each.new, used=counts)
    for name, nearest in unknown_variables(type(settings), os.environ).items():
        _log.warning("a variable of the environment is not known", variable=name, nearest=nearest or None)
    if (implementation := api_implementation.Type()) != "upb":
        sys.exit(f"protobuf runs on {implementation!r}, which is many times slower: install a wheel that has upb")
    # What has been imported stays. Looking through it again takes a full collection 10 to 40 ms, while calls wait.
    gc.collect()
    gc.freeze()
    sys.exit(uvloop.run(main()))
