"""footfall-client and a real identity: errors, lists, TLS and token, and a position in the stream that is lost."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import Visitor
from footfall_client import (
    AsyncFootfall,
    Footfall,
    InvalidRequestError,
    LiveChange,
    NotFoundError,
    Tls,
    UnavailableError,
)

from deploy.certificates import Authority
from tests.tools.collecting import collecting
from tests.tools.eventually import eventually
from tests.tools.gate import gate_before
from tests.tools.identity import admitted, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms


def sign_ins(count: int) -> pb.ResolveEventsRequest:
    return pb.ResolveEventsRequest(events=[admitted("SignIn", new_id(), now_ms(), "ann") for _ in range(count)])


async def test_both_clients_list_pages_and_raise_what_the_service_says(running_identity: Running) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        await stub.ResolveEvents(sign_ins(7))
        request = pb.ListVisitorsRequest(page_size=3)
        invalid, unknown = pb.GetVisitorRequest(visit_id="x"), pb.GetVisitorRequest(visit_id=new_id())

        def blocking() -> list[Any]:
            with Footfall(identity=identity.target) as footfall:
                pages = [len(page.visitors) for page in footfall.pages(footfall.identity.ListVisitors, request)]
                with pytest.raises(InvalidRequestError) as refused:
                    footfall.identity.GetVisitor(invalid)
                with pytest.raises(NotFoundError) as missing:
                    footfall.identity.GetVisitor(unknown)
                with pytest.raises(AttributeError, match="history: the client was opened without this target"):
                    _ = footfall.history
                return [pages, refused.value.violations, missing.value.resource_type, bool(missing.value.request_id)]

        async with AsyncFootfall(identity=identity.target) as footfall:
            pages = [len(page.visitors) async for page in footfall.pages(footfall.identity.ListVisitors, request)]
            with pytest.raises(InvalidRequestError) as refused:
                await footfall.identity.GetVisitor(invalid)
            with pytest.raises(NotFoundError) as missing:
                await footfall.identity.GetVisitor(unknown)
            with pytest.raises(InvalidRequestError):
                await anext(footfall.watch_visitors(pb.WatchVisitorsRequest(visit_ids=["x"])))
        found = [pages, refused.value.violations, missing.value.resource_type, bool(missing.value.request_id)]
        assert found == [[3, 3, 1], (("visit_id", "must be a UUID"),), "Visitor", True]
        assert await asyncio.to_thread(blocking) == found


async def test_visitors_are_listed_again_when_the_position_is_lost(running_identity: Running) -> None:
    signed_out, ended_early = new_id(), new_id()
    async with (
        running_identity(IDENTITY_CHANGELOG_MAX_ENTRIES=100) as identity,
        identity.stub() as stub,
        gate_before(f"tcp://{identity.target}") as gate,
        AsyncFootfall(identity=f"127.0.0.1:{gate.port}") as footfall,
    ):

        async def resolve(*events: Any) -> None:
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))

        await resolve(*(admitted("SignIn", one, now_ms(), "ann") for one in (signed_out, ended_early)))
        changes: list[LiveChange] = []
        messages: list[pb.WatchVisitorsResponse] = []
        reading = [
            collecting(footfall.live_visitors(), changes),
            collecting(footfall.watch_visitors(pb.WatchVisitorsRequest(list_first=True)), messages),
        ]
        await eventually(lambda: len(changes) == len(messages) == 2)
        await resolve(admitted("SignOut", ended_early, now_ms() + 1))
        await eventually(lambda: len(changes) == len(messages) == 3)
        await gate.close()
        await resolve(admitted("SignOut", signed_out, now_ms() + 1))
        await stub.ResolveEvents(sign_ins(1_000))
        await gate.open()
        await eventually(lambda: len(changes) == 3 + 1 + 1_000)
        [about] = [one for one in changes[3:] if one.visitor.visit_id == signed_out]
        assert about.before
        assert about.now
        assert [about.before.state, about.now.state] == [3, 2]
        assert len({one.visitor.visit_id for one in changes[3:]}) == 1_001
        await eventually(lambda: len(messages) == 3 + 1_002)  # everyone is listed
        assert {one.resume_token for one in messages[3:]} == {""}
        await resolve(admitted("SignIn", signed_out, now_ms() + 2, "bob"))
        await eventually(lambda: changes[-1].now is not None and changes[-1].now.identity_id == "bob")
        await eventually(lambda: messages[-1].resume_token != "")
        await footfall.close()
        await asyncio.wait_for(asyncio.gather(*reading), 30)  # they end without an error


async def test_closing_the_client_ends_the_iterators_of_other_threads(running_identity: Running) -> None:
    seen: list[LiveChange] = []
    async with running_identity() as identity, identity.stub() as stub:
        with Footfall(identity=identity.target) as footfall:
            watching = threading.Thread(target=lambda: seen.extend(footfall.live_visitors()), daemon=True)
            watching.start()
            waiting = footfall.watch_visitors(pb.WatchVisitorsRequest(list_first=True))
            await stub.ResolveEvents(sign_ins(1))
            assert (await asyncio.to_thread(next, waiting)).visitor.identity_id == "ann"
        await asyncio.to_thread(watching.join, 30)
        assert not watching.is_alive()
        assert list(waiting) == []


async def echo(_request: pb.GetVisitorRequest, context: Any) -> pb.GetVisitorResponse:
    """Answers with the header `authorization` in place of an identity."""
    header = dict(context.invocation_metadata()).get("authorization", "")
    return pb.GetVisitorResponse(visitor=Visitor(identity_id=header))


@asynccontextmanager
async def proxy(authority: Authority) -> AsyncIterator[str]:
    """What a proxy that asks for a certificate and a token sees."""
    certificate, key = authority.issue("proxy")
    pairs = [(key.read_bytes(), certificate.read_bytes())]
    credentials = grpc.ssl_server_credentials(pairs, authority.file.read_bytes(), require_client_auth=True)
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        echo, pb.GetVisitorRequest.FromString, pb.GetVisitorResponse.SerializeToString
    )
    service = "footfall.identity.v1.IdentityService"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"GetVisitor": handler})])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_certificate_and_the_current_token_go_with_each_call(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client", [x509.DNSName("contact-center")])
    tls, tokens = Tls(authority.file, certificate, key), iter(["one", "two"])
    request = pb.GetVisitorRequest()
    async with proxy(authority) as target:
        async with AsyncFootfall(identity=target, tls=tls, token=lambda: next(tokens)) as footfall:
            for expected in ("Bearer one", "Bearer two"):
                assert (await footfall.identity.GetVisitor(request)).visitor.identity_id == expected
        with Footfall(identity=target, tls=tls, token="fixed") as blocking:
            answer = await asyncio.to_thread(blocking.identity.GetVisitor, request)
            assert answer.visitor.identity_id == "Bearer fixed"
        async with AsyncFootfall(identity=target, tls=Tls(authority.file)) as footfall:
            with pytest.raises(UnavailableError):  # the handshake fails
                await footfall.identity.GetVisitor(request)
