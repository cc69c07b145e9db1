"""Callers that show the token of an API key: which keys count, what their scopes allow, and the sites they may see."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as pb
from footfall.collector.v1 import collector_service_pb2_grpc as pb_grpc
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.keys import KeyCallers, KeyFile, KeyScope, new_token
from footfall_servicekit import logs
from footfall_servicekit.channel import forwarded, show_token
from footfall_servicekit.errors import details_of
from footfall_servicekit.server import Server
from footfall_servicekit.settings import ServiceSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from tests.service.test_servicekit_tls import Answering
from tests.tools.keys import new_key
from tests.tools.visits import now_ms

SERVICE = "footfall.collector.v1.CollectorService"
SCOPES = {"ingest": ["Collect"], "contacts": ["RecordInteraction"]}


class Naming(Answering):
    """Answers who calls."""

    async def RecordInteraction(  # noqa: N802
        self, request: pb.RecordInteractionRequest, _context: Any
    ) -> pb.RecordInteractionResponse:
        note = f"{logs.caller.get()}: {','.join(request.sites)}"
        return pb.RecordInteractionResponse(interaction=InteractionUpdate(note=note))


@asynccontextmanager
async def serving(keys: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A server without TLS whose callers show keys; gives a channel."""
    add: Callable[[grpc.aio.Server], None] = lambda server: pb_grpc.add_CollectorServiceServicer_to_server(  # noqa: E731
        Naming(), server
    )
    server = Server(ServiceSettings(drain_delay_ms=0), {SERVICE: add}, scopes=SCOPES, find_caller=KeyCallers(keys).find)
    port = await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop()


async def seen(channel: grpc.aio.Channel, token: str, *sites: str) -> str:
    """Who the server takes the caller for, and the sites of the request; or why it is refused."""
    call = pb_grpc.CollectorServiceStub(channel).RecordInteraction
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        answer = await call(pb.RecordInteractionRequest(sites=sites), metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {details_of(error).reason}"
    note: str = answer.interaction.note
    return note


async def test_a_caller_needs_a_valid_key_with_a_scope_for_the_method(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    good = new_key(keys, "desk", [KeyScope.CONTACTS])
    reading = new_key(keys, "desk", [KeyScope.READ])
    expired = new_key(keys, "desk", [KeyScope.CONTACTS], expire_ms=now_ms() - 1)
    invented, _, _ = new_token()
    async with serving(keys) as channel:
        assert await seen(channel, good) == f"desk ({good[4:16]}): "
        assert await seen(channel, reading) == "PERMISSION_DENIED SCOPE_MISSING"
        for token in ("", "x", expired, invented, good[:-1], f"{good[:16]}{invented[16:]}"):
            assert await seen(channel, token) == "UNAUTHENTICATED KEY_NOT_VALID"
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        with KeyFile(keys).changing() as written:
            del written[good[4:16]]
        assert await seen(channel, good) == "UNAUTHENTICATED KEY_NOT_VALID"


async def test_a_key_with_sites_sees_these_alone(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    token = new_key(keys, "desk", [KeyScope.CONTACTS, KeyScope.INGEST], ["shop", "blog"])
    async with serving(keys) as channel:
        assert (await seen(channel, token)).endswith(": blog,shop")
        assert (await seen(channel, token, "shop")).endswith(": shop")
        assert await seen(channel, token, "shop", "docs") == "PERMISSION_DENIED SITE_NOT_ALLOWED"
        collect = pb_grpc.CollectorServiceStub(channel).Collect
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await collect(pb.CollectRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=10)
        assert details_of(refused.value).reason == "SITE_NOT_ALLOWED"


async def test_a_process_shows_the_token_in_its_file_also_a_new_one(tmp_path: Path) -> None:
    keys, own = tmp_path / "keys.json", tmp_path / "token"
    try:
        for _ in range(2):
            own.write_text(f"{new_key(keys, 'desk', [KeyScope.CONTACTS])}\n")
            if not forwarded():
                show_token(own)
            async with serving(keys) as channel:
                call = pb_grpc.CollectorServiceStub(channel).RecordInteraction
                await call(pb.RecordInteractionRequest(), metadata=forwarded(), timeout=10)
            with KeyFile(keys).changing() as written:
                written.clear()
    finally:
        show_token(None)
