"""Links in doubt over the running suite."""

import uuid

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_an_identity_that_two_contacts_match_is_listed_until_it_is_linked(suite: Suite) -> None:
    mark = uuid.uuid4().hex
    user, named = f"{mark}@shop.example", f"named-{mark}"
    contacts = [f"{mark}-{number}" for number in range(2)]
    async with suite.http() as http:

        async def found(doubt: str) -> dict[str, tuple[int, str | None]]:
            """The identities of this test with a doubt: how many contacts match, and the contact."""
            page = (await http.get("/api/v1/doubtful-links", params={"doubt": doubt, "page_size": 1_000})).json()
            assert page["count"] >= len(page["identities"])
            mine = [one for one in page["identities"] if mark in one["identityId"]]
            assert all(one["lastEventTime"] > 0 for one in mine)
            return {one["identityId"]: (one["candidateCount"], one["contactId"]) for one in mine}

        for contact in contacts:
            stored = {"emailAddresses": [user], "firstName": "Ann", "lastName": mark}
            assert (await http.put(f"/api/v1/contacts/{contact}", json=stored)).status_code == 200
        sign_ins = [
            event("SignIn", str(uuid.uuid4()), now_ms(), user),
            event("SignIn", str(uuid.uuid4()), now_ms(), named, data={"firstName": "Ann", "lastName": mark}),
        ]
        assert (await http.post("/beacon", json=sign_ins)).status_code == 204

        async def are_ambiguous() -> None:
            assert await found("ambiguous") == {user: (2, None), named: (2, None)}

        await eventually(are_ambiguous)
        assert (await http.delete(f"/api/v1/contacts/{contacts[1]}")).status_code == 204

        async def is_by_name() -> None:
            assert await found("by_name") == {named: (0, contacts[0])}

        await eventually(is_by_name)
        linked = await http.put(f"/api/v1/identities/{named}/contact", json={"contactId": contacts[0]})
        assert linked.status_code == 200, linked.text
        assert await found("by_name") == {}
        for wrong in ({}, {"doubt": "none"}):
            assert (await http.get("/api/v1/doubtful-links", params=wrong)).status_code == 400
