"""Generic values and shared identities over the running suite."""

import json
import random
import uuid
from typing import Any
from urllib.parse import quote

import httpx

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

MORE_THAN_ALLOWED = 21


async def page_of(http: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def all_of(http: httpx.AsyncClient, path: str, name: str) -> list[dict[str, Any]]:
    """All items of a list, read in pages of one."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"page_size": 1}
    while query.get("page_token", "") is not None:
        page = await page_of(http, path, **query)
        found += page[name]
        query["page_token"] = page["nextPageToken"]
    return found


async def test_a_number_that_too_many_give_links_nobody_until_it_is_allowed(suite: Suite) -> None:
    mark, number = uuid.uuid4().hex, f"+4930{random.randrange(10**7):07}"  # noqa: S311
    contact, people = f"contact-{mark}", [f"{mark}-{n}" for n in range(MORE_THAN_ALLOWED)]
    async with suite.http() as http:
        assert (await http.put(f"/api/v1/contacts/{contact}", json={"phoneNumbers": [number]})).status_code == 200
        sign_ins = [event("SignIn", str(uuid.uuid4()), now_ms(), one, data={"phone": number}) for one in people]
        assert (await http.post("/beacon", json=sign_ins)).status_code == 204

        async def value() -> dict[str, Any]:
            [found] = [one for one in await all_of(http, "generic-values", "values") if one["value"] == number]
            assert found["identityCount"] == len(people)
            return found

        async def newest_links() -> list[dict[str, Any]]:
            return [(await page_of(http, f"identities/{one}/links", page_size=1))["links"][0] for one in people]

        async def nobody_is_linked() -> None:
            for link in await newest_links():
                assert (link["status"], link["contactId"], link["rule"]) == ("unlinked", None, None)
                [unused] = link["unusedEvidence"]
                assert (unused["attribute"], unused["reason"]) == ("PhoneNumber", "generic_value")

        async def all_are_linked() -> None:
            for link in await newest_links():
                assert (link["contactId"], link["unusedEvidence"]) == (contact, [])

        found = await eventually(value, timeout=30)
        assert {key: found[key] for key in ("rule", "assurance", "allowed", "actor", "decideTime")} == {
            "rule": "PhoneNumber",
            "assurance": "claimed",
            "allowed": False,
            "actor": "",
            "decideTime": None,
        }
        await eventually(nobody_is_linked, timeout=30)
        path = f"/api/v1/generic-values/{found['valueId']}"
        decided = await http.put(path, json={"allowed": True, "actor": "agent 7"})
        assert decided.status_code == 200, decided.text
        assert (decided.json()["allowed"], decided.json()["actor"][-8:]) == (True, "/agent 7")
        await eventually(all_are_linked, timeout=30)
        for wrong, status in (({}, 400), ({"allowed": "yes"}, 400)):
            assert (await http.put(path, json=wrong)).status_code == status
        assert (await http.put("/api/v1/generic-values/x", json={"allowed": True})).status_code == 404
        log = (suite.data_dir / "log" / "gateway.log").read_text()
        assert number not in log


async def test_an_identity_on_too_many_devices_is_listed_and_its_visitors_stay_signed_in(suite: Suite) -> None:
    kiosk = f"kiosk/{uuid.uuid4().hex}@shop.example"
    visits = [str(uuid.uuid4()) for _ in range(MORE_THAN_ALLOWED)]
    async with suite.http() as http:
        sign_ins = [event("SignIn", one, now_ms(), kiosk, globalVisitID=str(uuid.uuid4())) for one in visits]
        assert (await http.post("/beacon", json=sign_ins)).status_code == 204

        async def is_listed() -> None:
            [found] = [
                one for one in await all_of(http, "shared-identities", "identities") if one["identityId"] == kiosk
            ]
            assert [day["deviceCount"] for day in found["deviceDays"]][-1] == MORE_THAN_ALLOWED
            assert found["lastEventTime"] >= sign_ins[0]["timestamp"]

        await eventually(is_listed, timeout=30)
        assert (await page_of(http, f"visits/{visits[0]}/visitor"))["state"] == "AUTHENTICATED"
        context = await page_of(http, "context", identityId=kiosk)
        assert [one["shared"] for one in context["identities"]] == [True]
        exported = (await http.get(f"/api/v1/identities/{quote(kiosk, safe='')}/export")).text
        first = json.loads(exported.splitlines()[0])
        assert (first["shared"], sum(day["deviceCount"] for day in first["deviceDays"])) == (True, MORE_THAN_ALLOWED)
