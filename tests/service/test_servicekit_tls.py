"""Certificates of servers and clients: which names count, and files that change while calls are made."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from footfall.collector.v1 import collector_service_pb2 as pb
from footfall.collector.v1 import collector_service_pb2_grpc as pb_grpc
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_servicekit.channel import open_channel
from footfall_servicekit.errors import details_of
from footfall_servicekit.server import Server
from footfall_servicekit.settings import ServiceSettings
from footfall_servicekit.tls import ClientTls, KeyPair

from deploy.certificates import Authority
from tests.tools.eventually import eventually

SERVICE = "footfall.collector.v1.CollectorService"
ACCESS = {"writer": ["Collect", "RecordInteraction"], "reader": []}


class Answering(pb_grpc.CollectorServiceServicer):
    async def Collect(self, _request: pb.CollectRequest, _context: Any) -> pb.CollectResponse:  # noqa: N802
        return pb.CollectResponse()

    async def RecordInteraction(  # noqa: N802
        self, request: pb.RecordInteractionRequest, _context: Any
    ) -> pb.RecordInteractionResponse:
        return pb.RecordInteractionResponse(interaction=InteractionUpdate(note=",".join(request.sites)))


@asynccontextmanager
async def serving(authority: Authority, roles: str = "") -> AsyncIterator[str]:
    """A server with mutual TLS, in whose table writers alone may call; gives its target."""
    certificate, key = authority.issue("server")
    settings = ServiceSettings(
        drain_delay_ms=0,
        grpc_tls_ca_file=authority.file,
        grpc_tls_cert_file=certificate,
        grpc_tls_key_file=key,
        grpc_tls_client_ca_file=authority.file,
        grpc_client_roles=roles,
    )
    add: Callable[[grpc.aio.Server], None] = lambda server: pb_grpc.add_CollectorServiceServicer_to_server(  # noqa: E731
        Answering(), server
    )
    server = Server(settings, {SERVICE: add}, access=ACCESS)
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()


async def reason(channel: grpc.aio.Channel) -> str:
    """Why a call is not answered; empty when it is."""
    try:
        await pb_grpc.CollectorServiceStub(channel).Collect(pb.CollectRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        return details_of(error).reason or error.code().name
    return ""


DNS, URI = x509.DNSName, x509.UniformResourceIdentifier
CRM = "spiffe://house.example/ns/crm/sa/crm"


@pytest.mark.parametrize(
    ("common_name", "names", "roles", "is_allowed"),
    [
        pytest.param("client", [DNS("writer")], "", True, id="a name is a role"),
        pytest.param("client", [DNS("reader"), DNS("writer")], "", True, id="one of the names is"),
        pytest.param("client", [DNS("reader")], "", False, id="another role"),
        pytest.param("writer", [], "", True, id="a common name alone"),
        pytest.param("writer", [DNS("reader")], "", False, id="a common name beside others is none"),
        pytest.param("client", [URI(CRM)], f"{CRM}=writer", True, id="the role of a URI"),
        pytest.param("client", [DNS("crm.example")], "crm.example=reader", False, id="of another role"),
        pytest.param("client", [DNS("writer")], f"{CRM}=writer", False, id="with roles told, a name is none"),
    ],
)
async def test_names_in_a_certificate_give_roles(
    tmp_path: Path, common_name: str, names: list[x509.GeneralName], roles: str, is_allowed: bool
) -> None:
    authority = Authority(tmp_path)
    async with serving(authority, roles) as target:
        pair = KeyPair(*authority.issue(common_name, names))
        async with open_channel(target, ClientTls(authority.file, pair)) as channel:
            assert await reason(channel) == ("" if is_allowed else "ROLE_NOT_ALLOWED")


async def test_a_role_with_sites_is_limited_to_them(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(authority, "crm.example=writer/shop/blog") as target:
        pair = KeyPair(*authority.issue("client", [DNS("crm.example")]))
        async with open_channel(target, ClientTls(authority.file, pair)) as channel:
            record = pb_grpc.CollectorServiceStub(channel).RecordInteraction

            async def seen(*sites: str) -> str:
                answer = await record(pb.RecordInteractionRequest(sites=sites), timeout=10)
                note: str = answer.interaction.note
                return note

            assert await seen() == "blog,shop"
            assert await seen("shop") == "shop"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await seen("shop", "docs")
            assert details_of(refused.value).reason == "SITE_NOT_ALLOWED"
            assert await reason(channel) == "SITE_NOT_ALLOWED", "Collect knows no limit of sites"


async def test_a_clients_new_certificate_counts_soon_and_no_call_is_lost(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(authority) as target:
        pair = KeyPair(*authority.issue("client", [DNS("reader")]))
        async with open_channel(target, ClientTls(authority.file, pair)) as channel:
            assert await reason(channel) == "ROLE_NOT_ALLOWED"
            authority.issue("client", [DNS("writer")])

            reasons = set()

            async def counts() -> bool:
                reasons.add(await reason(channel))
                return "" in reasons

            await eventually(counts)
            assert reasons <= {"", "ROLE_NOT_ALLOWED"}


async def test_a_server_shows_its_new_certificate_when_the_key_is_there_too(tmp_path: Path) -> None:
    authority, elsewhere = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    async with serving(authority) as target:
        certificate, key = elsewhere.issue("server")
        client = KeyPair(*authority.issue("writer"))

        async def is_believed(by: Authority) -> bool:
            async with open_channel(target, ClientTls(by.file, client)) as channel:
                return await reason(channel) == ""

        shown = authority.file.parent / "server"
        os.replace(certificate, shown / "tls.crt")
        assert await is_believed(by=authority)  # the certificate without its key counts for nothing
        os.replace(key, shown / "tls.key")
        assert await is_believed(by=elsewhere)
        assert not await is_believed(by=authority)
