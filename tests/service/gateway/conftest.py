"""A gateway on a free port, in front of a collector whose responses a test sets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1 import collector_service_pb2_grpc as collector_grpc
from footfall.event.v1.event_pb2 import EventBatch
from footfall_gateway.server import Gateway
from footfall_gateway.settings import GatewaySettings
from footfall_servicekit.interceptor import ServerInterceptor

from tests.tools.suite import NO_TLS, Suite

Collect = Callable[[EventBatch], Awaitable[collector.CollectResponse]]


@dataclass
class ScriptedCollector(collector_grpc.CollectorServiceServicer):
    """Responds as `answer` does, and records the batches."""

    batches: list[EventBatch] = field(default_factory=list)
    recorded: list[collector.RecordInteractionRequest] = field(default_factory=list)
    answer: Collect | None = None
    target: str = ""

    async def Collect(  # noqa: N802
        self, request: collector.CollectRequest, _context: Any
    ) -> collector.CollectResponse:
        self.batches.append(request.batch)
        if self.answer:
            return await self.answer(request.batch)
        return collector.CollectResponse(stored_count=len(request.batch.events))

    async def RecordInteraction(  # noqa: N802
        self, request: collector.RecordInteractionRequest, _context: Any
    ) -> collector.RecordInteractionResponse:
        self.recorded.append(request)
        return collector.RecordInteractionResponse(interaction=request.interaction)

    def hold(self) -> asyncio.Event:
        """Answer no batch until the event is set."""
        may_go_on = asyncio.Event()

        async def wait(batch: EventBatch) -> collector.CollectResponse:
            await may_go_on.wait()
            return collector.CollectResponse(stored_count=len(batch.events))

        self.answer = wait
        return may_go_on


@pytest.fixture
async def scripted_collector() -> AsyncIterator[ScriptedCollector]:
    """A gRPC server that implements CollectorService."""
    interceptor = ServerInterceptor(ceiling_s=30, max_calls=256, max_streams=256, max_message_bytes=4 * 1024 * 1024)
    server = grpc.aio.server(interceptors=[interceptor])
    servicer = ScriptedCollector()
    collector_grpc.add_CollectorServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(None)


def before(suite: Suite) -> dict[str, Any]:
    """The settings of a gateway in front of a suite's services."""
    settings: dict[str, Any] = {f"{name.upper()}_TARGET": target for name, target in suite.targets.items()}
    if suite.authority:
        settings["GRPC_TLS_CA_FILE"] = suite.environment["GRPC_TLS_CA_FILE"]
        for name in ("grpc_tls_cert_file", "grpc_tls_key_file"):
            settings[name] = suite.environment[f"GATEWAY_{name.upper()}"]
    return settings


@asynccontextmanager
async def running_gateway(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with these settings; yields a client."""
    defaults: dict[str, Any] = {"port": 0, "drain_delay_ms": 0, "API_USER": "tester", "API_PASSWORD": "secret"}
    gateway = Gateway(GatewaySettings(**defaults | settings))
    port = await gateway.start()
    base_url = f"http://127.0.0.1:{port}"
    options: dict[str, Any] = {"auth": ("tester", "secret"), "timeout": 60, "verify": NO_TLS}
    async with httpx.AsyncClient(base_url=base_url, **options) as client:
        try:
            yield client
        finally:
            gateway.request_stop()
            assert await gateway.stopped() == 0


@pytest.fixture
async def http(scripted_collector: ScriptedCollector) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with the scripted collector, whose other backends are unavailable."""
    async with running_gateway(
        COLLECTOR_TARGET=scripted_collector.target, IDENTITY_TARGET="127.0.0.1:1", HISTORY_TARGET="127.0.0.1:1"
    ) as client:
        yield client
