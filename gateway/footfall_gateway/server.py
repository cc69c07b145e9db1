"""The HTTP server of the gateway, and the parts that it owns."""

import asyncio
import logging
import math
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog
import uvicorn
from footfall_eventlog.process_records import ProcessRecord
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import load_sites
from footfall_eventlog.sites_following import follow_sites
from footfall_servicekit import metrics as process_metrics
from footfall_servicekit.background import repeat
from footfall_servicekit.metrics import BACKGROUND_FAILURES
from footfall_servicekit.process import Process, serve
from footfall_servicekit.tls import KeyPair
from starlette.types import ASGIApp

from footfall_gateway import app, metrics
from footfall_gateway.api_v1 import HealthApi
from footfall_gateway.auth import Sessions
from footfall_gateway.backends import Backends
from footfall_gateway.beacons import (
    LOOK_EVERY_S,
    SHARE_EVERY_S,
    BeaconEndpoint,
    Bounds,
    Intake,
    Limits,
    OpenConnections,
    RateLimiter,
    beacon_protocol,
    tls_protocol,
)
from footfall_gateway.browser import Links, VisitCodes
from footfall_gateway.http import BodyReader
from footfall_gateway.https import STRICT_TRANSPORT_SECURITY, https_context
from footfall_gateway.probes import Probes
from footfall_gateway.recent import RECENT
from footfall_gateway.settings import GatewaySettings

_BACKLOG = 2_048
_RESERVED_FILES = 100
"""Open files that connections of clients never take: for the log, the backends, Redis, and connections to refuse."""
_KEEP_ALIVE_S = 65
"""Longer than the usual 60 s of load balancers, so that the balancer closes idle connections."""

_log = structlog.get_logger()


class _Server(uvicorn.Server):
    """uvicorn's server without its handling of signals, which `Process` does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway(Process):
    """The gateway's process: its parts, and the HTTP server in front of them."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Needs the running loop. Raises SitesFileError or DslFileError."""
        self._settings = settings
        backends = Backends(settings)
        intake = Intake(
            backends.collect,
            Bounds(
                max_batch_count=settings.batch_max_events,
                max_batch_size=settings.batch_max_bytes,
                max_wait_ms=settings.batch_max_wait_ms,
                max_in_flight=settings.max_batches_in_flight,
                max_queued_count=settings.max_queued_events,
                max_queued_size=settings.max_queued_bytes,
            ),
            settings.large_body_bytes,
            settings.large_body_share,
        )
        self._probes = Probes(backends)
        limiter = RateLimiter(
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
        bodies = BodyReader(settings.body_timeout_ms / 1000, settings.max_body_bytes_in_flight)
        sites, site_groups = load_sites(settings.sites_file), SiteGroups.load(settings.sites_file)
        beacons = BeaconEndpoint(intake, sites, limiter, bodies, settings.max_gzip_ratio)
        sessions = Sessions(
            settings.redis_url,
            idle_s=settings.session_idle_minutes * 60,
            longest_s=settings.max_session_hours * 3_600,
            most=settings.max_sessions,
            link_s=settings.session_link_seconds,
        )
        record = ProcessRecord(
            "gateway",
            settings.redis_url,
            counted={
                "events": metrics.EVENTS,
                "beacons": metrics.BEACONS,
                "lost_by_browsers": metrics.CLIENT_DROPPED_EVENTS,
                "collect_seconds": metrics.COLLECT_SECONDS,
                "query_seconds": metrics.REQUEST_SECONDS,
                "background_failures": BACKGROUND_FAILURES,
            },
            numbers={"connections": metrics.CONNECTIONS, "live_streams": metrics.LIVE_STREAMS},
            notes=lambda: {"refused": RECENT.refused, "slowest": RECENT.slowest},
        )
        health = HealthApi(backends, settings.redis_url)
        stopping = asyncio.Event()
        application = app.build(
            settings,
            backends,
            intake,
            beacons,
            self._probes,
            site_groups=site_groups,
            links=Links(limiter, beacons.cors),
            codes=VisitCodes(backends.create_visit_code, sites, limiter, beacons.cors),
            bodies=bodies,
            sessions=sessions,
            health=health,
            stopping=stopping,
        )
        connections = OpenConnections(
            _connections(settings.max_connections), settings.max_connections_per_address, settings.trusted_proxies
        )
        self._server = _Server(_uvicorn_config(application, beacons, connections, settings))
        self._has_ended = asyncio.Event()
        self._has_ended.set()
        limit_s = settings.client_timeout_ms / 1000
        super().__init__(
            settings,
            background=[
                self._serve,
                partial(
                    follow_sites, settings.sites_file, (SiteGroups.load, site_groups.take), (load_sites, sites.take)
                ),
                partial(repeat, min(LOOK_EVERY_S, limit_s), (), connections.look, limit_s),
                partial(repeat, SHARE_EVERY_S, (), limiter.share),
                record.run,
            ],
            close=[intake.close, limiter.close, sessions.close, record.close, health.close, backends.close],
            stopping=stopping,
        )

    async def _listen(self) -> int:
        """Raises OSError when the port is taken."""
        host = self._settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, self._settings.port), family=family, backlog=_BACKLOG)
        port: int = self._listener.getsockname()[1]
        self._has_ended.clear()
        process_metrics.READY.set(1)
        _log.info("listening", port=port)
        return port

    async def _serve(self) -> None:
        try:
            await self._server.serve([self._listener])
        finally:
            self._has_ended.set()
        if not self._server.should_exit:
            raise RuntimeError("the HTTP server has ended by itself")

    def _report_stopping(self) -> None:
        self._probes.is_stopping = True
        process_metrics.READY.set(0)

    async def _drain(self, grace_s: float) -> None:  # noqa: ARG002 - in uvicorn's configuration
        self._server.should_exit = True
        await self._has_ended.wait()

    async def _cut_off(self) -> None:
        self._server.force_exit = True
        await self._drain(0)


async def serve_gateway(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code."""
    return await serve(Gateway(settings))


def _connections(wanted: int) -> int:
    """How many of the wanted connections the limit of open files allows. The limit is raised if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _RESERVED_FILES if hard == resource.RLIM_INFINITY else min(wanted + _RESERVED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    allowed = max(1, files - _RESERVED_FILES)
    if allowed < wanted:
        _log.warning("the limit of open files allows fewer connections", wanted=wanted, allowed=allowed, files=hard)
    return allowed


def _uvicorn_config(
    application: ASGIApp, beacons: BeaconEndpoint, connections: OpenConnections, settings: GatewaySettings
) -> uvicorn.Config:
    # Its warnings are about malformed requests: any sender could fill the log with them.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    tls = https_context(KeyPair(certificate, key)) if certificate and key else None
    protocol = beacon_protocol(beacons, connections, settings.trusted_proxies, settings.path_prefixes)
    if tls:
        protocol = tls_protocol(protocol, tls, settings.client_timeout_ms / 1000, connections)
    return uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[STRICT_TRANSPORT_SECURITY] if tls else None,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        limit_concurrency=connections.most + 1,  # uvicorn refuses the connection that reaches the limit
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.stop_grace_ms / 1000),
    )
