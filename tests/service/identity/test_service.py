"""The identity process: its contract, and its behaviour without a store."""

import json
import statistics
import time
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.event.v1 import event_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1 import visitor_pb2
from footfall_servicekit.errors import details_of
from footfall_timeline import session_id

from tests.tools.eventually import eventually
from tests.tools.gate import gate_before
from tests.tools.identity import admitted, append, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

AUTHENTICATED = visitor_pb2.VISITOR_STATE_AUTHENTICATED
RECOGNIZED = visitor_pb2.VISITOR_STATE_RECOGNIZED


async def identity_of(stub: Any, identity_id: str) -> Any:
    try:
        return (await stub.GetIdentity(pb.GetIdentityRequest(identity_id=identity_id))).identity
    except grpc.aio.AioRpcError as error:
        raise AssertionError("not yet known") from error


async def seen(stub: Any, visit_id: str) -> bool:
    try:
        await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id))
    except grpc.aio.AioRpcError:
        return False
    return True


async def is_signed_out(stub: Any, identity_id: str) -> bool:
    return bool((await identity_of(stub, identity_id)).visit_scope == RECOGNIZED)


async def test_a_visit_is_live_immediately_and_its_identity_known_from_the_log(
    running_identity: Running, redis: Any
) -> None:
    visit_id, at = new_id(), now_ms()
    page = admitted("PageEntered", visit_id, at, url="https://shop.example/a", title="Loans")
    sign_in = admitted("SignIn", visit_id, at + 5, "ann", url="", data={"name": "Ann", "age": 41})
    async with running_identity(IDENTITY_COPY_NAME="true") as identity, identity.stub() as stub:
        for _ in range(2):
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=[page, sign_in]))
        visitor = (await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id.replace("-", "").upper()))).visitor
        assert (visitor.visit_id, visitor.state, visitor.identity_id) == (visit_id, AUTHENTICATED, "ann")
        assert visitor.session_id == session_id(visit_id, sign_in.event_id)
        assert (visitor.site, visitor.url, visitor.title) == ("default", "https://shop.example/a", "Loans")
        assert (visitor.start_time.ToMilliseconds(), visitor.last_event_time.ToMilliseconds()) == (at, at + 5)
        assert visitor.assurance == event_pb2.ASSURANCE_CLAIMED

        await append(redis, page, sign_in)
        known = await eventually(lambda: identity_of(stub, "ann"))
        assert (known.identity_id, known.name, known.visit_scope) == ("ann", "Ann", AUTHENTICATED)
        assert json.loads(known.profile_json) == {"name": "Ann", "age": 41, "userID": "ann"}
        assert (known.last_visit_id, known.create_time.ToMilliseconds()) == (visit_id, at + 5)

        await append(redis, admitted("SignOut", visit_id, at + 9))

        await eventually(lambda: is_signed_out(stub, "ann"))


async def test_identities_are_listed_by_id_in_pages(running_identity: Running, redis: Any) -> None:
    names = sorted(["ann", "Bob", "o'neil/çelik #7 100%", "42", "$where", "a.b"])
    for name in names:
        await append(redis, admitted("UserInfo", new_id(), now_ms(), name, data={"location": f"at {name[:1]}"}))
    async with running_identity() as identity, identity.stub() as stub:

        async def all_are_known() -> None:
            assert len((await stub.ListIdentities(pb.ListIdentitiesRequest())).identities) == len(names)

        await eventually(all_are_known)
        request = pb.ListIdentitiesRequest(page_size=4)
        first = await stub.ListIdentities(request)
        request.page_token = first.next_page_token
        second = await stub.ListIdentities(request)
        assert [i.identity_id for i in [*first.identities, *second.identities]] == names
        assert second.next_page_token == ""
        located = await stub.ListIdentities(pb.ListIdentitiesRequest(location="at a"))
        assert [i.identity_id for i in located.identities] == ["a.b", "ann"]
        asked = ["ann", "nobody", "$where", "ann"]
        several = await stub.BatchGetIdentities(pb.BatchGetIdentitiesRequest(identity_ids=asked))
        assert [i.identity_id for i in several.identities] == ["ann", "$where", "ann"]
        other = pb.ListIdentitiesRequest(location="at a", page_token=first.next_page_token)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListIdentities(other)
        assert details_of(refused.value).violations[0][0] == "page_token"


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("GetVisitor", pb.GetVisitorRequest(visit_id="x"), "visit_id"),
        ("GetIdentity", pb.GetIdentityRequest(), "identity_id"),
        ("ListIdentities", pb.ListIdentitiesRequest(page_size=-1), "page_size"),
        ("ListIdentities", pb.ListIdentitiesRequest(page_token="x"), "page_token"),
        ("BatchGetIdentities", pb.BatchGetIdentitiesRequest(identity_ids=["a"] * 1_001), "identity_ids"),
        ("ResolveEvents", pb.ResolveEventsRequest(events=[admitted("SignIn", "x", 1, "ann")]), "events[0].visit_id"),
        ("ResolveEvents", pb.ResolveEventsRequest(events=[event_pb2.Event()] * 1_001), "events"),
    ],
)
async def test_bad_requests_are_answered_with_the_field(
    shared_stub: Any, method: str, request_message: Any, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(shared_stub, method)(request_message)
    details = details_of(refused.value)
    assert details.code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.violations[0][0] == field


@pytest.mark.parametrize(
    ("method", "request_message", "resource_type"),
    [
        ("GetVisitor", pb.GetVisitorRequest(visit_id=new_id()), "Visitor"),
        ("GetIdentity", pb.GetIdentityRequest(identity_id="nobody"), "Identity"),
    ],
)
async def test_a_missing_resource_is_named(
    shared_stub: Any, method: str, request_message: Any, resource_type: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(shared_stub, method)(request_message)
    details = details_of(refused.value)
    assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, resource_type)


async def test_anonymous_visits_are_live_within_300_ms_of_being_logged(running_identity: Running, redis: Any) -> None:
    took = []
    async with running_identity() as identity, identity.stub() as stub:
        for _ in range(9):
            page = admitted("PageEntered", new_id(), now_ms())
            await append(redis, page)
            begun = time.monotonic()
            await eventually(partial(seen, stub, page.visit_id), every=0.01)
            took.append(time.monotonic() - begun)
    assert statistics.median(took) < 0.3


async def test_live_state_works_without_mongodb_and_identities_catch_up(
    running_identity: Running, redis: Any, mongo_url: str
) -> None:
    visit_id, at = new_id(), now_ms()
    sign_in, sign_out = admitted("SignIn", visit_id, at, "ann"), admitted("SignOut", visit_id, at + 1)
    async with (
        gate_before(mongo_url) as gate,
        running_identity(MONGO_URL=gate.url) as identity,
        identity.stub() as stub,
    ):
        await append(redis, sign_in)
        await eventually(lambda: identity_of(stub, "ann"))
        await gate.close()
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[sign_out]), timeout=10)
        await append(redis, sign_out, admitted("SignIn", new_id(), at, "bob"))
        visitor = await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id), timeout=10)
        assert (visitor.visitor.state, visitor.visitor.identity_id) == (RECOGNIZED, "ann")
        pages = [
            admitted("PageEntered", new_id(), at) for _ in range(150)
        ]  # more than the record consumer reads together
        for page in pages:
            await append(redis, page)
        await eventually(lambda: seen(stub, pages[-1].visit_id))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetIdentity(pb.GetIdentityRequest(identity_id="ann"))
        assert details_of(refused.value).code is grpc.StatusCode.UNAVAILABLE
        assert details_of(refused.value).retry_ms
        await gate.open()
        await eventually(lambda: identity_of(stub, "bob"), timeout=20)
        await eventually(lambda: is_signed_out(stub, "ann"), timeout=20)


async def test_a_contact_is_unknown_and_an_identity_unavailable_while_mongodb_is_frozen(
    running_identity: Running, redis: Any, mongo_url: str
) -> None:
    timeout_s = 2
    visitors = [admitted("SignIn", new_id(), now_ms(), "ann"), admitted("PageEntered", new_id(), now_ms())]
    async with (
        gate_before(mongo_url) as gate,
        running_identity(MONGO_URL=gate.url, IDENTITY_MONGO_TIMEOUT_MS=timeout_s * 1_000) as identity,
        identity.stub() as stub,
    ):
        await append(redis, *visitors)
        await eventually(lambda: identity_of(stub, "ann"))
        await eventually(lambda: seen(stub, visitors[1].visit_id))

        async def statuses() -> list[int]:
            ask = partial(stub.GetVisitor, timeout=timeout_s)
            answers = [await ask(pb.GetVisitorRequest(visit_id=event.visit_id)) for event in visitors]
            listed = await stub.ListVisitors(pb.ListVisitorsRequest(), timeout=timeout_s)
            assert sorted(one.contact_status for one in listed.visitors) == sorted(
                answer.visitor.contact_status for answer in answers
            )
            return [answer.visitor.contact_status for answer in answers]

        assert await statuses() == [visitor_pb2.CONTACT_STATUS_NONE, visitor_pb2.CONTACT_STATUS_NONE]
        gate.freeze()
        assert await statuses() == [visitor_pb2.CONTACT_STATUS_UNKNOWN, visitor_pb2.CONTACT_STATUS_NONE]
        begun = time.monotonic()
        for call in (
            stub.GetIdentity(pb.GetIdentityRequest(identity_id="ann"), timeout=10),
            stub.ListVisitors(pb.ListVisitorsRequest(contact_id="c1"), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert details_of(refused.value).code is grpc.StatusCode.UNAVAILABLE
        took_s = time.monotonic() - begun
        gate.thaw()
        assert took_s < timeout_s * 1.5


async def test_a_call_without_redis_is_unavailable_and_the_next_one_works(
    running_identity: Running, redis_database_url: str
) -> None:
    event = admitted("SignIn", new_id(), now_ms(), "ann")
    database = redis_database_url.rsplit("/", 1)[1]
    async with gate_before(redis_database_url) as gate:
        url = f"{gate.url}/{database}"
        async with running_identity(REDIS_URL=url) as identity, identity.stub() as stub:
            await gate.close()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
            assert details_of(refused.value).code is grpc.StatusCode.UNAVAILABLE
            await gate.open()
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
            visitor = await stub.GetVisitor(pb.GetVisitorRequest(visit_id=event.visit_id))
            assert visitor.visitor.identity_id == "ann"


async def test_another_number_of_partitions_than_the_data_has_refuses_to_start(
    running_identity: Running, redis: Any
) -> None:
    await redis.set("log:partitions", 16)
    async with running_identity() as identity:
        assert identity.process.wait(30) == 2
        assert "made with 16" in identity.output()


async def test_nothing_personal_is_logged(running_identity: Running, redis: Any) -> None:
    secret = "someone-nobody-may-read-of"
    event = admitted("SignIn", new_id(), now_ms(), secret, url=f"https://shop.example/{secret}", data={"x": secret})
    broken = admitted("SignIn", new_id(), now_ms(), secret + "x" * 600)
    async with running_identity() as identity, identity.stub() as stub:
        await append(redis, event, broken)
        await eventually(lambda: identity_of(stub, secret))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=[broken]))
        assert secret not in identity.output()
