"""Identities that were renamed and contacts that were merged, over HTTP: every name leads to the same."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

DATA, V1 = "/server/data/identities", "/api/v1"


@pytest.fixture(scope="module")
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


async def signed_in(http: httpx.AsyncClient, person: str, **data: str) -> str:
    """A visit in which this person signs in and buys; the id of the visit."""
    visit = str(uuid.uuid4())
    sign_in = event("SignIn", visit, now_ms() - 2, person, data=data)
    bought = event("Bought", visit, now_ms() - 1)
    assert (await http.post("/beacon", json=[sign_in, bought])).status_code == 204

    async def is_stored() -> bool:
        events = await http.get(f"/server/data/visits/{visit}/events")
        return events.status_code == 200 and len(events.json()) == 2 and (await known(http, person)).status_code == 200

    await eventually(is_stored)
    return visit


async def known(http: httpx.AsyncClient, person: str) -> httpx.Response:
    return await http.get(f"{DATA}/{person}")


async def read(http: httpx.AsyncClient, path: str) -> Any:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_name_leads_to_the_person_and_what_the_person_did(http: httpx.AsyncClient) -> None:
    mark = uuid.uuid4().hex
    old, new, contact = f"old-{mark}", f"new-{mark}", f"c-{mark}"
    given = {"emailAddresses": [f"{mark}@mail.example"]}
    assert (await http.put(f"{V1}/contacts/{contact}", json=given)).status_code == 200
    visits = [await signed_in(http, old, email=f"{mark}@mail.example"), await signed_in(http, new)]
    renamed = await http.put(f"{V1}/identities/{old}/rename", json={"identityId": new, "actor": "crm"})
    assert (renamed.status_code, renamed.json()["toId"]) == (200, new)
    assert renamed.json()["decisions"][0]["actor"].endswith("/crm")
    for name in (old, new):
        found = (
            await http.get(f"{DATA}/{name}?include_visits=true&include_events_detail=true&include_events=true")
        ).json()
        assert (found["identityId"], found["entityInCS"]) == (new, contact)
        assert found.get("redirectedFrom") == (old if name == old else None)
        assert (sorted(found["visitIDs"] if "visitIDs" in found else found["visitIds"])) == sorted(visits)
        assert len(found["events"]) == 4
        assert [one["visitId"] for one in await read(http, f"{DATA}/{name}/visits")] == visits
        events = await read(http, f"{DATA}/{name}/events")
        assert [one["eventName"] for one in events] == ["SignIn", "Bought"] * 2
        assert [one["identityId"] for one in await read(http, f"{DATA}/{name}/sessions")] == [old, new]
        context = await read(http, f"{V1}/context?identityId={name}")
        assert (context["status"], context["contact"]["contactId"]) == ("linked", contact)
        assert (context["currentIdentityId"], context["redirectedFrom"]) == (new, old if name == old else None)
        assert {one["identityId"] for one in context["identities"]} == {old, new}
        assert {one["event"]["visitID"] for one in context["events"]} == {*visits}
        assert (await read(http, f"{V1}/identities/{name}/links"))["links"][0]["contactId"] == contact
        listed = await read(http, f"{V1}/renames?identityId={name}")
        assert [(one["fromId"], one["toId"]) for one in listed["redirects"]] == [(old, new)]
    person = await read(http, f"{V1}/contacts/{contact}/person")
    assert {one["identityId"]: one.get("currentIdentityId") for one in person["identities"]} == {old: new, new: None}
    undone = await http.delete(f"{V1}/identities/{old}/rename")
    assert (undone.status_code, undone.json()["toId"]) == (200, None)
    assert [one["visitId"] for one in await read(http, f"{DATA}/{old}/visits")] == visits[:1]
    found = [(await known(http, name)).json() for name in (old, new)]
    assert [(one["identityId"], one["entityInCS"]) for one in found] == [(old, contact), (new, None)]


async def test_a_merged_contact_leads_to_the_other_and_its_interactions(http: httpx.AsyncClient) -> None:
    mark = uuid.uuid4().hex
    gone, stays, person = f"gone-{mark}", f"stays-{mark}", f"person-{mark}"
    for contact in (gone, stays):
        given = {"emailAddresses": [f"{mark}@mail.example"]}
        assert (await http.put(f"{V1}/contacts/{contact}", json=given)).status_code == 200
    await signed_in(http, person, email=f"{mark}@mail.example")
    context = await read(http, f"{V1}/context?email={mark}@mail.example")
    assert (context["status"], len(context["candidates"])) == ("ambiguous", 2)
    reported = {"interactionId": f"call-{mark}", "contactId": gone, "agent": "anna"}
    assert (await http.post(f"{V1}/interactions", json=reported)).status_code == 200
    assert (await http.put(f"{V1}/contacts/{gone}/merge", json={"contactId": "nobody"})).status_code == 404
    merged = await http.put(f"{V1}/contacts/{gone}/merge", json={"contactId": stays})
    assert (merged.status_code, merged.json()["toId"]) == (200, stays)
    assert (await http.put(f"{V1}/contacts/{stays}/merge", json={"contactId": gone})).status_code == 409
    for contact in (gone, stays):
        found = await read(http, f"{V1}/contacts/{contact}")
        assert (found["contactId"], found.get("redirectedFrom")) == (stays, gone if contact == gone else None)
        asked = (f"{V1}/contacts/{contact}/person", f"{V1}/context?contactId={contact}")
        for path in (*asked, f"{V1}/context?email={mark}@mail.example"):
            found = await read(http, path)
            assert found["contact"]["contactId"] == stays, path
            assert [one["identityId"] for one in found["identities"]] == [person], path

        async def has_interaction(contact: str = contact) -> None:
            found = await read(http, f"{V1}/interactions?contactId={contact}")
            assert [one["interactionId"] for one in found["interactions"]] == [f"call-{mark}"]
            context = await read(http, f"{V1}/context?contactId={contact}")
            assert [one["interactionId"] for one in context["interactions"]] == [f"call-{mark}"]

        await eventually(has_interaction)
    listed = await read(http, f"{V1}/merges?contactId={stays}")
    assert [(one["fromId"], one["toId"]) for one in listed["redirects"]] == [(gone, stays)]
    assert (await http.delete(f"{V1}/contacts/{gone}/merge")).status_code == 200
    assert (await read(http, f"{V1}/contacts/{gone}"))["contactId"] == gone
    assert (await read(http, f"{V1}/identities/{person}/links"))["links"][0]["candidateCount"] == 2


async def test_an_export_and_an_erasure_are_of_all_names(http: httpx.AsyncClient) -> None:
    mark = uuid.uuid4().hex
    old, new = f"old-{mark}", f"new-{mark}"
    visits = [await signed_in(http, name) for name in (old, new)]
    assert (await http.put(f"{V1}/identities/{old}/rename", json={"identityId": new})).status_code == 200
    lines = [json.loads(line) for line in (await http.get(f"{V1}/identities/{old}/export")).text.splitlines()]
    assert lines[0]["identity"]["identityId"] == new
    assert [(one["rename"]["fromId"], one["rename"]["toId"]) for one in lines if "rename" in one] == [(old, new)]
    assert sorted(one["visit"]["visitId"] for one in lines if "visit" in one) == sorted(visits)
    erased = await http.delete(f"{V1}/identities/{new}")
    assert erased.status_code == 200, erased.text
    assert (erased.json()["otherNames"], erased.json()["visits"], erased.json()["identityErased"]) == ([old], 2, True)
    for name in (old, new):
        assert (await known(http, name)).status_code == 404
    assert (await read(http, f"{V1}/renames?identityId={old}"))["redirects"] == []


async def test_what_is_no_decision_is_refused(http: httpx.AsyncClient) -> None:
    mark = uuid.uuid4().hex
    names = [f"{letter}-{mark}" for letter in "abc"]
    for path, field in ((f"{V1}/identities", "identityId"), (f"{V1}/contacts", "contactId")):
        end = "rename" if field == "identityId" else "merge"
        for name in names:
            assert (await http.put(f"{V1}/contacts/{name}", json={})).status_code == 200
        same = await http.put(f"{path}/{names[0]}/{end}", json={field: names[0]})
        assert (same.status_code, same.json()["detail"].startswith(f"{field}: must not be")) == (400, True)
        assert (await http.delete(f"{path}/{names[0]}/{end}")).status_code == 409
        for _ in range(2):
            assert (await http.put(f"{path}/{names[0]}/{end}", json={field: names[1]})).status_code == 200
        assert (await http.put(f"{path}/{names[0]}/{end}", json={field: names[2]})).status_code == 409
        assert (await http.put(f"{path}/{names[1]}/{end}", json={field: names[0]})).status_code == 409
        pages, token = [], ""
        listed = f"{V1}/{end}s?page_size=1"
        while True:
            found = await read(http, f"{listed}&page_token={token}")
            pages += [one["fromId"] for one in found["redirects"]]
            token = found["nextPageToken"]
            if not token:
                break
        assert names[0] in pages
        assert pages == sorted(pages)
