"""Identities whose contact a person should look at are listed by the doubt, until somebody decides."""

from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.admitted import transition_of
from footfall_identity import link_store
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.judge import Judge
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.matching import Doubt
from footfall_identity.record_writer import RecordWriter
from footfall_servicekit.errors import details_of
from msgspec.structs import replace

from tests.tools.contacts import Contacts
from tests.tools.identity import admitted, new_id
from tests.tools.process import Running
from tests.tools.visits import now_ms

TWINS = [f"twin{number}@shop.example" for number in range(5)]
"""Each is the e-mail address of two contacts."""
NAMED, LIKE, SURE = "by name", "like@shop.example", "sure@shop.example"


def said(name: str, person: str, **data: str) -> Event:
    return admitted(name, new_id(), now_ms(), person, data=data)


@pytest.fixture
async def doubts(contacts: Contacts, writer: RecordWriter) -> None:
    """Identities with each doubt, and one without."""
    for number in (1, 2):
        await contacts.upsert(ContactRecord(contact_id=f"c{number}", email_addresses=(*TWINS,)))
    await contacts.upsert(ContactRecord(contact_id="c3", first_name="Ann", last_name="Lee"))
    await contacts.upsert(ContactRecord(contact_id="c4", email_addresses=(LIKE, SURE)))
    events = [
        *(said("SignIn", twin) for twin in TWINS),
        said("SignIn", NAMED, firstName="Ann", lastName="Lee"),
        said("UserInfo", LIKE),
        said("SignIn", SURE),
        said("SignIn", "nobody knows"),
    ]
    await writer.import_past([(event, transition_of(event)) for event in events], [])


async def ids(links: LinkStore, doubt: Doubt) -> list[str]:
    found = [record.identity_id for record in await links.doubtful(doubt, "", 100)]
    assert len(found) == await links.count_doubtful(doubt, 100)
    return found


@pytest.mark.usefixtures("doubts")
async def test_a_doubt_lasts_until_somebody_decides_or_the_identity_is_erased(
    links: LinkStore, linker: Linker, eraser: Eraser
) -> None:
    assert await ids(links, Doubt.AMBIGUOUS) == TWINS
    assert await ids(links, Doubt.RECOGNIZED_ONLY) == [LIKE]
    assert await ids(links, Doubt.BY_NAME) == [NAMED]
    await linker.link(TWINS[0], "c1", "agent")
    await linker.unlink(NAMED, "agent")
    await linker.link(LIKE, "c4", "agent")
    await eraser.erase(TWINS[1], "officer")
    assert await ids(links, Doubt.AMBIGUOUS) == TWINS[2:]
    assert await ids(links, Doubt.RECOGNIZED_ONLY) == []
    assert await ids(links, Doubt.BY_NAME) == []


@pytest.mark.usefixtures("doubts")
async def test_doubts_of_an_earlier_version_are_found(
    links: LinkStore, linker: Linker, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(links, linker)
    with monkeypatch.context() as earlier:
        earlier.setattr(link_store, "RECORD_FORM", 0)
        await judge.apply()
    people = [*TWINS, NAMED, LIKE]
    await links.change(dict.fromkeys(people, lambda record: replace(record, doubt="")))
    assert await ids(links, Doubt.AMBIGUOUS) == []
    await judge.apply()
    assert await ids(links, Doubt.AMBIGUOUS) == TWINS
    assert await ids(links, Doubt.RECOGNIZED_ONLY) == [LIKE]
    assert await ids(links, Doubt.BY_NAME) == [NAMED]
    assert (await links.link_rules())[0] == linker.policy.rules


@pytest.mark.usefixtures("doubts")
async def test_a_service_lists_doubts_in_pages(running_identity: Running) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        request = pb.ListIdentitiesRequest(link_doubt=contact_pb2.LINK_DOUBT_AMBIGUOUS, page_size=2)
        found, counts = list[str](), list[int]()
        while True:
            page = await stub.ListIdentities(request)
            found += [one.identity_id for one in page.identities]
            counts.append(page.doubt_count)
            assert {one.contact_candidate_count for one in page.identities} == {2}
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == TWINS
        assert counts == [5, 0, 0]
        [named] = (
            await stub.ListIdentities(pb.ListIdentitiesRequest(link_doubt=contact_pb2.LINK_DOUBT_BY_NAME))
        ).identities
        assert (named.identity_id, named.contact_id) == (NAMED, "c3")
        others: list[dict[str, Any]] = [{"sites": ["default"]}, {"location": "x"}, {"shared_only": True}]
        for more in others:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListIdentities(pb.ListIdentitiesRequest(link_doubt=contact_pb2.LINK_DOUBT_BY_NAME, **more))
            assert details_of(refused.value).violations[0][0] == "link_doubt", more
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.ListIdentities(pb.ListIdentitiesRequest(link_doubt=99))  # type: ignore[arg-type]
        assert "link_doubt" in str(unknown.value.details())
