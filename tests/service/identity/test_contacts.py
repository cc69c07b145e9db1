"""Contacts, links and persons as the contact center sees them."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from footfall.identity.v1 import contact_pb2, visitor_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_identity import contact_directory
from footfall_identity.contact_directory import ContactDirectory, ContactFilter, ContactsPosition
from footfall_identity.contact_record import ContactRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.relinking import Relinker
from footfall_servicekit.errors import RequestError, details_of
from pymongo import AsyncMongoClient

from tests.tools.contacts import Contacts
from tests.tools.eventually import eventually
from tests.tools.identity import admitted, append, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

LINKED, AMBIGUOUS, UNLINKED = (
    contact_pb2.LINK_STATUS_LINKED,
    contact_pb2.LINK_STATUS_AMBIGUOUS,
    contact_pb2.LINK_STATUS_UNLINKED,
)
BY_EMAIL, BY_HAND = contact_pb2.LINK_RULE_EMAIL_ADDRESS, contact_pb2.LINK_RULE_MANUAL


def contact(contact_id: str, *emails: str, **more: Any) -> pb.UpsertContactRequest:
    return pb.UpsertContactRequest(contact=contact_pb2.Contact(contact_id=contact_id, email_addresses=emails, **more))


async def links_of(stub: Any, identity_id: str) -> list[Any]:
    """Return all links of an identity, read in pages of two."""
    request = pb.ListContactLinksRequest(identity_id=identity_id, page_size=2)
    links: list[Any] = []
    while True:
        answer = await stub.ListContactLinks(request)
        links += answer.links
        if not answer.next_page_token:
            return links
        request.page_token = answer.next_page_token


async def refusal(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return details_of(refused.value)


async def test_a_sign_in_links_to_the_contact_with_the_address_until_a_manual_decision(
    running_identity: Running, redis: Any
) -> None:
    visit_id = new_id()
    event = admitted("SignIn", visit_id, now_ms(), "ann", data={"email": "Ann@shop.example"})
    async with running_identity() as identity, identity.stub() as stub:
        stored = (await stub.UpsertContact(contact("c1", "ann@SHOP.example", title="Dr."))).contact
        assert (await stub.GetContact(pb.GetContactRequest(contact_id="c1"))).contact == stored
        await stub.UpsertContact(contact("c2"))
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
        await append(redis, event)

        async def contact_of_visitor() -> str:
            answer = await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id))
            return str(answer.visitor.contact_id)

        async def is_linked() -> None:
            assert await contact_of_visitor() == "c1"

        await eventually(is_linked)
        [link] = await links_of(stub, "ann")
        assert (link.contact_id, link.status, link.rule, link.actor) == ("c1", LINKED, BY_EMAIL, "rule")
        [evidence] = link.evidence
        assert (evidence.visit_id, evidence.event_id, evidence.attribute) == (visit_id, event.event_id, "EmailAddress")
        assert evidence.attribute_code == contact_pb2.LINK_ATTRIBUTE_EMAIL_ADDRESS

        chosen = pb.LinkContactRequest(identity_id="ann", contact_id="c2", actor="agent")
        assert (await stub.LinkContact(chosen)).link.rule == BY_HAND
        assert (await stub.LinkContact(chosen)).link.actor == "agent"
        assert await contact_of_visitor() == "c2"
        person = await stub.GetPerson(pb.GetPersonRequest(contact_id="c2"))
        assert [i.identity_id for i in person.identities] == ["ann"]
        assert person.identities[0].visit_scope == visitor_pb2.VISITOR_STATE_AUTHENTICATED

        await stub.UpsertContact(contact("c1"))
        unlinked = (await stub.UnlinkContact(pb.UnlinkContactRequest(identity_id="ann", actor="agent"))).link
        assert (unlinked.status, unlinked.contact_id, unlinked.HasField("end_time")) == (UNLINKED, "", False)
        history = await links_of(stub, "ann")
        assert [(each.contact_id, each.actor) for each in history] == [("", "agent"), ("c2", "agent"), ("c1", "rule")]
        assert [each.HasField("end_time") for each in history] == [False, True, True]
        assert history[1].end_time == history[0].create_time
        assert await contact_of_visitor() == ""
        known = await stub.GetIdentity(pb.GetIdentityRequest(identity_id="ann"))
        assert known.identity.contact_id == ""


async def test_a_user_info_with_the_address_of_a_contact_makes_a_candidate_and_no_link(
    running_identity: Running, redis: Any, tmp_path: Path
) -> None:
    sites = tmp_path / "sites.toml"
    sites.write_text('[[site]]\nname = "shop"\n\n[[site]]\nname = "bank"\n')
    data = {"email": "ann@shop.example"}
    named = admitted("UserInfo", new_id(), now_ms(), "ann", site="shop", data=data)
    seen = admitted("UserInfo", new_id(), now_ms(), "ann", site="bank")
    async with running_identity(SITES_FILE=sites) as identity, identity.stub() as stub:

        async def statuses(*sites: str) -> list[tuple[int, int]]:
            """Return status and number of candidates in all messages that contain them, which must agree."""
            visit_id = (seen if sites == ("bank",) else named).visit_id
            answers = [
                (await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id, sites=sites))).visitor,
                *(await stub.ListVisitors(pb.ListVisitorsRequest(identity_id="ann", sites=sites))).visitors,
                (await stub.GetIdentity(pb.GetIdentityRequest(identity_id="ann", sites=sites))).identity,
                *(await stub.ListIdentities(pb.ListIdentitiesRequest(sites=sites))).identities,
                *(
                    await stub.BatchGetIdentities(pb.BatchGetIdentitiesRequest(identity_ids=["ann"], sites=sites))
                ).identities,
            ]
            customer = await stub.GetCustomer(pb.GetCustomerRequest(visit_id=visit_id, sites=sites))
            answers += [customer.visitor, *customer.visitors, *(one.identity for one in customer.identities)]
            is_ambiguous = customer.visitor.contact_status == visitor_pb2.CONTACT_STATUS_AMBIGUOUS
            assert bool(customer.candidates) == (is_ambiguous and not sites), "contacts of a UserInfo do not match"
            assert {one.contact_id for one in answers} <= {"", "c1"}
            return sorted({(one.contact_status, one.contact_candidate_count) for one in answers})

        async def become(status: int, candidates: int, *sites: str) -> None:
            async def has_become() -> None:
                assert await statuses(*sites) == [(status, candidates)]

            await eventually(has_become)

        for event in (named, seen):
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
            await append(redis, event)
        await become(visitor_pb2.CONTACT_STATUS_NONE, 0)
        await stub.UpsertContact(contact("c1", "Ann@Shop.example"))
        await become(visitor_pb2.CONTACT_STATUS_RECOGNIZED_ONLY, 1)
        await become(visitor_pb2.CONTACT_STATUS_RECOGNIZED_ONLY, 0, "shop")
        await become(visitor_pb2.CONTACT_STATUS_NONE, 0, "bank")
        [link] = await links_of(stub, "ann")
        assert (link.status, link.contact_id, list(link.candidate_contact_ids)) == (UNLINKED, "", ["c1"])
        assert (link.evidence[0].event_id, link.rule) == (named.event_id, BY_EMAIL)
        await stub.UpsertContact(contact("c2", "ann@shop.example"))
        await become(visitor_pb2.CONTACT_STATUS_RECOGNIZED_ONLY, 2)

        signed_in = admitted("SignIn", named.visit_id, now_ms(), "ann", site="shop", data=data)
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[signed_in]))
        await append(redis, signed_in)
        await become(visitor_pb2.CONTACT_STATUS_AMBIGUOUS, 2)
        await become(visitor_pb2.CONTACT_STATUS_AMBIGUOUS, 0, "bank")
        await stub.DeleteContact(pb.DeleteContactRequest(contact_id="c2"))
        for sites_seen in ((), ("shop",), ("bank",)):
            await become(visitor_pb2.CONTACT_STATUS_LINKED, 0, *sites_seen)
        person = await stub.GetPerson(pb.GetPersonRequest(contact_id="c1"))
        assert [one.contact_status for one in person.identities] == [visitor_pb2.CONTACT_STATUS_LINKED]
        for sites_seen, visits in (((), {named.visit_id, seen.visit_id}), (("bank",), {seen.visit_id})):
            listed = await stub.ListVisitors(pb.ListVisitorsRequest(contact_id="c1", sites=sites_seen))
            assert {one.visit_id for one in listed.visitors} == visits
        await stub.UpsertContact(contact("c3"))
        assert await found(stub, contact_ids=["c3", "c1"]) == ["c1", "c3"]
        assert await found(stub, contact_ids=["c3", "c1"], sites=["bank"]) == ["c1"], "c3 was not seen there"


async def found(stub: Any, page_size: int = 50, **filters: Any) -> list[str]:
    """Return the ids of all contacts that a search finds, in the order of the pages."""
    request = pb.ListContactsRequest(page_size=page_size, **filters)
    ids: list[str] = []
    while True:
        answer = await stub.ListContacts(request)
        assert len(answer.contacts) <= page_size
        ids += [one.contact_id for one in answer.contacts]
        if not answer.next_page_token:
            return ids
        request.page_token = answer.next_page_token


async def is_searchable(stub: Any) -> bool:
    """Whether identity has made its indexes after its start."""
    try:
        await stub.ListContacts(pb.ListContactsRequest(name="a"))
    except grpc.aio.AioRpcError as error:
        if details_of(error).reason != "INDEX_BEING_BUILT":
            raise
        return False
    return True


async def test_contacts_are_found_by_address_number_and_beginnings_of_names(running_identity: Running) -> None:
    async with running_identity(IDENTITY_PHONE_REGION="DE") as identity, identity.stub() as stub:
        phone = {"phone_numbers": ["030 1234567"]}
        await stub.UpsertContact(contact("a", "Ann@Shop.example", first_name="Anna", last_name="Özgür", **phone))
        await stub.UpsertContact(contact("b", "ann@shop.example", first_name="Ozan", last_name="Lee-Annand"))
        await stub.UpsertContact(contact("c"))
        await eventually(lambda: is_searchable(stub))
        for filters, ids in (
            ({}, "abc"),
            ({"email": "ANN@shop.EXAMPLE"}, "ab"),
            ({"email": "other@shop.example"}, ""),
            ({"phone": "+49 (30) 123-45 67"}, "a"),
            ({"phone": "030/1234567"}, "a"),
            ({"name": "ozgur"}, "a"),
            ({"name": "ÖZ"}, "ab"),
            ({"name": "ann o"}, "ab"),
            ({"name": "annan"}, "b"),
            ({"name": "nna"}, ""),
            ({"name": "oz", "phone": "030 1234567", "email": "ann@shop.example"}, "a"),
            ({"name": "lee", "phone": "030 1234567"}, ""),
            ({"contact_ids": ["c", "a", "none", "c", "x" * 999]}, "ac"),
            ({"contact_ids": ["c", "b"], "name": "ann"}, "b"),
        ):
            assert await found(stub, 1, **filters) == [*ids], filters
        await stub.UpsertContact(contact("a", first_name="Kim"))
        await stub.DeleteContact(pb.DeleteContactRequest(contact_id="b"))
        assert await found(stub, contact_ids=["b", "c"]) == ["c"]
        assert await found(stub, name="oz") == await found(stub, email="ann@shop.example") == []
        assert await found(stub, name="kim") == ["a"]
        assert await found(stub) == ["a", "c"]
        bad = pb.ListContactsRequest(email="ann", phone="1", name="?", contact_ids=["a"] * 1_001)
        wrong = (await refusal(stub.ListContacts(bad))).violations
        assert [field for field, _ in wrong] == ["email", "phone", "name", "contact_ids"]


async def test_a_contact_of_an_earlier_version_is_found_after_it_got_its_search_keys(
    links: LinkStore, contacts: Contacts
) -> None:
    directory = ContactDirectory(links)
    for number in range(120):
        current = await contacts.upsert(ContactRecord(contact_id=f"{number:03}", first_name="Kim", last_name="Lee"))
        stored = await links.contact(current.contact_id)
        former = msgspec.structs.replace(current, search_keys=(), is_stale=False)
        assert await links.replace_contacts([(stored, former)])

    async def ids() -> list[str]:
        page = await directory.find(ContactFilter(words=("lee",)), [], ContactsPosition(), 1_000)
        return [one.contact_id for one in page.contacts]

    with pytest.raises(RequestError, match="contacts are being made ready for searches"):
        await ids()
    await asyncio.gather(directory.complete(), directory.complete())
    assert await ids() == [f"{number:03}" for number in range(120)]
    completed = await links.contacts_after("", 1_000)
    assert {(one.is_stale, one.stale_keys == one.keys) for one in completed} == {(True, True)}, "they are linked again"


async def test_what_an_earlier_version_has_left_to_be_linked_is_linked(
    links: LinkStore, contacts: Contacts, relinker: Relinker, mongo_url: str, mongo_database: str
) -> None:
    """It marked contacts without a search key for that, and had an index of its own."""
    await contacts.upsert(ContactRecord(contact_id="a", first_name="Kim"))
    await contacts.upsert(ContactRecord(contact_id="b", first_name="Kim"))
    await relinker.finish()
    async with AsyncMongoClient[Any](mongo_url) as client:
        stored = client[mongo_database]["contacts"]
        await stored.update_one({"_id": "a"}, {"$set": {"is_stale": True, "stale_keys": ["name:kim"]}})
        await stored.create_index("is_stale", sparse=True)
        directory = ContactDirectory(links)
        await asyncio.gather(directory.complete(), directory.complete())
        assert [one.contact_id for one in await links.stale_contacts(10, now_ms() + 1_000)] == ["a"]
        assert "is_stale_1" not in await stored.index_information()
    await relinker.finish()
    linked = await links.contacts_after("", 10)
    assert [(one.is_stale, one.search_keys) for one in linked] == [(False, ("word:k", "word:kim"))] * 2


async def test_a_search_among_many_gives_short_pages_that_name_no_hidden_contact(
    links: LinkStore, contacts: Contacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_directory, "_MAX_EXAMINED", 60)
    for number in range(130):
        last = "Kim" if number == 125 else "Lee"
        await contacts.upsert(ContactRecord(contact_id=f"{number:03}", first_name="Anja", last_name=last))
    directory, conditions = ContactDirectory(links), ContactFilter(words=("anja", "k"))
    await directory.complete()

    async def pages(sites: list[str]) -> list[tuple[list[str], ContactsPosition | None]]:
        passed = []
        position: ContactsPosition | None = ContactsPosition()
        while position:
            page = await directory.find(conditions, sites, position, 10)
            position = page.position
            passed.append(([one.contact_id for one in page.contacts], position))
        return passed

    first, second = ContactsPosition("059"), ContactsPosition("119")
    assert await pages([]) == [([], first), ([], second), (["125"], None)]
    assert await pages(["shop"]) == [([], ContactsPosition("", 60)), ([], ContactsPosition("", 120)), ([], None)]


async def test_a_manual_link_stays_when_another_contact_matches(shared_stub: Any) -> None:
    one, other, email = f"a{new_id()}", f"b{new_id()}", f"{new_id()}@shop.example"
    await shared_stub.UpsertContact(contact(one, email))
    await shared_stub.LinkContact(pb.LinkContactRequest(identity_id=email, contact_id=one, actor="agent"))
    person = await shared_stub.GetPerson(pb.GetPersonRequest(contact_id=one))
    assert [i.identity_id for i in person.identities] == [email]  # linked before it is seen
    assert (
        await refusal(shared_stub.GetIdentity(pb.GetIdentityRequest(identity_id=email)))
    ).resource_type == "Identity"
    await shared_stub.UpsertContact(contact(other, email))
    [link] = await links_of(shared_stub, email)
    assert (link.status, link.rule) == (LINKED, BY_HAND)
    await shared_stub.DeleteContact(pb.DeleteContactRequest(contact_id=one, wait_ms=10_000))
    [now, before] = await links_of(shared_stub, email)
    assert (now.status, before.status) == (UNLINKED, LINKED)


async def test_a_contact_that_is_replaced_keeps_when_it_was_made(shared_stub: Any) -> None:
    contact_id = new_id()
    first = (await shared_stub.UpsertContact(contact(contact_id, "a@shop.example", first_name="Ann"))).contact
    second = (await shared_stub.UpsertContact(contact(contact_id, last_name="Lee"))).contact
    assert (second.email_addresses, second.first_name, second.last_name) == ([], "", "Lee")
    assert second.create_time == first.create_time
    await shared_stub.DeleteContact(pb.DeleteContactRequest(contact_id=contact_id))
    for call in (
        shared_stub.GetContact(pb.GetContactRequest(contact_id=contact_id)),
        shared_stub.DeleteContact(pb.DeleteContactRequest(contact_id=contact_id)),
        shared_stub.GetPerson(pb.GetPersonRequest(contact_id=contact_id)),
        shared_stub.LinkContact(pb.LinkContactRequest(identity_id="x", contact_id=contact_id, actor="agent")),
    ):
        details = await refusal(call)
        assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, "Contact")


async def test_all_problems_of_a_contact_are_reported_together(shared_stub: Any) -> None:
    bad = contact(
        "", "ann@shop.example", "no address", phone_numbers=["+49 30 1234567", "030 1234567"], first_name="x" * 257
    )
    details = await refusal(shared_stub.UpsertContact(bad))
    assert [field for field, _ in details.violations] == [
        "contact.contact_id",
        "contact.email_addresses[1]",
        "contact.phone_numbers[1]",
        "contact.first_name",
    ]
    details = await refusal(shared_stub.UpsertContact(contact("c", *["a@shop.example"] * 33)))
    assert details.violations[0][0] == "contact.email_addresses"


@pytest.mark.parametrize(
    ("method", "request_message", "field"),
    [
        ("LinkContact", pb.LinkContactRequest(identity_id="a", contact_id="c"), "actor"),
        ("LinkContact", pb.LinkContactRequest(identity_id="a", actor="x"), "contact_id"),
        ("UnlinkContact", pb.UnlinkContactRequest(actor="x"), "identity_id"),
        ("GetContact", pb.GetContactRequest(), "contact_id"),
        ("DeleteContact", pb.DeleteContactRequest(contact_id="c", wait_ms=-1), "wait_ms"),
        ("ListContactLinks", pb.ListContactLinksRequest(identity_id="a", page_token="!"), "page_token"),
        ("ListVisitors", pb.ListVisitorsRequest(state=7), "state"),  # type: ignore[arg-type]
        ("EraseIdentity", pb.EraseIdentityRequest(identity_id="a"), "actor"),
    ],
)
async def test_bad_requests_are_answered_with_the_field(
    shared_stub: Any, method: str, request_message: Any, field: str
) -> None:
    details = await refusal(getattr(shared_stub, method)(request_message))
    assert details.code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.violations[0][0] == field


async def test_an_unlinked_identity_cannot_be_unlinked(shared_stub: Any) -> None:
    details = await refusal(shared_stub.UnlinkContact(pb.UnlinkContactRequest(identity_id=new_id(), actor="agent")))
    assert (details.code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_LINKED")
    details = await refusal(shared_stub.ListContactLinks(pb.ListContactLinksRequest(identity_id=new_id())))
    assert details.resource_type == "Identity"
