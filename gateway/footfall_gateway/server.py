"""Turns the application into a running HTTP server: bind, serve, and a stop in order."""

import asyncio
import logging
import math
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

import structlog
import uvicorn
from footfall_servicekit.background import Background, repeat
from footfall_servicekit.server import stopped_by_signals
from footfall_servicekit.tls import KeyPair
from starlette.types import ASGIApp

from footfall_gateway import app
from footfall_gateway.backends import Backends
from footfall_gateway.beacons import (
    LOOK_EVERY_S,
    SHARE_EVERY_S,
    BeaconEndpoint,
    BoundedConnection,
    Bounds,
    Cors,
    Intake,
    Limits,
    RateLimiter,
    Sites,
    beacon_protocol,
    cut_off_slow_clients,
)
from footfall_gateway.browser import Links
from footfall_gateway.http import Bodies
from footfall_gateway.https import STRICT_TRANSPORT_SECURITY, https_context
from footfall_gateway.probes import Probes
from footfall_gateway.settings import GatewaySettings

_BACKLOG = 2_048
_OTHER_FILES = 100  # what a gateway has open beside its clients' connections
_KEEP_ALIVE_S = 65
"""Longer than the usual 60 s of balancers, so that it is they who close an idle connection."""

_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """uvicorn's server without its own handling of signals: a stop here has more steps."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway:
    """One gateway process: what it holds, and when it lets go of it."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Needs the running loop. Raises SitesFileError, WallsError or DslFileError."""
        self._settings = settings
        self._backends = Backends(settings)
        self._intake = Intake(
            self._backends.collect,
            Bounds(
                group_count=settings.batch_max_events,
                group_size=settings.batch_max_bytes,
                linger_ms=settings.batch_max_wait_ms,
                groups_in_flight=settings.max_batches_in_flight,
                waiting_count=settings.max_queued_events,
                waiting_size=settings.max_queued_bytes,
            ),
            settings.large_body_bytes,
        )
        self._probes = Probes(self._backends)
        self._limiter = RateLimiter(
            Limits(
                "address",
                settings.rate_limit_events_per_minute_per_address,
                settings.rate_limit_bytes_per_minute_per_address,
            ),
            Limits(
                "site", settings.rate_limit_events_per_minute_per_site, settings.rate_limit_bytes_per_minute_per_site
            ),
            settings.redis_url,
            includes_loopback=settings.rate_limit_loopback,
            link_memory_s=settings.used_link_retention_s,
        )
        bodies = Bodies(settings.body_timeout_ms / 1000, settings.max_body_bytes_in_flight)
        sites = Sites(settings.sites_file)
        beacons = BeaconEndpoint(self._intake, sites, self._limiter, bodies)
        self._stopping = asyncio.Event()
        application = app.build(
            settings,
            self._backends,
            self._intake,
            beacons,
            self._probes,
            links=Links(self._limiter, Cors(sites)),
            bodies=bodies,
            stopping=self._stopping,
        )
        self._server = _Server(_uvicorn_config(application, beacons, settings))
        self._serving: asyncio.Task[None]
        self._asked_to_stop = asyncio.Event()
        self._background = Background(self._asked_to_stop)
        self._in_a_hurry = asyncio.Event()
        self.port = 0

    async def start(self) -> int:
        """Bind, serve, and return the port. Raises OSError when it is taken."""
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        self.port = listener.getsockname()[1]
        self._serving = self._background.start(partial(self._serve, listener))
        connections = cast("set[BoundedConnection]", self._server.server_state.connections)
        limit_s = settings.client_timeout_ms / 1000
        look_every_s = min(LOOK_EVERY_S, limit_s)
        self._background.start(partial(repeat, look_every_s, (), cut_off_slow_clients, connections, limit_s))
        self._background.start(partial(repeat, SHARE_EVERY_S, (), self._limiter.share))
        _log.info("listening", port=self.port)
        return self.port

    async def _serve(self, listener: socket.socket) -> None:
        await self._server.serve([listener])
        if not self._asked_to_stop.is_set():
            raise RuntimeError("the HTTP server has ended by itself")

    def request_stop(self) -> None:
        """Ask for the ordered stop; asked again, do not wait for requests under way."""
        if self._asked_to_stop.is_set():
            self._in_a_hurry.set()
            self._server.force_exit = True
        self._asked_to_stop.set()

    async def stopped(self) -> int:
        """Wait until a stop is asked for, or something dies; carry the stop out, and return the exit code."""
        await self._asked_to_stop.wait()
        self._probes.is_stopping = True
        if not self._serving.done():
            _log.info("stopping")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._in_a_hurry.wait(), self._settings.drain_delay_ms / 1000)
        self._stopping.set()
        self._server.should_exit = True
        await asyncio.wait((self._serving,))
        exit_code = self._background.exit_code or int(self._serving.exception() is not None)
        await self._background.end()
        await self._intake.close()
        await self._limiter.close()
        await self._backends.close()
        _log.info("stopped", exit_code=exit_code)
        return exit_code


async def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code. A second signal skips waiting for requests."""
    gateway = Gateway(settings)
    with stopped_by_signals(gateway.request_stop):
        await gateway.start()
        return await gateway.stopped()


def _connections(wanted: int) -> int:
    """How many of these connections the system allows, once asked: too many would leave no socket for backends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(wanted + _OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files - _OTHER_FILES


def _uvicorn_config(application: ASGIApp, beacons: BeaconEndpoint, settings: GatewaySettings) -> uvicorn.Config:
    # Its lines at level warning are about what strangers send; anybody could fill the log with them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    tls = https_context(KeyPair(certificate, key)) if certificate and key else None
    return uvicorn.Config(
        application,
        http=beacon_protocol(beacons, settings.trusted_proxies, settings.path_prefixes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[STRICT_TRANSPORT_SECURITY] if tls else None,
        ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        limit_concurrency=_connections(settings.max_connections) + 1,  # it refuses the one that reaches the limit
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.stop_grace_ms / 1000),
    )
