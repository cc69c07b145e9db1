"""Running collectors, and an identity service that records its calls."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall.identity.v1 import identity_service_pb2 as identity

from tests.tools.process import Running, ServiceProcess, running_service
from tests.tools.stores import running_valkey


class RecordingIdentity:
    """Serves only ResolveEvents: records the requests, and can be slow or fail."""

    def __init__(self) -> None:
        self.calls: list[identity.ResolveEventsRequest] = []
        self.delay_s = 0.0
        self.error: grpc.StatusCode | None = None
        self.most_at_once = 0
        self._at_once = 0
        self.server = grpc.aio.server()
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        handler = grpc.unary_unary_rpc_method_handler(
            self.resolve_events,
            identity.ResolveEventsRequest.FromString,
            identity.ResolveEventsResponse.SerializeToString,
        )
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("footfall.identity.v1.IdentityService", {"ResolveEvents": handler}),)
        )

    async def resolve_events(
        self, request: identity.ResolveEventsRequest, context: Any
    ) -> identity.ResolveEventsResponse:
        self.calls.append(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self._at_once -= 1
        if self.error:
            await context.abort(self.error)
        return identity.ResolveEventsResponse()

    def calls_about(self, visit_id: str) -> list[identity.ResolveEventsRequest]:
        return [call for call in self.calls if any(event.visit_id == visit_id for event in call.events)]


async def collect(service: ServiceProcess, batch: EventBatch, timeout_s: float = 10) -> collector.CollectResponse:
    """Send a batch to a collector."""
    async with service.stub() as stub:
        answer: collector.CollectResponse = await stub.Collect(collector.CollectRequest(batch=batch), timeout=timeout_s)
        return answer


@pytest.fixture(scope="module")
async def recording_identity() -> AsyncIterator[RecordingIdentity]:
    """An identity service on a port of its own."""
    identity = RecordingIdentity()
    await identity.server.start()
    yield identity
    await identity.server.stop(None)


@pytest.fixture(scope="module")
def own_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server for the tests of one module, because the log has a fixed name."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="module")
async def service(
    own_redis_url: str, recording_identity: RecordingIdentity, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServiceProcess]:
    """A collector with default settings. Its log is at `own_redis_url`."""
    folder = tmp_path_factory.mktemp("collector")
    target = recording_identity.target
    async with running_service("collector", folder, REDIS_URL=own_redis_url, IDENTITY_TARGET=target) as running:
        yield running


@pytest.fixture
def running_collector(redis_database_url: str, recording_identity: RecordingIdentity, tmp_path: Path) -> Running:
    """Start collectors on an empty database; keywords are environment variables."""
    return partial(
        running_service,
        "collector",
        tmp_path,
        REDIS_URL=redis_database_url,
        IDENTITY_TARGET=recording_identity.target,
    )
