"""The health service (grpc.health.v1) of a process: for the process ("") and for each of its services.

The servicer of grpcio-health-checking is not used: when one watcher leaves, its Watch stops reporting to all others.
Besides, an open Watch makes the stop of a server last the whole grace period.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_servicekit import metrics
from footfall_servicekit.errors import RequestError

SERVICE_NAME = "grpc.health.v1.Health"
CHECK = f"/{SERVICE_NAME}/Check"

_REASON_KEY = "not-serving-reason-bin"
"""Trailing metadata of Check: the answer has no field for it. Clients that do not know it ignore it."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Reports NOT_SERVING until `report` is called."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = False
        self.reason = "it starts"
        """Why it does not serve."""
        self._ended = False
        self._changed = asyncio.Event()

    def report(self, *, serving: bool) -> None:
        """Change the status, and send it to the watchers."""
        self._serving = serving
        metrics.READY.set(serving)
        self._pulse()

    def end(self) -> None:
        """End every Watch permanently, so that the server can stop before the grace period is over."""
        self._ended = True
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _answer(self, service: str) -> Any:
        answers = health_pb2.HealthCheckResponse
        if service not in self._services:
            return answers(status=answers.SERVICE_UNKNOWN)
        return answers(status=answers.SERVING if self._serving else answers.NOT_SERVING)

    async def Check(self, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:  # noqa: N802
        """Return the status, with the reason when it is NOT_SERVING; NOT_FOUND for a service of other processes."""
        if request.service not in self._services:
            raise RequestError.not_found("service", request.service)
        if not self._serving:
            context.set_trailing_metadata(((_REASON_KEY, self.reason.encode()),))
        return self._answer(request.service)

    async def Watch(self, request: Any, _context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[Any]:  # noqa: N802
        """Send the status now and at each change, until the caller leaves or the server stops."""
        sent = None
        while not self._ended:
            changed = self._changed
            answer = self._answer(request.service)
            if answer != sent:
                sent = answer
                yield answer
                continue  # the status may have changed while the answer was written
            await changed.wait()


def reason_in(trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Why a process does not serve, from the trailing metadata of its Check; empty when it does not say so."""
    found = [value for key, value in trailing_metadata or () if key == _REASON_KEY]
    return found[0].decode(errors="replace") if found and isinstance(found[0], bytes) else ""
