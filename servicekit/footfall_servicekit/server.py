"""The gRPC server of a process: servicers, health, reflection, readiness, roles and limits."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_servicekit.access import Access, AccessTable
from footfall_servicekit.background import NotReadyError, Work
from footfall_servicekit.callers import FindCaller
from footfall_servicekit.channel import server_options
from footfall_servicekit.health import SERVICE_NAME as HEALTH_NAME
from footfall_servicekit.health import Health
from footfall_servicekit.interceptor import ServerInterceptor
from footfall_servicekit.metrics import MetricsPort
from footfall_servicekit.process import Process
from footfall_servicekit.reflection import add_reflection
from footfall_servicekit.settings import ServiceSettings
from footfall_servicekit.tls import server_credentials

Servicers = Mapping[str, Callable[[grpc.aio.Server], None]]
"""Full name of a gRPC service -> what adds its servicer to a server: `partial(add_XServicer_to_server, X())`."""

_log = structlog.get_logger()

_READY_POLL_S = 0.5
_READY_TIMEOUT_S = 2.0
# By time, not by the number of polls: how long one takes depends on what has failed.
_UNREADY_AFTER_S = 1.0
_READY_AFTER_S = 0.5


async def _always_ready() -> bool:
    return True


class Server(Process):
    """A process that serves gRPC.

    `access`, by roles, is enforced where clients must show certificates; `scopes`, with `find_caller`, where they show
    API keys. Of `frequent`, the methods that are called for every batch, only failures are logged at level info, and
    each has a limit of its own. `ready` says whether the process can do its work; an exception counts as no, and health
    shows the text of a NotReadyError. `background`, `close` and `stopping`: see `Process`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        servicers: Servicers,
        *,
        access: AccessTable = MappingProxyType({}),
        scopes: AccessTable = MappingProxyType({}),
        find_caller: FindCaller | None = None,
        frequent: Collection[str] = (),
        ready: Callable[[], Awaitable[bool]] = _always_ready,
        background: Sequence[Work] = (),
        close: Sequence[Work] = (),
        stopping: asyncio.Event | None = None,
    ) -> None:
        super().__init__(
            settings,
            background=(self._poll_readiness, *background),
            close=(*close, self._close_metrics),
            stopping=stopping,
        )
        self._settings = settings
        self._servicers = servicers
        has_certificates = settings.grpc_tls_client_ca_file is not None
        self._access = None
        if has_certificates or find_caller:
            grants = settings.client_roles
            self._access = Access(access, grants, scopes, find_caller, has_certificates=has_certificates)
        self._frequent = frequent
        self._ready = ready
        self._health = Health(servicers)
        self._metrics: MetricsPort | None = None

    async def _listen(self) -> int:
        """Raises RuntimeError or OSError when a port is taken, KeyError for a service that no loaded proto defines."""
        settings = self._settings
        interceptor = ServerInterceptor(
            settings.max_rpc_duration_ms / 1000,
            self._access,
            self._frequent,
            max_calls=settings.max_concurrent_rpcs,
            max_streams=settings.max_streams_per_method,
            max_message_bytes=settings.max_message_bytes,
        )
        # Not `maximum_concurrent_rpcs`: it counts health checks and open streams too, and refuses without details.
        self._grpc = grpc.aio.server(interceptors=[interceptor], options=server_options(settings.max_message_bytes))
        for name, add in self._servicers.items():
            descriptor_pool.Default().FindServiceByName(name)  # health and reflection would report a misspelt name
            add(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        add_reflection((*self._servicers, HEALTH_NAME), self._grpc)
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        if pair := settings.grpc_pair:
            port = self._grpc.add_secure_port(address, server_credentials(pair, settings.grpc_tls_client_ca_file))
        else:
            port = self._grpc.add_insecure_port(address)
        if settings.metrics_port is not None:
            self._metrics = MetricsPort(settings.host, settings.metrics_port)
        await self._grpc.start()
        _log.info("listening", port=port, metrics_port=self._metrics and self._metrics.port)
        return port

    def _report_stopping(self) -> None:
        self._health.reason = "it stops"
        self._health.report(serving=False)

    async def _drain(self, grace_s: float) -> None:
        self._health.end()
        await self._grpc.stop(grace_s)

    async def _cut_off(self) -> None:
        await self._grpc.stop(None)

    async def _close_metrics(self) -> None:
        if self._metrics:
            self._metrics.close()

    async def _poll_readiness(self) -> None:
        """Report the first result and the first success immediately, then a change only when it has lasted."""
        reported: bool | None = None
        changed_at, lasts_s = 0.0, 0.0
        while True:
            began = time.monotonic()
            reason = await self._why_not_ready()
            serving = reason is None
            if reason and not self._stop_requested.is_set():
                self._health.reason = reason
            changed_at = 0.0 if serving == reported else changed_at or began
            if changed_at and time.monotonic() - changed_at >= lasts_s and not self._stop_requested.is_set():
                # At the start a missing dependency is expected.
                write_line = _log.info if reported is None else _log.warning
                reported, changed_at = serving, 0.0
                self._health.report(serving=serving)
                if serving:
                    lasts_s = _UNREADY_AFTER_S
                    _log.info("serving")
                else:
                    lasts_s = _READY_AFTER_S if lasts_s else 0.0
                    write_line("not serving", reason=reason)
            await asyncio.sleep(_READY_POLL_S)

    async def _why_not_ready(self) -> str | None:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return None if await self._ready() else "a store does not answer"
        except NotReadyError as error:
            return str(error)
        except Exception as error:  # any failure means not ready
            return type(error).__qualname__
