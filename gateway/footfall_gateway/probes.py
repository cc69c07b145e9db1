"""Health and metrics: /healthz, /readyz and /metrics."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from footfall_gateway.backends import Backends
from footfall_gateway.http import Api, Call, NoQuery, Operation, json_response
from footfall_gateway.problem import PROBLEM_DETAILS

_METRICS = CONTENT_TYPE_PLAIN_0_0_4


class Health(msgspec.Struct):
    """The process is alive."""

    status: Annotated[str, Meta(description="Always `ok`.")] = "ok"


class Readiness(msgspec.Struct):
    """Whether this gateway and the needed services are ready, and why not."""

    ready: Annotated[bool, Meta(description="Whether this gateway serves, and every service in `services` is ready.")]
    services: Annotated[
        dict[str, bool], Meta(description="Whether each needed service is ready: `collector`, `identity`, `history`.")
    ]
    reasons: Annotated[
        dict[str, str],
        Meta(description="Why a service, or this `gateway`, is not ready, in English. Empty when all are ready."),
    ]


class Probes:
    """The operations for orchestrators, balancers and monitoring."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self.is_stopping = False
        """Set when the process begins to stop: it is no longer ready."""

    def api(self) -> Api:
        """The operations."""
        operations = [
            Operation("getHealth", "GET", "/healthz", self.health, NoQuery, Health, required_scope=None, never={503}),
            _readiness("getReadiness", "/readyz", self.readiness),
            _readiness("getReadinessForBeacons", "/readyz/beacons", self.readiness_for_beacons),
            _readiness("getReadinessForQueries", "/readyz/queries", self.readiness_for_queries),
            Operation(
                "getMetrics", "GET", "/metrics", self.metrics, NoQuery, str, required_scope=None, media_type=_METRICS
            ),
        ]
        return Api("Operations", ("",), operations, PROBLEM_DETAILS)

    async def health(self, _call: Call[NoQuery, None]) -> Response:
        """Whether the process is alive."""
        return json_response(Health())

    async def readiness(self, _call: Call[NoQuery, None]) -> Response:
        """200 while collector, identity and history are ready, else 503."""
        return await self._ready_with("collector", "identity", "history")

    async def readiness_for_beacons(self, _call: Call[NoQuery, None]) -> Response:
        """200 while the collector can store events, else 503. For balancers: beacons need only the collector."""
        return await self._ready_with("collector")

    async def readiness_for_queries(self, _call: Call[NoQuery, None]) -> Response:
        """200 while identity and history are ready, else 503."""
        return await self._ready_with("identity", "history")

    async def _ready_with(self, *needed: str) -> Response:
        found = await self._backends.why_not_serving(needed)
        reasons = {name: reason for name, reason in found.items() if reason}
        services = {name: name not in reasons for name in needed}
        if self.is_stopping:
            reasons["gateway"] = "it stops"
        return json_response(Readiness(not reasons, services, reasons), 503 if reasons else 200)

    async def metrics(self, call: Call[NoQuery, None]) -> Response:
        """Metrics in the Prometheus text format, or in that of OpenMetrics if `Accept` asks for it."""
        encode, media_type = choose_encoder(call.headers.get("accept", ""))
        return Response(encode(REGISTRY), headers={"content-type": media_type})


def _readiness(
    name: str, path: str, handler: Callable[[Call[NoQuery, None]], Awaitable[Response]]
) -> Operation[NoQuery, None]:
    return Operation(name, "GET", path, handler, NoQuery, Readiness, required_scope=None, also={503: Readiness})
