"""Results that exceed one message (4 MiB) come in several."""

from typing import Any

import grpc
import pytest
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.match_keys import Rule
from footfall_identity.identity_record import Decision, IdentityRecord, ProfileValue
from footfall_identity.link_store import LinkStore
from footfall_identity.matching import Status
from footfall_servicekit.errors import details_of

from tests.tools.identity import admitted, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

LARGE_PROFILE = tuple(ProfileValue(f"key {number:02}", f'"{"x" * 4_000}"', f"{1:013d}") for number in range(100))
PEOPLE = [f"person {number:02}" for number in range(15)]
"""With large profiles they take 6 MB together."""


async def store(links: LinkStore, *records: IdentityRecord) -> None:
    for start in range(0, len(records), 50):
        assert await links.replace([(None, record) for record in records[start : start + 50]])


async def make_contact(stub: Any, contact_id: str) -> None:
    await stub.UpsertContact(pb.UpsertContactRequest(contact=contact_pb2.Contact(contact_id=contact_id)))


async def walk(method: Any, request: Any, field: str) -> list[list[Any]]:
    """Return the pages of a list."""
    pages = []
    while True:
        answer = await method(request)
        pages.append(list(getattr(answer, field)))
        if not answer.next_page_token:
            return pages
        request.page_token = answer.next_page_token


async def test_identities_with_large_profiles_are_read_in_several_responses(
    running_identity: Running, links: LinkStore
) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        await make_contact(stub, "one")
        await make_contact(stub, "other")
        large = (IdentityRecord(identity_id=p, first_ms=1, profile=LARGE_PROFILE, contact_id="one") for p in PEOPLE)
        await store(links, *large)

        asked = ["nobody", *PEOPLE[:8], PEOPLE[0], "nobody else", *PEOPLE[8:]]
        known = [person for person in asked if person in PEOPLE]
        answers = []
        while asked:
            answers.append(await stub.BatchGetIdentities(pb.BatchGetIdentitiesRequest(identity_ids=asked)))
            asked = answers[-1].unread_identity_ids
        assert [found.identity_id for answer in answers for found in answer.identities] == known
        assert len(answers) == 4

        of_person = await walk(stub.GetPerson, pb.GetPersonRequest(contact_id="one"), "identities")
        assert [found.identity_id for page in of_person for found in page] == PEOPLE
        all_of_them = await walk(stub.ListIdentities, pb.ListIdentitiesRequest(page_size=1_000), "identities")
        assert [len(page) for page in all_of_them] == [len(page) for page in of_person] == [5, 5, 5]

        first = await stub.GetPerson(pb.GetPersonRequest(contact_id="one"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetPerson(pb.GetPersonRequest(contact_id="other", page_token=first.next_page_token))
        assert details_of(refused.value).violations[0][0] == "page_token"


async def test_a_person_has_any_number_of_identities(running_identity: Running, links: LinkStore) -> None:
    names = [f"person {number:04}" for number in range(1_005)]
    async with running_identity() as identity, identity.stub() as stub:
        await make_contact(stub, "one")
        await store(links, *(IdentityRecord(identity_id=name, first_ms=1, contact_id="one") for name in names))
        pages = await walk(stub.GetPerson, pb.GetPersonRequest(contact_id="one"), "identities")
        assert [found.identity_id for page in pages for found in page] == names
        assert len(pages[0]) == 1_000
        first = await stub.GetPerson(pb.GetPersonRequest(contact_id="one", page_size=3))
        assert [found.identity_id for found in first.identities] == names[:3]


async def test_visitors_on_long_addresses_are_listed_in_several_pages(running_identity: Running) -> None:
    at, url = now_ms() - 10_000, "https://shop.example/" + "x" * 8_000
    events = [admitted("SignIn", new_id(), at + number // 3, "ann", url=url, data={}) for number in range(600)]
    async with running_identity() as identity, identity.stub() as stub:
        for start in range(0, 600, 200):
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=events[start : start + 200]))
        pages = await walk(stub.ListVisitors, pb.ListVisitorsRequest(page_size=1_000), "visitors")
        listed = [visitor.visit_id for page in pages for visitor in page]
        latest_first = sorted(events, key=lambda event: (event.event_time_ms, event.visit_id), reverse=True)
        assert listed == [event.visit_id for event in latest_first]


async def test_links_with_many_candidates_are_listed_in_several_pages(
    running_identity: Running, links: LinkStore
) -> None:
    candidates = tuple(f"{number:0256}" for number in range(100))
    decisions = tuple(
        Decision(at_ms=at_ms, status=Status.AMBIGUOUS, rule=Rule.NAME, actor="rule", candidates=candidates)
        for at_ms in range(200)
    )
    await store(links, IdentityRecord(identity_id="ann", first_ms=1, decisions=decisions))
    async with running_identity() as identity, identity.stub() as stub:
        request = pb.ListContactLinksRequest(identity_id="ann", page_size=1_000)
        pages = await walk(stub.ListContactLinks, request, "links")
        assert [link.create_time.ToMilliseconds() for page in pages for link in page] == list(range(199, -1, -1))
        assert len(pages) == 3
