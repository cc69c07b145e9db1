"""A customer calls: one call shows the contact, the live visit and what came before the sign-in."""

import re
import uuid
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from footfall.event.v1 import event_pb2
from footfall.history.v1 import customer_context_pb2 as parts
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import contact_pb2
from footfall_eventlog.site_groups import SiteGroups
from footfall_history.identity_client import IdentityClient
from footfall_history.queries.customer_context import CustomerContexts
from footfall_history.queries.interactions import InteractionReader
from footfall_history.queries.reader import Reader
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.errors import details_of

from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

HALF_HOUR_MS = 30 * 60_000
SHOP = "https://shop.example"


async def context(http: httpx.AsyncClient, **customer: str) -> dict[str, Any]:
    """What /api/v1/context answers."""
    answer = await http.get("/api/v1/context", params=customer)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_caller_is_shown_with_the_pages_before_the_sign_in(suite: Suite) -> None:
    contact, visit, other, at_ms = f"contact-{uuid.uuid4()}", str(uuid.uuid4()), str(uuid.uuid4()), now_ms() - 60_000
    person, phone = f"{uuid.uuid4()}@mail.example", f"+4930{uuid.uuid4().int % 10**8:08d}"
    pages = [
        event("PageEntered", visit, at_ms + n * 1_000, pageID=uuid.uuid4().hex, url=f"{SHOP}/{n}") for n in range(12)
    ]
    events = [
        *pages,
        event("AddToCart", visit, at_ms + 500),
        event("Heartbeat", visit, at_ms + 501),
        event("SignIn", visit, at_ms + 10_500, person),
        event("Checkout", visit, at_ms + 11_500, url=f"{SHOP}/11"),
        event("SignIn", other, at_ms, "somebody.else"),
        event("PageEntered", other, at_ms + 1, pageID=uuid.uuid4().hex, url=f"{SHOP}/other"),
        event("SignIn", other, at_ms + 5_000, person),
    ]
    async with suite.http() as http:
        body = {"emailAddresses": [person], "phoneNumbers": [phone]}
        assert (await http.put(f"/api/v1/contacts/{contact}", json=body)).status_code == 200
        assert (await http.post("/beacon", json=events)).status_code == 204
        async with suite.channel("history") as channel:
            history = HistoryServiceStub(channel)

            async def complete() -> pb.GetCustomerContextResponse:
                found = await history.GetCustomerContext(pb.GetCustomerContextRequest(phone=phone))
                assert [one.page.url for one in found.pages] == [f"{SHOP}/{n}" for n in range(11, 1, -1)]
                assert {one.visitor.visit_id for one in found.visits} == {visit, other}
                return found

            found = await eventually(complete)
            assert (found.status, found.rule) == (parts.CONTEXT_STATUS_LINKED, contact_pb2.LINK_RULE_PHONE_NUMBER)
            assert found.explanation == "One contact has this telephone number."
            assert found.contact.contact_id == contact
            assert [one.identity.identity_id for one in found.identities] == [person]
            assert found.identities[0].link.rule == contact_pb2.LINK_RULE_EMAIL_ADDRESS
            assert [one.before_sign_in for one in found.pages] == [False, *[True] * 9]
            named = [(one.event.event.event_name, one.before_sign_in) for one in found.events]
            assert named == [("Checkout", False), ("AddToCart", True)]
            [live] = [one for one in found.visits if one.visitor.visit_id == visit]
            assert live.visitor.url == f"{SHOP}/11"
            assert live.page_start_time == found.pages[0].page.start_time
            assert not found.unavailable_parts
            assert not found.truncated
            by_identity = await history.GetCustomerContext(pb.GetCustomerContextRequest(identity_id=person))
            assert by_identity.assurance == event_pb2.ASSURANCE_CLAIMED
            assert (by_identity.contact, by_identity.pages) == (found.contact, found.pages)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await history.GetCustomerContext(pb.GetCustomerContextRequest(phone="1"))
            assert [name for name, _ in details_of(raised.value).violations] == ["phone"]
        shown = await context(http, phone=phone)
        assert (shown["status"], shown["contact"]["contactId"]) == ("linked", contact)
        assert [one["beforeSignIn"] for one in shown["pages"]] == [False, *[True] * 9]
        assert [one["event"]["eventName"] for one in shown["events"]] == ["Checkout", "AddToCart"]
        assert await context(http, visitId=visit) == await context(http, identityId=person)
        unknown = await context(http, email="nobody@mail.example")
        assert (unknown["status"], unknown["contact"], unknown["visits"], unknown["pages"]) == ("none", None, [], [])
        for wrong in ({}, {"phone": phone, "email": person}):
            refused = await http.get("/api/v1/context", params=wrong)
            assert (refused.status_code, "exactly one of phone" in refused.text) == (400, True)


async def test_several_contacts_with_one_number_and_an_anonymous_visit(suite: Suite) -> None:
    phone, visit, at_ms = f"+4930{uuid.uuid4().int % 10**8:08d}", str(uuid.uuid4()), now_ms() - 60_000
    contacts = sorted(f"contact-{uuid.uuid4()}" for _ in range(2))
    entered = event("PageEntered", visit, at_ms, pageID=uuid.uuid4().hex, url=f"{SHOP}/alone")
    async with suite.http() as http:
        for contact in contacts:
            assert (await http.put(f"/api/v1/contacts/{contact}", json={"phoneNumbers": [phone]})).status_code == 200
        assert (await http.post("/beacon", json=[entered])).status_code == 204
        found = await context(http, phone=phone)
        assert (found["status"], found["rule"], found["visits"]) == ("ambiguous", "PhoneNumber", [])
        assert [one["contactId"] for one in found["candidates"]] == contacts

        async def complete() -> None:
            found = await context(http, visitId=visit)
            assert (found["status"], found["identities"]) == ("unlinked", [])
            assert [one["visitor"]["url"] for one in found["visits"]] == [f"{SHOP}/alone"]
            assert [one["beforeSignIn"] for one in found["pages"]] == [False]

        await eventually(complete)


async def test_a_code_that_the_visitor_reads_finds_an_anonymous_visit_for_one_agent(suite: Suite) -> None:
    visit, at_ms = str(uuid.uuid4()), now_ms() - 60_000
    entered = event("PageEntered", visit, at_ms, pageID=uuid.uuid4().hex, url=f"{SHOP}/cart")
    async with suite.http() as http, suite.http(auth=None) as page, suite.channel("history") as channel:
        history = HistoryServiceStub(channel)

        async def asked(code: str, actor: str, *sites: str) -> pb.GetCustomerContextResponse:
            return await history.GetCustomerContext(pb.GetCustomerContextRequest(code=code, actor=actor, sites=sites))

        assert (await http.post("/visit-code", params={"visitID": visit})).status_code == 404
        for wrong in ("", "x", visit + "0", f"{visit}\n", "{visit}", "\u0663" * 32, "0" * 10_000):
            refused = await http.post("/visit-code", params={"visitID": wrong})
            assert (refused.status_code, "visitID" in refused.text) == (400, True), wrong
        assert (await http.post("/beacon", json=[entered])).status_code == 204

        async def given() -> dict[str, Any]:
            answer = await page.post("/visit-code", params={"visitID": visit}, headers={"origin": SHOP})
            assert answer.status_code == 200, answer.text
            assert answer.headers["access-control-allow-origin"] == SHOP
            return dict(answer.json())

        code: str = (await eventually(given))["code"]
        mark = uuid.uuid4().hex
        assert (await asked(code, f"{mark}-of-a-bank", "bank")).status == parts.CONTEXT_STATUS_NOT_FOUND

        async def complete() -> None:
            found = await asked(code, f"{mark}-anna")
            assert (found.status, found.visits[0].visitor.visit_id) == (parts.CONTEXT_STATUS_UNLINKED, visit)
            assert [one.page.url for one in found.pages] == [f"{SHOP}/cart"]

        await eventually(complete)
        of_other = await asked(code, f"{mark}-ben")
        assert of_other.status == parts.CONTEXT_STATUS_NOT_FOUND
        assert [*of_other.visits, *of_other.pages] == []
        assert of_other.explanation == "No visit has this code, or it was used, or it has expired."
        new = (await given())["code"]  # the first one was used
        assert new != code
        shown = await context(http, code=new)
        assert (shown["status"], shown["visits"][0]["visitor"]["visitId"]) == ("unlinked", visit)
        sign_in = event("SignIn", visit, now_ms(), f"{mark}@x.example")
        assert (await http.post("/beacon", json=[sign_in])).status_code == 204
        assert [one["identityId"] for one in (await context(http, code=new))["identities"]] == [f"{mark}@x.example"]
        for number in range(10):  # five in one minute, or more if another one begins meanwhile
            wrong = f"{(int(new) + 1 + number) % 10**6:06}"
            answer = await http.get("/api/v1/context", params={"code": wrong})
            if answer.status_code == 429:
                break
            assert (number < 9, answer.json()["status"]) == (True, "none")
        refused = await http.get("/api/v1/context", params={"code": new})
        assert (refused.status_code, 1 <= int(refused.headers["retry-after"]) <= 60) == (429, True)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asked("12345\u0663", "anna")
        assert [name for name, _ in details_of(raised.value).violations] == ["code"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asked(new, "")
        assert [name for name, _ in details_of(raised.value).violations] == ["actor"]
    log = "".join((suite.data_dir / "log" / f"{name}.log").read_text() for name in ("gateway", "identity", "history"))
    assert f'"{mark}-ben"' in log
    assert not {code, new} & set(re.findall(r"\d+", log))


async def test_without_the_store_of_history_the_contact_and_the_live_visit_are_shown(suite: Suite) -> None:
    contact, visit, person = f"contact-{uuid.uuid4()}", str(uuid.uuid4()), f"{uuid.uuid4()}@mail.example"
    [unused_port] = free_ports(1)
    store = Store.open(f"mongodb://127.0.0.1:{unused_port}", "none", 100)
    identity = IdentityClient(suite.targets["identity"], 2_000)
    interactions = InteractionReader(store, Tombstones(store, ""), identity, max_visits=10)
    contexts = CustomerContexts(
        store, Reader(store, HALF_HOUR_MS), identity, interactions, SiteGroups(), timeout_ms=1_000, idle_ms=HALF_HOUR_MS
    )
    async with suite.http() as http:
        assert (await http.put(f"/api/v1/contacts/{contact}", json={"emailAddresses": [person]})).status_code == 200
        assert (await http.post("/beacon", json=[event("SignIn", visit, now_ms(), person)])).status_code == 204

    async def complete() -> None:
        call: Any = SimpleNamespace(time_remaining=lambda: None)
        found = await contexts.find(pb.GetCustomerContextRequest(contact_id=contact), call)
        assert [one.visitor.visit_id for one in found.visits] == [visit]
        lacking = [parts.CONTEXT_PART_VISITS, parts.CONTEXT_PART_PAGES, parts.CONTEXT_PART_EVENTS]
        lacking.append(parts.CONTEXT_PART_INTERACTIONS)
        assert (found.status, [*found.unavailable_parts]) == (parts.CONTEXT_STATUS_LINKED, lacking)

    await eventually(complete, timeout=20)
    await identity.close()
    await store.close()
