"""User ids and attributes that belong to no person, through the running suite."""

import re
import uuid
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

IGNORED: dict[Any, str] = {
    "": "blank",
    " ": "blank",
    "\u200b": "blank",
    **dict.fromkeys(("undefined", "null", "NaN", 0, "guest", "anonymous", "none", "N/A"), "placeholder"),
    **dict.fromkeys((str(uuid.UUID(int=0)), "test@test.com", "uNdefined\t", "unde\u200bfined"), "placeholder"),
    **dict.fromkeys(("[object Object]", "{{user.id}}", "%%EMAIL%%", "${userId}", "<%= id %>"), "template"),
    "d41d8cd98f00b204e9800998ecf8427e": "empty_hash",
}


async def ignored_counts(suite: Suite) -> Counter[str]:
    """Ignored user ids by reason, as the metrics of the collectors have them."""
    counts = Counter[str]()
    for url in suite.metrics_urls():
        async with httpx.AsyncClient() as client:
            text = (await client.get(url)).text
        for reason, count in re.findall(
            r'^footfall_collector_ignored_user_ids_total\{reason="(\w+)"\} (\S+)$', text, re.M
        ):
            counts[reason] += int(float(count))
    return counts


async def explained(http: httpx.AsyncClient, visit_id: str) -> list[dict[str, Any]]:
    answer = await http.get(f"/api/v1/visits/{visit_id}/explain")
    assert answer.status_code == 200, answer.text
    transitions: list[dict[str, Any]] = answer.json()["transitions"]
    return transitions


async def test_a_user_id_of_no_person_changes_no_state_and_the_corrected_page_identifies(suite: Suite) -> None:
    started, mark = now_ms() - 60_000, uuid.uuid4().hex[:8]
    visits = {str(uuid.uuid4()): value for value in IGNORED}
    sent = []
    for visit_id, value in visits.items():
        for seconds, name in enumerate(("UserInfo", "SignIn")):
            sent.append(event(name, visit_id, started + 1_000 * seconds, data={"userID": value}))
        sent.append(event("AddToCart", visit_id, started + 2_000))
    async with suite.http() as http:
        before = await ignored_counts(suite)
        answer = await http.post("/beacon", json=[*sent, *sent[:3]])
        assert answer.status_code == 200
        counted = await ignored_counts(suite) - before
        assert counted == Counter(one["reason"] for one in answer.json()["ignored"])
        body = answer.json()
        assert (body["accepted"], body["rejected"]) == (len(sent) + 3, [])
        assert [(one["index"], one["reason"]) for one in body["ignored"][:-2]] == [
            (index, IGNORED[visits[one["visitID"]]])
            for index, one in enumerate(sent)
            if one["eventName"] != "AddToCart"
        ]
        for visit_id in visits:
            await eventually(partial(is_anonymous, http, visit_id))
        # The page is corrected: a SignIn before the AddToCart, and one of another spelling after it.
        fixed = [event("SignIn", visit_id, started + 1_500, f"dana {mark}") for visit_id in visits]
        fixed.append(event("SignIn", fixed[0]["visitID"], started + 3_000, f"Dana {mark} "))
        assert (await http.post("/beacon", json=fixed)).status_code == 204
        for visit_id, value in visits.items():
            await eventually(partial(is_identified, http, visit_id, f"dana {mark}", value))
        for value in visits.values():
            known = await http.get(f"/server/data/identities/{quote(str(value), safe='')}")
            assert not value or known.status_code == 404, value
        warnings = [step["warning"] is not None for step in await explained(http, fixed[0]["visitID"])]
        assert warnings == [False, False, True, True]
        pages = await http.get(f"/api/v1/visits/{fixed[0]['visitID']}/explain", params={"page_size": 1})
        rules = [pages.json()["transitions"][0]["rule"]]
        while token := pages.json().get("nextPageToken"):
            pages = await http.get(
                f"/api/v1/visits/{fixed[0]['visitID']}/explain", params={"page_size": 1, "page_token": token}
            )
            rules += [step["rule"] for step in pages.json()["transitions"]]
        assert rules == ["ignored", "ignored", "sign_in.opens_session", "sign_in.other_identity"]


async def is_anonymous(http: httpx.AsyncClient, visit_id: str) -> None:
    visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
    assert (visitor["state"], visitor["identityId"]) == ("ANONYMOUS", None)
    steps = await explained(http, visit_id)
    assert [(step["rule"], step["evidence"][0]["eventName"]) for step in steps] == [
        ("ignored", "UserInfo"),
        ("ignored", "SignIn"),
    ]
    events = (await http.get(f"/server/data/visits/{visit_id}/events")).json()
    assert len(events) == 3
    assert not any(one.get("identityId") for one in events)


async def is_identified(http: httpx.AsyncClient, visit_id: str, user: str, value: Any) -> None:
    steps = await explained(http, visit_id)
    assert [step["ignoredReason"] for step in steps[:3]] == [IGNORED[value], IGNORED[value], None]
    assert steps[2]["after"]["identityId"] == user
    assert all(step["policyVersion"] for step in steps)


async def test_an_attribute_of_no_person_links_no_contact(suite: Suite) -> None:
    mark, visit_id = uuid.uuid4().hex[:8], str(uuid.uuid4())
    real, started = f"{mark}@shop.example", now_ms() - 60_000
    async with suite.http() as http:
        for contact, email in ((f"test-{mark}", "test@test.com"), (f"real-{mark}", real)):
            body = {"emailAddresses": [email], "phoneNumbers": ["+490000000000"]}
            assert (await http.put(f"/api/v1/contacts/{contact}", json=body)).status_code == 200
        data = {"mail": "Test@test.com", "phone": "+490000000000"}
        first = event("SignIn", visit_id, started, f"eve-{mark}", data=data)
        second = event("SignIn", visit_id, started + 1, f"dana-{mark}", data={**data, "email": real})
        assert (await http.post("/beacon", json=[first, second])).status_code == 204

        async def is_linked() -> None:
            answer = await http.get(f"/api/v1/identities/dana-{mark}/links")
            assert answer.status_code == 200
            assert [link["contactId"] for link in answer.json()["links"]] == [f"real-{mark}"]

        await eventually(is_linked)
        assert (await http.get(f"/api/v1/identities/eve-{mark}/links")).json()["links"] == []
        for contact in ("test", "real"):
            assert (await http.delete(f"/api/v1/contacts/{contact}-{mark}")).status_code == 204
