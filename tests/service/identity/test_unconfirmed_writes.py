"""A write that MongoDB does not confirm, or refuses for now, is unavailable, and no conflict or internal error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import grpc
import pytest
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_identity.contact_record import ContactRecord
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore, Tombstone
from footfall_servicekit.errors import RequestError, details_of

from tests.service.identity.conftest import TIMEOUT_MS
from tests.tools.faulty_mongo import FAULTS, FULL_DISK, UNCONFIRMED, FaultyMongo, faulty_mongo
from tests.tools.identity import ERASURE_KEY, new_id
from tests.tools.process import Running

Write = Callable[[LinkStore], Awaitable[object]]
KNOWN = IdentityRecord(identity_id="known")
NEW = IdentityRecord(identity_id="new", contact_id="c1")
WRITES: dict[str, Write] = {
    "a new record": lambda links: links.replace([(None, NEW)]),
    "a record that exists already": lambda links: links.replace([(None, NEW), (None, KNOWN)]),
    "a contact": lambda links: links.replace_contacts([(None, ContactRecord(contact_id="c1"))]),
    "a tombstone": lambda links: links.put_tombstone(Tombstone("e", "hash", 1, "officer", "check")),
    "what makes all durable": lambda links: links.wait_for_journal(),
}


@pytest.fixture
def mongo(mongo_url: str) -> Iterator[FaultyMongo]:
    """A server whose answers to writes can have a fault."""
    with faulty_mongo(mongo_url) as mongo:
        yield mongo


@pytest.fixture
async def links(mongo: FaultyMongo, mongo_database: str) -> AsyncIterator[LinkStore]:
    """A store with one identity on that server."""
    links = LinkStore(mongo.url, mongo_database, timeout_ms=20_000, erasure_secret=ERASURE_KEY)
    await links.replace([(None, KNOWN)])
    yield links
    await links.close()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", WRITES)
async def test_every_write_with_a_fault_is_unavailable(
    mongo: FaultyMongo, links: LinkStore, write: str, fault: str
) -> None:
    mongo.fault = FAULTS[fault]
    with pytest.raises(RequestError) as refused:
        await WRITES[write](links)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE


async def test_indexes_are_created_as_soon_as_mongodb_confirms(mongo: FaultyMongo, links: LinkStore) -> None:
    mongo.fault = UNCONFIRMED
    preparing = asyncio.create_task(links.prepare())
    await asyncio.sleep(0.3)
    assert not preparing.done()
    mongo.fault = None
    await asyncio.wait_for(preparing, 10)


async def test_with_a_full_disk_the_process_starts_and_callers_get_a_retry_delay(
    mongo: FaultyMongo, running_identity: Running
) -> None:
    contact = contact_pb2.Contact(contact_id=new_id())
    mongo.fault = FULL_DISK
    # Long, so that a busy machine adds no failures of another kind to the log.
    settings = {"MONGO_URL": mongo.url, "IDENTITY_MONGO_TIMEOUT_MS": TIMEOUT_MS}
    async with running_identity(**settings) as identity, identity.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.UpsertContact(pb.UpsertContactRequest(contact=contact))
        assert details_of(refused.value).code is grpc.StatusCode.UNAVAILABLE
        assert details_of(refused.value).retry_ms
        mongo.fault = None
        assert (await stub.UpsertContact(pb.UpsertContactRequest(contact=contact))).contact.contact_id
        assert identity.process.poll() is None
        assert identity.output().count('"event": "MongoDB does not answer"') == 1
