"""Pages that use the contact center's names, or no `userID`: the visitor is known and linked, live and in history."""

import uuid
from typing import Any
from urllib.parse import quote

import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


@pytest.mark.parametrize(
    ("data", "named_by", "rule"),
    [
        ({"userID": "{id}", "EmailAddress": "{id}@Mail.example", "FirstName": "x"}, "{id}", "EmailAddress"),
        ({"userID": "{id}", "PhoneNumber": "{phone}"}, "{id}", "PhoneNumber"),
        ({"username": "{id}", "FirstName": "Dana", "LastName": "{id}"}, "{id}", "FirstName+LastName"),
        ({"email": "{id}@mail.example", "name": "Dana"}, "{id}@mail.example", "EmailAddress"),
    ],
)
async def test_a_sign_in_links_by_the_names_that_pages_use(
    suite: Suite, data: dict[str, str], named_by: str, rule: str
) -> None:
    mark, visit_id = uuid.uuid4().hex, str(uuid.uuid4())
    phone = f"+4930{uuid.UUID(mark).int % 10**8:08}"
    said = {key: value.format(id=mark, phone=phone) for key, value in data.items()}
    user_id, contact_id = named_by.format(id=mark), f"contact-{mark}"
    contact = {
        "firstName": "Dana",
        "lastName": mark,
        "phoneNumbers": [phone],
        "emailAddresses": [f"{mark}@mail.example"],
    }
    async with suite.http() as http:
        assert (await http.put(f"/api/v1/contacts/{contact_id}", json=contact)).status_code == 200
        sign_in = event("SignIn", visit_id, now_ms(), data=said)
        assert (await http.post("/beacon", json=sign_in)).status_code == 204

        async def visitor() -> dict[str, Any]:
            found: dict[str, Any] = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
            assert found["contactId"] == contact_id
            return found

        live = await eventually(visitor)
        assert (live["state"], live["identityId"]) == ("AUTHENTICATED", user_id)
        [link] = (await http.get(f"/api/v1/identities/{quote(user_id)}/links")).json()["links"]
        assert (link["contactId"], link["rule"]) == (contact_id, rule)
        await eventually(lambda: _is_stored(http, visit_id))
        [identity] = (await http.get(f"/server/data/visits/{visit_id}/identities")).json()
        assert (identity["identityId"], identity["entityInCS"]) == (user_id, contact_id)
        [stored] = (await http.get(f"/server/data/visits/{visit_id}/events")).json()
        assert stored["data"] == said, "the data of the event stay as the page has sent them"


async def _is_stored(http: Any, visit_id: str) -> bool:
    return bool((await http.get(f"/server/data/visits/{visit_id}/identities")).status_code == 200)
