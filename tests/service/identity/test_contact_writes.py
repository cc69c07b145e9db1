"""Writing of contacts: etags, update masks, request ids, validation, batches, synchronizations, and crashes."""

import asyncio
import re
from typing import Any

import grpc
import pytest
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import Contact
from footfall_identity import contact_writer as contact_writer_module
from footfall_identity.contact_record import (
    ContactChange,
    ContactRecord,
    ContactResult,
    RememberedRequest,
    with_match_keys,
)
from footfall_identity.contact_writer import ContactWriter
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.relinking import Relinker
from footfall_servicekit.errors import ErrorDetails, RequestError, details_of
from google.protobuf.field_mask_pb2 import FieldMask
from msgspec.structs import replace
from pymongo import AsyncMongoClient

from tests.service.identity.conftest import contact_writer
from tests.tools.contacts import Contacts
from tests.tools.identity import admitted, entry, new_id
from tests.tools.visits import now_ms

CREATED, CHANGED, UNCHANGED, DELETED = (
    contact_pb2.CONTACT_RESULT_CREATED,
    contact_pb2.CONTACT_RESULT_CHANGED,
    contact_pb2.CONTACT_RESULT_UNCHANGED,
    contact_pb2.CONTACT_RESULT_DELETED,
)
INVALID, MISMATCH, NOT_FOUND = (
    contact_pb2.CONTACT_RESULT_INVALID,
    contact_pb2.CONTACT_RESULT_ETAG_MISMATCH,
    contact_pb2.CONTACT_RESULT_NOT_FOUND,
)


async def put(stub: Any, contact: Contact, **more: Any) -> Contact:
    stored: Contact = (await stub.UpsertContact(pb.UpsertContactRequest(contact=contact, **more))).contact
    return stored


async def update(stub: Any, contact: Contact, *paths: str, **more: Any) -> Contact:
    request = pb.UpdateContactRequest(contact=contact, update_mask=FieldMask(paths=paths), **more)
    stored: Contact = (await stub.UpdateContact(request)).contact
    return stored


async def refusal(call: Any) -> ErrorDetails:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return details_of(refused.value)


async def test_two_writers_with_etags_lose_no_update(shared_stub: Any) -> None:
    contact_id = new_id()
    await put(shared_stub, Contact(contact_id=contact_id))
    refused: list[tuple[grpc.StatusCode, str]] = []

    async def add(address: str) -> None:
        while True:
            contact = (await shared_stub.GetContact(pb.GetContactRequest(contact_id=contact_id))).contact
            contact.email_addresses.append(address)
            try:
                await put(shared_stub, contact, wait_ms=0)
            except grpc.aio.AioRpcError as error:
                refused.append((error.code(), details_of(error).reason))
            else:
                return

    async def writer(name: str) -> None:
        for number in range(4):
            await add(f"{name}{number}@mail.example")

    await asyncio.gather(writer("a"), writer("b"))
    found = (await shared_stub.GetContact(pb.GetContactRequest(contact_id=contact_id))).contact
    assert sorted(found.email_addresses) == [f"{name}{number}@mail.example" for name in "ab" for number in range(4)]
    assert {*refused} == {(grpc.StatusCode.ABORTED, "ETAG_MISMATCH")}


async def test_an_update_changes_the_named_fields_alone(shared_stub: Any) -> None:
    first = await put(
        shared_stub, Contact(contact_id=new_id(), email_addresses=["a@mail.example"], first_name="Ann", title="Dr.")
    )
    contact_id = first.contact_id
    number = Contact(contact_id=contact_id, phone_numbers=["+49301234567"], title="ignored")
    second = await update(shared_stub, number, "phone_numbers", "etag")
    assert ([*second.email_addresses], [*second.phone_numbers], second.title) == (
        ["a@mail.example"],
        ["+49301234567"],
        "Dr.",
    )
    assert second.etag != first.etag
    assert second.create_time == first.create_time
    third = await update(shared_stub, Contact(contact_id=contact_id, last_name="Lee"), "first_name", "last_name")
    assert (third.first_name, third.last_name, [*third.phone_numbers]) == ("", "Lee", ["+49301234567"])
    assert (await update(shared_stub, Contact(contact_id=contact_id, title="Prof."))).last_name == "Lee"
    whole = await update(shared_stub, Contact(contact_id=contact_id, first_name="Kim"), "*")
    assert (whole.first_name, whole.last_name, [*whole.phone_numbers]) == ("Kim", "", [])
    assert await update(shared_stub, Contact(contact_id=contact_id)) == whole

    unknown = await refusal(update(shared_stub, Contact(contact_id=contact_id), "name"))
    assert unknown.violations[0][0] == "update_mask"
    stale = await refusal(update(shared_stub, Contact(contact_id=contact_id, title="x", etag=first.etag)))
    assert stale.reason == "ETAG_MISMATCH"
    missing = Contact(contact_id=new_id(), title="Dr.", first_name="Eve")
    assert (await refusal(update(shared_stub, missing, "title"))).code is grpc.StatusCode.NOT_FOUND
    assert (await update(shared_stub, missing, "title", allow_missing=True)).first_name == "Eve"
    long = Contact(contact_id=new_id(), title="Dr.", last_name="x" * 257)
    for given in (long, Contact(contact_id=new_id(), title="Dr.", phone_numbers=["+4930abc"])):
        assert (await refusal(update(shared_stub, given, "title", allow_missing=True))).violations, "all is stored"
    known = Contact(contact_id=contact_id, title="Dr.", last_name="x" * 257)
    assert (await update(shared_stub, known, "title")).title == "Dr.", "the rest is ignored"


async def test_a_contact_is_only_created_or_only_changed(shared_stub: Any) -> None:
    contact_id, request_id = new_id(), new_id()
    missing = Contact(contact_id=contact_id, etag="*")
    assert (await refusal(put(shared_stub, missing))).reason == "ETAG_MISMATCH"
    new = Contact(contact_id=contact_id, title="Dr.")
    created = await put(shared_stub, new, create_only=True, request_id=request_id)
    assert await put(shared_stub, new, create_only=True, request_id=request_id) == created
    assert (await refusal(put(shared_stub, new, create_only=True))).reason == "ETAG_MISMATCH"
    assert (await put(shared_stub, Contact(contact_id=contact_id, title="Prof.", etag="*"))).title == "Prof."
    batch = pb.BatchUpsertContactsRequest(contacts=[missing, Contact(contact_id=new_id(), etag="*")])
    outcomes = (await shared_stub.BatchUpsertContacts(batch)).outcomes
    assert [one.result for one in outcomes] == [CHANGED, MISMATCH]


async def test_a_write_that_is_repeated_with_its_request_id_succeeds_again(shared_stub: Any) -> None:
    contact = await put(shared_stub, Contact(contact_id=new_id()))
    request_id = new_id()
    given = Contact(contact_id=contact.contact_id, title="Dr.", etag=contact.etag)
    first = await update(shared_stub, given, request_id=request_id)
    assert (await refusal(update(shared_stub, given))).reason == "ETAG_MISMATCH"
    await update(shared_stub, Contact(contact_id=contact.contact_id, last_name="Lee"))
    again = await update(shared_stub, given, request_id=request_id.upper(), wait_ms=0)
    assert (again.title, again.last_name, again.create_time) == ("Dr.", "Lee", first.create_time)
    other = Contact(contact_id=contact.contact_id, title="Prof.")
    for call in (update(shared_stub, other, request_id=request_id), update(shared_stub, other, request_id="x")):
        assert [field for field, _ in (await refusal(call)).violations] == ["request_id"]


async def test_a_contact_remembers_a_limited_number_of_request_ids(shared_stub: Any) -> None:
    contact_id, ids = new_id(), [new_id() for _ in range(12)]
    for number, request_id in enumerate(ids):
        await put(shared_stub, Contact(contact_id=contact_id, title=str(number)), request_id=request_id, wait_ms=0)
    other = Contact(contact_id=contact_id, title="other")
    assert (await refusal(put(shared_stub, other, request_id=ids[2]))).violations[0][0] == "request_id"
    assert (await put(shared_stub, other, request_id=ids[1])).title == "other"


@pytest.mark.parametrize(
    ("fields", "broken", "rule"),
    [
        ({"phone_numbers": ["+4930abc"]}, "phone_numbers[0]", "without letters"),
        ({"phone_numbers": ["+49301234567 next 5"]}, "phone_numbers[0]", "without letters"),
        ({"phone_numbers": ["+49301234567", "+49 30 1234567"]}, "phone_numbers[1]", "the same as phone_numbers[0]"),
        ({"email_addresses": ["a@b.de", "A@B.de"]}, "email_addresses[1]", "the same as email_addresses[0]"),
        ({"email_addresses": [" "]}, "email_addresses[0]", "e-mail address"),
        ({"first_name": " "}, "first_name", "spaces"),
        ({"last_name": "Lee\x00"}, "last_name", "control characters"),
        ({"title": "Dr.\n"}, "title", "control characters"),
        ({"contact_id": "\t"}, "contact_id", "spaces"),
    ],
)
async def test_what_is_no_contact_is_refused_by_field_and_rule(
    shared_stub: Any, fields: dict[str, Any], broken: str, rule: str
) -> None:
    contact = Contact(**({"contact_id": "c"} | fields))
    [(field, found)] = (await refusal(put(shared_stub, contact))).violations
    assert field == f"contact.{broken}"
    assert rule in found


@pytest.mark.parametrize(
    "number",
    [
        "tel:+49-30-1234567",
        "tel:+49-30-1234567;ext=5",
        "tel:+49-30-1234567;isub=1411",
        "+49 (30) 123-45 67",
        "+49301234567 ext. 5",
        "+49301234567 ext5",
        "+49301234567 Extn: 5",
        "+49301234567 доб. 5",
        "+49301234567x5",
    ],
)
async def test_a_telephone_number_may_have_the_letters_of_its_notation(shared_stub: Any, number: str) -> None:
    assert (await put(shared_stub, Contact(contact_id=new_id(), phone_numbers=[number]))).phone_numbers == [number]


async def test_a_batch_has_an_outcome_for_each_contact(shared_stub: Any) -> None:
    known, same, gone = [await put(shared_stub, Contact(contact_id=new_id())) for _ in range(3)]
    new = new_id()
    response = await shared_stub.BatchUpsertContacts(
        pb.BatchUpsertContactsRequest(
            contacts=[
                Contact(contact_id=new, email_addresses=[f"{new}@mail.example"]),
                Contact(contact_id=known.contact_id, title="Dr.", etag=known.etag),
                Contact(contact_id=same.contact_id),
                Contact(contact_id=new_id(), phone_numbers=["+4930abc"]),
                Contact(contact_id=gone.contact_id, title="Dr.", etag="other"),
                Contact(contact_id=new, title="again"),
            ]
        )
    )
    assert [outcome.result for outcome in response.outcomes] == [
        CREATED,
        CHANGED,
        UNCHANGED,
        INVALID,
        MISMATCH,
        INVALID,
    ]
    assert [(one.field, one.rule) for one in response.outcomes[3].violations] == [
        ("phone_numbers[0]", "must be a telephone number, with + and country code, without letters")
    ]
    assert response.outcomes[5].violations[0].field == "contact_id"
    for contact_id, outcome in zip((new, known.contact_id, same.contact_id), response.outcomes, strict=False):
        stored = (await shared_stub.GetContact(pb.GetContactRequest(contact_id=contact_id))).contact
        assert stored.etag == outcome.etag
    deleted = await shared_stub.BatchDeleteContacts(
        pb.BatchDeleteContactsRequest(contact_ids=[new, new_id(), "", gone.contact_id, new])
    )
    assert [one.result for one in deleted.outcomes] == [DELETED, NOT_FOUND, INVALID, DELETED, INVALID]
    many = pb.BatchUpsertContactsRequest(contacts=[Contact(contact_id="c")] * 1_001)
    assert (await refusal(shared_stub.BatchUpsertContacts(many))).violations[0][0] == "contacts"


async def test_a_deletion_with_an_etag_deletes_no_changed_contact(shared_stub: Any) -> None:
    first = await put(shared_stub, Contact(contact_id=new_id()))
    second = await put(shared_stub, Contact(contact_id=first.contact_id, title="Dr."))

    def delete(**more: Any) -> Any:
        return shared_stub.DeleteContact(pb.DeleteContactRequest(contact_id=first.contact_id, **more))

    assert (await refusal(delete(etag=first.etag))).reason == "ETAG_MISMATCH"
    await delete(etag=second.etag)
    assert (await refusal(delete())).code is grpc.StatusCode.NOT_FOUND
    await delete(allow_missing=True)


def change(contact_id: str, **fields: Any) -> ContactChange:
    record = ContactRecord(contact_id=contact_id, **fields)
    return ContactChange(contact_id=contact_id, given=with_match_keys(record, "DE"))


def people(numbers: range) -> list[ContactChange]:
    return [change(f"c{number:03}", email_addresses=(f"p{number}@mail.example",)) for number in numbers]


async def send(writer: ContactWriter, generation: int, changes: list[ContactChange]) -> list[ContactResult]:
    await writer.mark_sent(generation, [one.contact_id for one in changes])
    return [written.result for written in await writer.write(changes)]


async def ids(links: LinkStore) -> list[int]:
    return [int(record.contact_id[1:]) for record in await links.contacts_after("", 1_000) if not record.is_deleted]


async def reason(call: Any) -> str:
    with pytest.raises(RequestError) as refused:
        await call
    return refused.value.reason


async def test_a_synchronization_deletes_what_was_not_sent_but_not_too_much(
    links: LinkStore, relinker: Relinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted in the middle of sending and of deleting, and begun again."""
    monkeypatch.setattr(contact_writer_module, "_CONTACTS_PER_READ", 17)
    monkeypatch.setattr(contact_writer_module, "_DELETIONS_PER_CALL", 4)
    writer = contact_writer(links, relinker)
    await writer.mark_sent(1, [])
    assert await reason(writer.finish_sync(1)) == "SYNC_NOT_BEGUN"
    assert set(await send(writer, 1, people(range(100)))) == {ContactResult.CREATED}
    queries: list[tuple[Any, ...]] = []
    find = links._contacts.find

    def counted(*query: Any) -> Any:
        queries.append(query)
        return find(*query)

    with monkeypatch.context() as patch:
        patch.setattr(links._contacts, "find", counted)
        assert await writer.finish_sync(1) == (0, 0, 100)
    assert len(queries) == 1, "SecantusDB examines all contacts for each query"
    await send(writer, 2, people(range(70)))
    assert await reason(writer.finish_sync(2)) == "TOO_MANY_DELETIONS"
    assert len(await ids(links)) == 100

    assert set(await send(writer, 3, people(range(50)))) == {ContactResult.UNCHANGED}
    assert await reason(writer.finish_sync(2)) == "SYNC_SUPERSEDED"
    assert await reason(send(writer, 2, people(range(1)))) == "SYNC_SUPERSEDED"
    marks = [one for one in await links._identities.database.list_collection_names() if "sync_marks" in one]
    assert marks == ["contact_sync_marks_3"]
    await send(writer, 4, people(range(50)))  # killed, and begun again
    await send(writer, 4, people(range(90)))
    await writer.write([change("c095", title="changed by somebody else meanwhile")])
    assert await writer.finish_sync(4, validate_only=True) == (0, 9, 91)
    assert await writer.finish_sync(4) == (4, 5, 91)
    restarted = contact_writer(links, relinker)
    with monkeypatch.context() as patch:
        queries.clear()
        patch.setattr(links._contacts, "find", counted)
        assert await restarted.finish_sync(4) == (4, 1, 91)
        await send(writer, 4, people(range(99, 100)))  # sent after all
        assert await restarted.finish_sync(4) == (0, 0, 92)
    assert len([query for query in queries if query[0] == {}]) == 1, "what was read serves the next call as well"
    assert await restarted.finish_sync(4) == (0, 0, 92)
    assert await ids(links) == [*range(90), 95, 99]
    await send(writer, 5, people(range(10)))
    while (await writer.finish_sync(5, 100)).remaining:
        pass
    assert await ids(links) == [*range(10)]


async def test_the_end_of_a_synchronization_deletes_nothing_after_a_later_one_has_begun(
    links: LinkStore, relinker: Relinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_writer_module, "_CONTACTS_PER_WRITE", 25)
    writer = contact_writer(links, relinker)
    await send(writer, 1, people(range(60)))
    await send(writer, 2, people(range(1)))
    store = links.store_contacts

    async def meanwhile(pairs: Any) -> Any:
        monkeypatch.setattr(links, "store_contacts", store)
        stored = await store(pairs)
        await send(contact_writer(links, relinker), 3, people(range(60)))
        return stored

    monkeypatch.setattr(links, "store_contacts", meanwhile)
    assert await reason(writer.finish_sync(2, 100)) == "SYNC_SUPERSEDED"
    assert await ids(links) == [*range(60)]


async def test_nothing_is_left_of_a_contact_that_was_deleted(
    links: LinkStore, contacts: Contacts, relinker: Relinker, mongo_url: str, mongo_database: str
) -> None:
    """Not its id as that of a contact that was sent, no search key, no request and no note."""
    await send(contacts.writer, 1, people(range(3)))
    request = RememberedRequest(request_id=new_id(), digest="d", at_ms=now_ms())
    await contacts.writer.write([replace(one, request=request) for one in people(range(3))])
    await contacts.delete("c000")
    deletions = [ContactChange(contact_id=one, given=None, creates=False) for one in ("c001", "c002")]
    await contacts.writer.write(deletions)
    await relinker.finish()
    client: AsyncMongoClient[Any] = AsyncMongoClient(mongo_url)
    async with client:
        database = client[mongo_database]
        for name in await database.list_collection_names():
            for document in await database[name].find({}).to_list():
                assert not re.search("c00[0-9]|p[0-9]@mail", repr(document)), name


async def test_what_a_kill_leaves_of_a_batch_is_linked_by_another_process(
    consumer: RecordConsumer, links: LinkStore, linker: Linker, contacts: Contacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is killed after it has stored a batch, and another one between its note and its contacts."""
    for number in range(4):
        sign_in = admitted("SignIn", new_id(), now_ms(), f"user{number}", data={"email": f"p{number}@mail.example"})
        await consumer.handle(0, [entry(sign_in)])

    async def linked() -> list[str]:
        found = await links.get([f"user{number}" for number in range(4)])
        return [found[f"user{number}"].contact_id for number in range(4)]

    await contacts.writer.write(people(range(3)))
    assert await linked() == ["", "", "", ""]
    await Relinker(links, linker, wait_ms=0, max_wait_ms=0).finish()
    assert await linked() == ["c000", "c001", "c002", ""]
    deletions = [ContactChange(contact_id=one, given=None, creates=False) for one in ("c000", "c001")]
    moved = change("c003", email_addresses=("p2@mail.example",))
    store = links.store_contacts

    async def killed(pairs: Any) -> Any:
        await store(pairs)
        raise RequestError.unavailable("killed", 1)

    with monkeypatch.context() as patch:
        patch.setattr(links, "store_contacts", killed)
        await reason(contacts.writer.write([*deletions, moved]))
    await Relinker(links, linker, wait_ms=0, max_wait_ms=0).finish()
    assert await linked() == ["", "", "", ""]
    ambiguous = (await links.get(["user2"]))["user2"].decisions[-1]
    assert ambiguous.candidates == ("c002", "c003")
    assert await links.next_batch(now_ms() + 1_000) is None
