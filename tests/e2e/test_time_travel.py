"""Who a visitor was at a moment: by HTTP and gRPC, also when a sign-in was received later than it happened."""

import uuid
from typing import Any

import grpc
import pytest
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.errors import details_of

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_a_visitor_is_shown_as_of_a_moment_and_as_known_then(suite: Suite) -> None:
    visit, contact = str(uuid.uuid4()), f"contact-{uuid.uuid4()}"
    person, begin_ms = f"{uuid.uuid4()}@mail.example", now_ms() - 600_000
    path = f"/api/v1/visits/{visit}"
    async with suite.http() as http:

        async def send(name: str, at_ms: int, user: str | None = None) -> None:
            assert (await http.post("/beacon", json=event(name, visit, at_ms, user))).status_code == 204

        async def asked(what: str, **moment: int) -> dict[str, Any]:
            answer = await http.get(f"{path}/{what}", params=moment)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        await http.put(f"/api/v1/contacts/{contact}", json={"emailAddresses": [person]})
        await send("PageEntered", begin_ms)
        await send("AddToCart", begin_ms + 300_000)
        await eventually(lambda: asked("explain"))
        before_ms = now_ms()
        await eventually(lambda: now_ms() > before_ms)
        await send("SignIn", begin_ms + 200_000, person)

        async def is_stored() -> None:
            assert (await asked("explain"))["state"] == "AUTHENTICATED"
            assert (await asked("visitor"))["contactId"] == contact

        await eventually(is_stored)
        late_ms = begin_ms + 300_000
        for moment, state in [
            ({}, "AUTHENTICATED"),
            ({"asOf": late_ms}, "AUTHENTICATED"),
            ({"asOf": begin_ms + 200_000}, "AUTHENTICATED"),
            ({"asOf": begin_ms + 199_999}, "ANONYMOUS"),
            ({"asOf": late_ms, "knownAt": before_ms}, "ANONYMOUS"),
            ({"knownAt": before_ms}, "ANONYMOUS"),
            ({"asOf": late_ms, "knownAt": now_ms()}, "AUTHENTICATED"),
        ]:
            visitor, explanation = await asked("visitor", **moment), await asked("explain", **moment)
            assert (visitor["state"], explanation["state"]) == (state, state), moment
            is_known = state == "AUTHENTICATED"
            assert visitor["identityId"] == explanation["identityId"] == (person if is_known else None)
            assert (visitor["contactId"], visitor["assurance"]) == ((contact, "claimed") if is_known else (None, None))
            assert len(explanation["transitions"]) == is_known
            assert (visitor["presence"] is None) == bool(moment)
        answer = await http.get(f"{path}/visitor", params={"asOf": -1})
        assert (answer.status_code, "asOf" in answer.text) == (400, True)
        assert (await http.get(f"/api/v1/visits/{uuid.uuid4()}/visitor", params={"asOf": 1})).status_code == 404

    async with suite.channel("identity") as channel:
        stub, request = IdentityServiceStub(channel), pb.GetVisitorRequest(visit_id=visit)
        request.as_of_time.FromMilliseconds(now_ms())
        assert (await stub.GetVisitor(request)).visitor.identity_id == person
        request.sites.append("another.example")
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await stub.GetVisitor(request)
        assert details_of(missing.value).reason == "RESOURCE_NOT_FOUND"
        request.as_of_time.nanos = -1
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetVisitor(request)
        assert details_of(refused.value).violations[0][0] == "as_of_time"
