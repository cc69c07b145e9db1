"""Footfall's own operations over the running suite: live visitors, explanations, contacts, links, export, erasure."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, live_state, now_ms

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


def new_person() -> str:
    return f"dana/{uuid.uuid4().hex[:12]}@example.com"


async def signed_in(http: httpx.AsyncClient, person: str, **data: Any) -> str:
    """A visit in which this person signs in; the id of the visit."""
    visit = str(uuid.uuid4())
    events = [event("PageEntered", visit, now_ms() - 2), event("SignIn", visit, now_ms() - 1, person, data=data)]
    assert (await http.post("/beacon", json=events)).status_code == 204

    async def is_known() -> bool:
        answers = [
            await http.get(path)
            for path in (f"/server/data/identities/{quote(person, safe='')}", f"/server/data/visits/{visit}/identities")
        ]
        return [answer.status_code for answer in answers] == [200, 200]

    await eventually(is_known)
    return visit


async def test_the_live_state_of_a_visitor(http: httpx.AsyncClient) -> None:
    visit, at_ms = str(uuid.uuid4()), now_ms()
    entered = event("PageEntered", visit, at_ms, data={"title": "Loans"})
    assert (await http.post("/beacon", json=entered)).status_code == 204
    assert await live_state(http, visit) == {
        "visitId": visit,
        "globalVisitId": None,
        "site": "default",
        "state": "ANONYMOUS",
        "identityId": None,
        "sessionId": None,
        "contactId": None,
        "contactStatus": "NONE",
        "contactCandidates": 0,
        "lastEventTime": at_ms,
        "presence": "PRESENT",
        "leaveTime": None,
        "openPageCount": 1,
        "url": "https://shop.example/loans",
        "title": "Loans",
        "pageEnterTime": at_ms,
        "assurance": None,
        "staff": False,
        "bot": False,
        "notableEvents": [],
    }


async def test_visitors_are_listed_by_state_in_pages(http: httpx.AsyncClient) -> None:
    visits = [await signed_in(http, new_person()) for _ in range(3)]
    found: list[str] = []
    query: dict[str, str] = {"state": "AUTHENTICATED", "page_size": "2"}
    while len(found) < 500:
        answer = (await http.get("/api/v1/visitors", params=query)).json()
        found += [visitor["visitId"] for visitor in answer["visitors"]]
        assert {visitor["state"] for visitor in answer["visitors"]} <= {"AUTHENTICATED"}
        if not answer["nextPageToken"]:
            break
        query["page_token"] = answer["nextPageToken"]
    assert set(visits) <= set(found)
    assert len(found) == len(set(found))


async def test_visitors_are_found_by_identity_device_site_and_presence(http: httpx.AsyncClient) -> None:
    person, device, at_ms = new_person(), str(uuid.uuid4()), now_ms()
    visits = [str(uuid.uuid4()) for _ in range(3)]
    events = [
        event("SignIn", visits[0], at_ms - 2, person) | {"globalVisitID": device},
        event("PageEntered", visits[1], at_ms - 1) | {"globalVisitID": device},
        event("PageEntered", visits[2], at_ms - 60_000) | {"globalVisitID": device},
        event("PageExited", visits[2], at_ms - 59_000) | {"globalVisitID": device},
    ]
    assert (await http.post("/beacon", json=events)).status_code == 204

    async def found(**query: Any) -> list[int]:
        answer = await http.get("/api/v1/visitors", params=query)
        return [visits.index(visitor["visitId"]) for visitor in answer.json()["visitors"]]

    async def are_there() -> None:
        assert await found(globalVisitId=device) == [1, 0]

    await eventually(are_there)
    assert await found(identityId=person) == [0]
    assert await found(identityId=person, state=["ANONYMOUS", "RECOGNIZED"]) == []
    assert await found(globalVisitId=device, state=["ANONYMOUS", "AUTHENTICATED"]) == [1, 0]
    assert await found(globalVisitId=device, presence=["LEFT"]) == [2]
    assert await found(globalVisitId=device, presence=["LEFT", "PRESENT"], site=["default", "other"]) == [1, 0, 2]
    assert await found(globalVisitId=device, site="other") == []
    assert await found(contactId="nobody") == []


async def test_a_visit_is_explained(http: httpx.AsyncClient) -> None:
    person = new_person()
    visit = await signed_in(http, person)
    explained = (await http.get(f"/api/v1/visits/{visit}/explain")).json()
    assert (explained["visitId"], explained["state"], explained["identityId"]) == (visit, "AUTHENTICATED", person)
    [step] = explained["transitions"]
    assert (step["rule"], step["assurance"]) == ("sign_in.opens_session", "claimed")
    assert step["effect"]
    assert [evidence["eventName"] for evidence in step["evidence"]] == ["SignIn"]
    assert (step["before"]["state"], step["after"]["state"]) == ("ANONYMOUS", "AUTHENTICATED")
    assert step["after"]["identityId"] == person
    assert explained["truncated"] is False


async def test_a_contact_is_stored_replaced_and_removed(http: httpx.AsyncClient) -> None:
    path = f"/api/v1/contacts/{quote(f'C/{uuid.uuid4()}', safe='')}"
    assert (await http.get(path)).status_code == 404
    body = {"emailAddresses": [f"{uuid.uuid4().hex}@example.com"], "firstName": "Dana", "lastName": "Čech"}
    stored = await http.put(path, json=body)
    assert stored.status_code == 200, stored.text
    assert {key: stored.json()[key] for key in body} == body
    assert (await http.get(path)).json() == stored.json()
    listed = {key: value for key, value in stored.json().items() if key != "pendingIdentityCount"}
    for query in (
        {"email": body["emailAddresses"][0].upper()},
        {"name": "DAN cech", "email": body["emailAddresses"][0]},
    ):
        found = await http.get("/api/v1/contacts", params=query)
        assert found.json() == {"contacts": [listed], "nextPageToken": None}
    assert (await http.put(path, json={"lastName": "Novák"})).json()["emailAddresses"] == []
    assert (await http.delete(path)).status_code == 204
    assert (await http.get(path)).status_code == 404
    refused = await http.put(path, json={"emailAddresses": ["not an address"]})
    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/problem+json")
    assert refused.json()["detail"].startswith("emailAddresses")
    refused = await http.get("/api/v1/contacts", params={"email": "ann", "phone": "1"})
    rules = "email: must be an e-mail address; phone: must be a telephone number, with + and country code"
    assert (refused.status_code, refused.json()["detail"]) == (400, rules)
    refused = await http.get("/api/v1/contacts", params={"mail": "ann@example.com"})
    rule = "is not a parameter of this operation; use email, phone, name, contactId, page_size, page_token"
    assert (refused.status_code, refused.json()["detail"]) == (400, f"mail: {rule}")


async def test_a_part_of_a_contact_is_changed_and_only_if_it_is_as_it_was_read(http: httpx.AsyncClient) -> None:
    path = f"/api/v1/contacts/{uuid.uuid4()}"
    assert (await http.patch(path, json={"title": "Dr."})).status_code == 404
    made = await http.patch(path, params={"allow_missing": "true"}, json={"title": "Dr.", "firstName": "Ann"})
    assert made.headers["etag"] == f'"{made.json()["etag"]}"'
    etag, key = made.headers["etag"], str(uuid.uuid4())
    patch = b'{"title": null, "phoneNumbers": ["+49301234567"]}'
    headers = {"Content-Type": "application/merge-patch+json", "If-Match": etag, "Idempotency-Key": key}
    changed = await http.patch(path, content=patch, headers=headers)
    assert changed.json() == made.json() | {
        "title": "",
        "phoneNumbers": ["+49301234567"],
        "etag": changed.json()["etag"],
    }
    assert (await http.patch(path, json={})).json() == changed.json() == (await http.get(path)).json()
    assert (await http.patch(path, content=patch, headers=headers)).json() == changed.json()
    other_key = headers | {"Idempotency-Key": str(uuid.uuid4())}
    for late in (
        await http.patch(path, content=patch, headers=other_key),
        await http.put(path, json={}, headers={"If-Match": etag}),
        await http.delete(path, headers={"If-Match": f"W/{etag}"}),
    ):
        assert late.status_code == 412
    for body, headers, wrong in (
        ({"name": "Ann"}, {}, "body"),
        ({"phoneNumbers": ["+4930abc"]}, {}, "phoneNumbers[0]"),
        ({}, {"If-Match": "0"}, "If-Match"),
        ({}, {"If-Match": '"a", "b"'}, "If-Match"),
        ({}, {"Idempotency-Key": "x"}, "Idempotency-Key"),
    ):
        refused = await http.patch(path, json=body, headers=headers)
        assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (400, wrong), refused.text
    assert (await http.delete(path, headers={"If-Match": changed.headers["etag"]})).status_code == 204


async def test_a_contact_is_written_only_if_it_exists_or_only_if_it_does_not(http: httpx.AsyncClient) -> None:
    path, known, new = f"/api/v1/contacts/{uuid.uuid4()}", {"If-Match": "*"}, {"If-None-Match": "*"}
    assert (await http.put(path, json={}, headers=known)).status_code == 412
    assert (await http.get(path)).status_code == 404
    made = await http.put(path, json={"title": "Dr."}, headers=new)
    assert (made.status_code, made.headers["etag"]) == (200, (await http.get(path)).headers["etag"])
    for headers in (new, {"If-Match": '"other"'}, {"If-Match": '"*"'}, {"If-Match": '""'}):
        assert (await http.put(path, json={}, headers=headers)).status_code == 412
    assert (await http.get(path)).json() == made.json()
    changed = await http.patch(path, json={"title": "Prof."}, headers=known)
    assert (changed.status_code, changed.headers["etag"]) == (200, (await http.get(path)).headers["etag"])
    refused = await http.put(path, json={}, headers={"If-None-Match": changed.headers["etag"]})
    assert (refused.status_code, refused.json()["detail"].partition(":")[0]) == (400, "If-None-Match")
    assert (await http.delete(path, headers=known)).status_code == 204
    assert (await http.delete(path, headers=known)).status_code == 404


async def test_a_batch_of_contacts_has_an_outcome_for_each(http: httpx.AsyncClient) -> None:
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    contacts = [{"contactId": good, "lastName": "Lee"}, {"contactId": bad, "phoneNumbers": ["+4930abc"]}]
    answer = await http.post("/api/v1/contacts:batch", json={"contacts": contacts})
    first, second = answer.json()["outcomes"]
    assert first == {
        "result": "created",
        "violations": [],
        "etag": (await http.get(f"/api/v1/contacts/{good}")).json()["etag"],
    }
    assert (second["result"], second["violations"][0]["field"]) == ("invalid", "phoneNumbers[0]")
    listed = await http.get("/api/v1/contacts", params={"contactId": [bad, good]})
    assert [one["contactId"] for one in listed.json()["contacts"]] == [good]
    answer = await http.post("/api/v1/contacts:batchDelete", json={"contactIds": [good, bad]})
    assert [one["result"] for one in answer.json()["outcomes"]] == ["deleted", "not_found"]


async def test_a_person_is_linked_by_rule_and_by_hand_and_unlinked(http: httpx.AsyncClient) -> None:
    person = new_person()
    visit = await signed_in(http, person)
    by_mail, by_hand = f"C-{uuid.uuid4()}", f"C-{uuid.uuid4()}"
    assert (await http.put(f"/api/v1/contacts/{by_hand}", json={"lastName": "Other"})).status_code == 200
    assert (await http.put(f"/api/v1/contacts/{by_mail}", json={"emailAddresses": [person]})).status_code in {200, 400}
    identity = f"/api/v1/identities/{quote(person, safe='')}"

    linked = await http.put(f"{identity}/contact", json={"contactId": by_hand, "actor": "agent 7"})
    assert linked.status_code == 200, linked.text
    assert (linked.json()["contactId"], linked.json()["status"], linked.json()["rule"]) == (by_hand, "linked", "manual")
    assert linked.json()["actor"].endswith("/agent 7")
    known = (await http.get(f"/server/data/identities/{quote(person, safe='')}")).json()
    assert known["entityInCS"] == by_hand

    found = (await http.get(f"/api/v1/contacts/{by_hand}/person")).json()
    assert found["contact"]["lastName"] == "Other"
    assert [(one["identityId"], one["visitIds"]) for one in found["identities"]] == [(person, [visit])]

    assert (await http.delete(f"{identity}/contact")).status_code == 204
    links = (await http.get(f"{identity}/links")).json()
    assert links["nextPageToken"] is None
    assert by_hand in [link["contactId"] for link in links["links"]]
    assert links["links"][0]["endTime"] is None
    assert all(link["endTime"] for link in links["links"][1:])
    missing = await http.put(f"{identity}/contact", json={"contactId": "nobody's"})
    assert missing.status_code == 404


async def test_an_export_holds_everything_one_object_a_line(http: httpx.AsyncClient) -> None:
    person = new_person()
    visit = await signed_in(http, person, email="dana@example.com")
    contact = f"C-{uuid.uuid4()}"
    assert (await http.put(f"/api/v1/contacts/{contact}", json={"lastName": "Novák"})).status_code == 200
    identity = f"/api/v1/identities/{quote(person, safe='')}"
    assert (await http.put(f"{identity}/contact", json={"contactId": contact})).status_code == 200
    path = f"{identity}/export"
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0]["identity"]["identityId"] == person
    assert lines[0]["profile"]["email"] == "dana@example.com"
    kinds = [next(iter(line)) for line in lines[1:]]
    assert {"visit", "session", "event"} <= set(kinds)
    assert [line["visit"]["visitId"] for line in lines if "visit" in line] == [visit]
    [of_visit] = [line for line in lines if "visit" in line]
    assert (of_visit["site"], of_visit["userAgent"]["userAgent"]) == ("default", http.headers["User-Agent"])
    [sign_in, page] = [line for line in lines if "event" in line]
    assert [sign_in["event"]["eventName"], page["event"]["eventName"]] == ["SignIn", "PageEntered"]
    assert (sign_in["assurance"], sign_in["assuranceReason"], sign_in["site"]) == ("claimed", "no_key", "default")
    assert sign_in["network"]
    assert [line["stamp"]["identityId"] for line in (sign_in, page)] == [person, None]
    assert [line["contact"]["lastName"] for line in lines if "contact" in line] == ["Novák"]
    assert (await http.get("/api/v1/identities/nobody/export")).status_code == 404


async def test_an_erased_person_is_nowhere(http: httpx.AsyncClient) -> None:
    person = new_person()
    visit = await signed_in(http, person, secret="of hers")
    identity = quote(person, safe="")
    erased = await http.delete(f"/api/v1/identities/{identity}")
    assert erased.status_code == 200, erased.text
    assert erased.json()["identityErased"] is True
    assert (erased.json()["history"], erased.json()["visits"], erased.json()["events"]) == ("done", 1, 2)
    assert erased.json()["logCleanTime"] > now_ms()
    assert (await http.get(f"/server/data/identities/{identity}")).status_code == 404
    assert person not in (await http.get(f"/server/data/visits/{visit}/events")).text
    assert (await http.get(f"/api/v1/visits/{visit}/visitor")).json()["identityId"] is None
    again = await http.delete(f"/api/v1/identities/{identity}")
    assert (again.status_code, again.json()["identityErased"]) == (200, False)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/visits/{UNKNOWN}/visitor", 404),
        ("/visits/x/visitor", 404),
        (f"/visits/{UNKNOWN}/explain", 404),
        (f"/receipts/{UNKNOWN}/{UNKNOWN}", 404),
        (f"/receipts/{UNKNOWN}/x", 404),
        ("/contacts/nobody", 404),
        ("/contacts/nobody/person", 404),
        ("/visitors?state=anonymous", 400),
        ("/visitors?state=ANONYMOUS&state=x", 400),
        ("/visitors?presence=gone", 400),
        ("/visitors?globalVisitId=x", 400),
        ("/visitors?page_size=0", 400),
        ("/visitors?page_token=x", 400),
        ("/visitors?contactID=c-1001", 400),
        ("/contacts/nobody?site=shop", 400),
        ("/contacts?email=ann", 400),
        ("/nothing", 404),
    ],
)
async def test_errors_are_problem_details(http: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await http.get(f"/api/v1{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert list(answer.json()) == ["type", "title", "status", "detail"]
    assert answer.json()["status"] == status
