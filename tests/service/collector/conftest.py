"""Running collectors, and an identity service that only remembers what it was told."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.identity.v1 import identity_service_pb2 as identity

from tests.tools.eventually import eventually
from tests.tools.stores import running_valkey
from tests.tools.suite import free_ports


class RememberingIdentity:
    """Serves ResolveEvents alone: remembers the events it gets, and can be told to be slow."""

    def __init__(self) -> None:
        self.calls: list[list[Event]] = []
        self.delay_s = 0.0
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
        self, request: identity.ResolveEventsRequest, _context: Any
    ) -> identity.ResolveEventsResponse:
        self.calls.append(list(request.events))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self._at_once -= 1
        return identity.ResolveEventsResponse()

    def calls_about(self, visit_id: str) -> list[list[Event]]:
        return [call for call in self.calls if any(event.visit_id == visit_id for event in call)]


class Collector:
    """A collector process, as its clients and its operator see it."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self._target = f"127.0.0.1:{port}"
        self._output = output
        self.process = process

    async def collect(self, batch: EventBatch, timeout_s: float = 10) -> collector.CollectResponse:
        """Send a batch."""
        async with grpc.aio.insecure_channel(self._target) as channel:
            request = collector.CollectRequest(batch=batch)
            return await CollectorServiceStub(channel).Collect(request, timeout=timeout_s)

    def output(self) -> str:
        return self._output.read_text()

    async def has_started(self) -> None:
        """Wait until it serves or has ended."""
        await eventually(lambda: '"serving"' in self.output() or self.process.poll() is not None, timeout=20)


Running = Callable[..., AbstractAsyncContextManager[Collector]]


@pytest.fixture(scope="module")
async def remembering_identity() -> AsyncIterator[RememberingIdentity]:
    """A neighbour on a port of its own."""
    neighbour = RememberingIdentity()
    await neighbour.server.start()
    yield neighbour
    await neighbour.server.stop(None)


@contextmanager
def _running(folder: Path, settings: dict[str, object]) -> Iterator[Collector]:
    [port] = free_ports(1)
    environment = {"COLLECTOR_PORT": port, "COLLECTOR_LAME_DUCK_MS": 0} | settings
    output = folder / f"collector-{port}.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "footfall_collector"],
            env=os.environ | {name: str(value) for name, value in environment.items()},
            stdout=file,
            stderr=file,
        )
    try:
        yield Collector(port, process, output)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def own_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the tests of one module: the log has a fixed name."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="module")
async def service(
    own_redis_url: str, remembering_identity: RememberingIdentity, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Collector]:
    """A collector with default settings. Its log is at `own_redis_url`."""
    settings: dict[str, object] = {"REDIS_URL": own_redis_url, "IDENTITY_TARGET": remembering_identity.target}
    with _running(tmp_path_factory.mktemp("collector"), settings) as running:
        await running.has_started()
        yield running


@pytest.fixture
def running_collector(redis_database_url: str, remembering_identity: RememberingIdentity, tmp_path: Path) -> Running:
    """Starts collectors on an empty database; keywords are environment variables."""

    @asynccontextmanager
    async def running(**settings: object) -> AsyncIterator[Collector]:
        defaults: dict[str, object] = {"REDIS_URL": redis_database_url, "IDENTITY_TARGET": remembering_identity.target}
        with _running(tmp_path, defaults | settings) as started:
            await started.has_started()
            yield started

    return running
