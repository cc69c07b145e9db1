"""Contacts, links and persons as the contact center sees them."""

from typing import Any

import grpc
import pytest
from footfall.identity.v1 import contact_pb2, visitor_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_servicekit.errors import details_of

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
    await shared_stub.DeleteContact(pb.DeleteContactRequest(contact_id=one))
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
