"""Turns the name of a service and its settings into a running process of it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import grpc
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from tests.tools.eventually import eventually
from tests.tools.forks import Fork
from tests.tools.ports import free_ports

Service = Literal["collector", "identity", "history", "relay"]
STUBS: Mapping[Service, Any] = {
    "collector": CollectorServiceStub,
    "identity": IdentityServiceStub,
    "history": HistoryServiceStub,
    "relay": None,  # which has health only
}

START_SECONDS = 60
STOP_SECONDS = 30.0


class ServiceProcess:
    """A process of one service, as its clients and its operator see it."""

    def __init__(self, service: Service, port: int, process: Fork, output: Path) -> None:
        self.target = f"127.0.0.1:{port}"
        self._stub = STUBS[service]
        self.process = process
        self._output = output

    def output(self) -> str:
        """All it has logged."""
        return self._output.read_text()

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        """A client with a channel of its own."""
        async with grpc.aio.insecure_channel(self.target) as channel:
            yield self._stub(channel)


Running = Callable[..., AbstractAsyncContextManager[ServiceProcess]]


@asynccontextmanager
async def running_service(service: Service, folder: Path, **settings: object) -> AsyncIterator[ServiceProcess]:
    """A process of a service, on a free port, that logs into `folder`; given when it serves or has ended already.

    `settings` are environment variables beside those of this process.
    """
    [port] = free_ports(1)
    prefix = service.upper()
    environment = {f"{prefix}_PORT": port, f"{prefix}_DRAIN_DELAY_MS": 0} | settings
    output = folder / f"{service}-{port}.log"
    with output.open("wb") as file:
        process = await asyncio.to_thread(
            Fork,
            f"footfall_{service}",
            os.environ | {name: str(value) for name, value in environment.items()},
            file,
        )
    started = ServiceProcess(service, port, process, output)
    try:
        await eventually(lambda: '"serving"' in started.output() or process.poll() is not None, timeout=START_SECONDS)
        yield started
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
        process.close()
