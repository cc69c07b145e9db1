"""Interactions about visits, contacts and identities that no service knows, or that history has not read yet."""

import uuid
from functools import partial

import grpc
import pytest
from footfall_servicekit.errors import details_of

from tests.tools.contact_center_stubs import contact_center
from tests.tools.eventually import eventually
from tests.tools.sites import send
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_an_unknown_visit_is_not_found_and_stays_unknown(suite: Suite) -> None:
    unknown = str(uuid.uuid4())
    async with suite.http() as http, contact_center(suite) as center:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await center.report("call", now_ms(), visit_id=unknown)
        details = details_of(raised.value)
        assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, "Visit")
        answer = await http.post("/api/v1/interactions", json={"interactionId": "call", "visitId": unknown})
        assert (answer.status_code, answer.json()["detail"]) == (404, "no such visit")
        assert (await http.get(f"/api/v1/visits/{unknown}/visitor")).status_code == 404
        assert (await http.get(f"/server/data/visits/{unknown}")).status_code == 404
        assert (await http.get(f"/api/v1/visits/{unknown}/interactions")).status_code == 404


async def test_contacts_and_identities_are_known_also_by_their_interactions_alone(suite: Suite) -> None:
    async with suite.http() as http, contact_center(suite) as center:
        for kind in ("contact", "identity"):
            unknown, path = str(uuid.uuid4()), f"/api/v1/interactions?{kind}Id="
            assert (await http.get(f"{path}{unknown}")).json()["detail"] == f"no such {kind}"
            await center.report(unknown, now_ms(), **{f"{kind}_id": unknown})
            await eventually(partial(center.has_listed, 1, **{f"{kind}_id": unknown}))
            assert (await http.get(f"{path}{unknown}&agent=other")).json() == {
                "interactions": [],
                "nextPageToken": None,
            }


async def test_a_visit_that_history_has_not_read_yet_is_known(suite: Suite) -> None:
    visit, mark = str(uuid.uuid4()), uuid.uuid4().hex
    async with suite.http() as http, contact_center(suite) as center:
        suite.stop("history")
        try:
            await send(http, event("SignIn", visit, now_ms(), f"{mark}@mail.example"))
            assert (await center.report(mark, now_ms(), visit_id=visit)).site == "default"
        finally:
            suite.start("history")
        await eventually(lambda: center.has_listed(1, visit_id=visit))
