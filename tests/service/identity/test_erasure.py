"""Erasing an identity: what is removed, and what happens to earlier and later events."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
import pytest
from bson import encode as bson
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_eventlog.interactions import subject_hash
from footfall_eventlog.stream import Entry
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import details_of
from footfall_timeline import ANONYMOUS, Kind, identity_hash, partition
from pymongo import AsyncMongoClient

from tests.service.identity.conftest import visitor_store
from tests.tools.contacts import Contacts
from tests.tools.eventually import eventually
from tests.tools.identity import ERASURE_KEY, PARTITIONS, admitted, append, entry, new_id, random_visit, resolve
from tests.tools.process import Running
from tests.tools.visits import now_ms

PERSON = "somebody.to.forget@shop.example"
HOUR_MS = 3_600_000


class Stores(NamedTuple):
    """The stores of identity."""

    redis: Any
    mongo: Any

    async def places_of(self, text: str) -> list[str]:
        """Return keys and collections with this text in name or value, as DUMP and as commands return it."""
        places = []
        async for key in self.redis.scan_iter(count=1_000):
            held = key + await self.redis.dump(key) + repr(await _value(self.redis, key)).encode()
            if text.encode() in held and not key.startswith(b"log:"):
                places.append(key.decode())
        for name in await self.mongo.list_collection_names():
            documents = await self.mongo[name].find({}).to_list(None)
            places += [name for document in documents if text.encode() in bson(document)]
        return places


@pytest.fixture
async def stores(redis: Any, mongo_url: str, mongo_database: str) -> AsyncIterator[Stores]:
    client: Any = AsyncMongoClient(mongo_url)
    yield Stores(redis, client[mongo_database])
    await client.close()


async def _value(redis: Any, key: bytes) -> Any:
    kind = (await redis.type(key)).decode()
    read: dict[str, Any] = {
        "hash": lambda: redis.hgetall(key),
        "zset": lambda: redis.zrange(key, 0, -1),
        "stream": lambda: redis.xrange(key),
        "string": lambda: redis.get(key),
    }
    return await read[kind]()


async def handle_all(consumer: RecordConsumer, redis: Any) -> None:
    """Hand the whole log to the consumer."""
    for number in range(PARTITIONS):
        entries = await redis.xrange(f"log:{{p{number:02d}}}")
        await consumer.handle(number, [Entry(entry_id.decode(), fields[b"b"]) for entry_id, fields in entries])


@pytest.fixture
async def known_person(redis: Any, consumer: RecordConsumer, store: VisitorStore, contacts: Contacts) -> list[str]:
    """Store an identity with three visits, two of them shared with bob, and a contact; return the visits."""
    visits = [new_id() for _ in range(3)]
    await contacts.upsert(ContactRecord(contact_id="c1", phone_numbers=("+49301234567",)))
    for number, visit_id in enumerate(visits):
        at = now_ms() - 10_000
        events = [
            admitted("UserInfo", visit_id, at, PERSON, data={"name": PERSON}),
            admitted("SignIn", visit_id, at + 1, PERSON, data={"phone": "030 1234567"}),
            admitted("SignOut", visit_id, at + 2),
        ]
        if number:
            events.append(admitted("SignIn", visit_id, at + 3, "bob"))
        await resolve(store, *events)
        await append(redis, *events)
    await handle_all(consumer, redis)
    return visits


async def test_no_store_names_an_erased_identity_even_after_a_replay(
    known_person: list[str], eraser: Eraser, consumer: RecordConsumer, stores: Stores
) -> None:
    assert {place.partition(":")[0] for place in await stores.places_of(PERSON)} == {"visit", "changes", "identities"}
    erased = await eraser.erase(PERSON, "officer")
    assert (erased.visit_count, erased.identity_erased, erased.link_count) == (3, True, 1)
    related = [("contact_id", "c1"), ("phone", "+49301234567")]
    assert [*erased.erasure.related_hashes] == [subject_hash(ERASURE_KEY, kind, value) for kind, value in related]
    assert await stores.places_of(PERSON) == []
    await handle_all(consumer, stores.redis)
    assert await stores.places_of(PERSON) == []


async def test_a_replay_into_empty_stores_restores_no_erased_identity(
    known_person: list[str], eraser: Eraser, consumer: RecordConsumer, links: LinkStore, stores: Stores
) -> None:
    await eraser.erase(PERSON, "officer")
    await stores.mongo.client.drop_database(stores.mongo.name)
    async for key in stores.redis.scan_iter():
        if not key.startswith(b"log:"):
            await stores.redis.delete(key)
    await handle_all(consumer, stores.redis)
    assert await stores.places_of(PERSON) == []
    assert list(await links.get([PERSON, "bob"])) == ["bob"]


async def test_other_identities_of_the_same_visits_keep_everything(
    known_person: list[str], eraser: Eraser, store: VisitorStore, links: LinkStore, redis: Any
) -> None:
    before = (await links.get(["bob"]))["bob"]
    await eraser.erase(PERSON, "officer")
    assert (await links.get(["bob"]))["bob"] == before
    records = await store.get(known_person)
    assert [record.visit_state.attribution.identity for record in records.values()] == ["", "bob", "bob"]
    for number in range(PARTITIONS):
        for _, fields in await redis.xrange(f"changes:{{p{number:02d}}}"):
            assert b"visit" in fields  # remaining entries are complete


def event_with_mark(name: str, visit_id: str, at_ms: int, user: str = "", *, mark: str, **more: Any) -> Event:
    """Return an event whose page, title and device contain a mark."""
    url = f"https://shop.example/?m={mark}"
    return admitted(name, visit_id, at_ms, user, url=url, title=f"Title {mark}", global_visit_id=mark, **more)


async def test_live_state_erases_page_title_and_device(eraser: Eraser, store: VisitorStore, stores: Stores) -> None:
    visit_id, at, mark = new_id(), now_ms() - 10_000, new_id()
    of_person = [
        event_with_mark("PageEntered", visit_id, at, mark=mark),
        event_with_mark("SignIn", visit_id, at + 10, PERSON, mark=mark),
        event_with_mark("PageEntered", visit_id, at + 20, mark=mark),
    ]
    await resolve(store, *of_person)
    assert {place.partition(":")[0] for place in await stores.places_of(mark)} == {"visit"}
    await eraser.erase(PERSON, "officer")
    assert await stores.places_of(mark) == []
    later = event_with_mark("PageEntered", visit_id, now_ms() + 10, mark=mark)
    await resolve(store, *of_person, later)
    assert await stores.places_of(mark) == [], "neither what comes again nor what still is their part of the visit"
    await resolve(store, event_with_mark("SignIn", visit_id, now_ms() + 20, "bob", mark="bobs"))
    record = (await store.get([visit_id]))[visit_id]
    assert (record.url, record.title, record.global_visit_id) == (
        "https://shop.example/?m=bobs",
        "Title bobs",
        "bobs",
    )


async def test_an_erasure_may_leave_the_anonymous_part_of_a_visit(
    partitions: Partitions, links: LinkStore, linker: Linker, stores: Stores
) -> None:
    store = visitor_store(partitions, erases_anonymous=False)
    keeping = Eraser(partitions, IdentityIndex(partitions, store), links, linker, secret=ERASURE_KEY, ack_replicas=0)
    visit_id, at = new_id(), now_ms() - 10_000
    await resolve(store, event_with_mark("PageEntered", visit_id, at, mark="before"))
    await resolve(store, admitted("SignIn", visit_id, at + 10, PERSON, url=""))
    await keeping.erase(PERSON, "officer")
    record = (await store.get([visit_id]))[visit_id]
    assert (record.url, record.global_visit_id) == (
        "https://shop.example/?m=before",
        "6513270e-269e-4d37-b2a7-4de452e6b438",
    )


@pytest.mark.parametrize("seed", range(20))
async def test_live_state_shows_the_last_page_that_is_not_an_erased_persons(
    eraser: Eraser, store: VisitorStore, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    events = random_visit(chance, [PERSON, "bob", "ann"], length=chance.choice([3, 8]))
    for at, event in enumerate(events):  # different times: only history distinguishes events of one millisecond
        event.event_time_ms = events[0].event_time_ms + at
        event.title = event.url
    await resolve(store, *events)
    await eraser.erase(PERSON, "officer")
    await resolve(store, *chance.sample(events, len(events) // 2))
    record = (await store.get([events[0].visit_id]))[events[0].visit_id]
    last = events[-1]
    naming_steps = [step for step in record.visit_state.steps if step.transition.kind is not Kind.SIGN_OUT]
    owner = [s for s in naming_steps if s.after == ANONYMOUS or not s.transition.is_erased]
    is_persons = bool(owner) and owner[-1].transition.is_erased
    is_persons |= any(s.transition.is_erased and s.transition.event_id == last.event_id for s in naming_steps)
    assert (record.url, record.title) == (("", "") if is_persons else (last.url, last.title))
    assert bool(record.global_visit_id) == (bool(record.visit_state.associations) or not naming_steps)


async def test_earlier_events_stay_erased_and_later_ones_make_a_new_identity(
    known_person: list[str], eraser: Eraser, consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    erased_at = (await eraser.erase(PERSON, "officer")).erasure.erase_time_ms
    visit_id = new_id()
    late = admitted("SignIn", visit_id, erased_at - 1, PERSON, data={"name": "old"})
    new = admitted("UserInfo", visit_id, erased_at + 1, PERSON, data={"age": 41})
    await resolve(store, late)
    await consumer.handle(partition(visit_id, PARTITIONS), [entry(late)])
    assert await links.get([PERSON]) == {}
    await consumer.handle(partition(visit_id, PARTITIONS), [entry(late, new)])
    record = (await links.get([PERSON]))[PERSON]
    assert record.first_ms == erased_at + 1
    assert {value.key for value in record.profile} == {"age", "userID"}
    assert record.decisions == ()
    # A second erasure also covers the new events.
    assert (await eraser.erase(PERSON, "officer")).visit_count == 1
    assert await links.get([PERSON]) == {}


async def test_events_of_a_fast_clock_are_erased(
    eraser: Eraser, consumer: RecordConsumer, store: VisitorStore, links: LinkStore
) -> None:
    event = admitted("SignIn", new_id(), now_ms() + HOUR_MS, PERSON)
    await resolve(store, event)
    assert (await eraser.erase(PERSON, "officer")).erasure.erase_time_ms >= event.event_time_ms
    await consumer.handle(partition(event.visit_id, PARTITIONS), [entry(event)])
    assert await links.get([PERSON]) == {}


@pytest.mark.parametrize("seed", range(6))
async def test_concurrent_events_of_before_are_erased(
    eraser: Eraser, consumer: RecordConsumer, *, store: VisitorStore, contacts: Contacts, stores: Stores, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    await contacts.upsert(ContactRecord(contact_id="c1", phone_numbers=("+49301234567",)))
    events = [
        admitted("SignIn", new_id(), now_ms() - 1_000 + n, PERSON, data={"phone": "+49301234567"}) for n in range(8)
    ]

    async def arrive(event: Any) -> None:
        await asyncio.sleep(chance.random() * 0.02)
        await resolve(store, event)
        await consumer.handle(partition(event.visit_id, PARTITIONS), [entry(event)])

    async def erase() -> None:
        await asyncio.sleep(chance.random() * 0.02)
        await eraser.erase(PERSON, "officer")

    await asyncio.gather(*map(arrive, events), erase())
    assert await stores.places_of(PERSON) == []


async def test_tombstones_are_restored_into_an_empty_redis(
    known_person: list[str], eraser: Eraser, consumer: RecordConsumer, stores: Stores
) -> None:
    erased_at = (await eraser.erase(PERSON, "officer")).erasure.erase_time_ms
    await stores.redis.flushdb()
    late = admitted("SignIn", new_id(), erased_at, PERSON)
    await consumer.handle(partition(late.visit_id, PARTITIONS), [entry(late)])
    assert await stores.places_of(PERSON) != []
    await eraser.restore()
    assert await stores.places_of(PERSON) == []


async def test_an_erasure_answers_what_history_needs_and_is_in_every_partitions_log(
    running_identity: Running, redis: Any
) -> None:
    visit_id = new_id()
    event = admitted("SignIn", visit_id, now_ms(), PERSON)
    async with running_identity() as identity, identity.stub() as stub:
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
        await append(redis, event)
        await eventually(lambda: _is_known(stub))
        answer = await stub.EraseIdentity(pb.EraseIdentityRequest(identity_id=PERSON, actor="officer"))
        assert (answer.visit_count, answer.identity_erased, answer.link_count) == (1, True, 0)
        assert answer.erasure.identity_hash == identity_hash(ERASURE_KEY, PERSON)
        assert answer.log_clean_time.ToMilliseconds() > now_ms()
        for number in range(PARTITIONS):
            *_, (_, fields) = await redis.xrange(f"log:{{p{number:02d}}}")
            assert EventBatch.FromString(fields[b"b"]).erasure == answer.erasure
        visitor = (await stub.GetVisitor(pb.GetVisitorRequest(visit_id=visit_id))).visitor
        assert (visitor.identity_id, visitor.session_id) == ("", "")
        assert json.dumps(PERSON) not in identity.output()
        assert PERSON not in identity.output()


async def _is_known(stub: Any) -> bool:
    try:
        await stub.GetIdentity(pb.GetIdentityRequest(identity_id=PERSON))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_without_a_key_erasing_is_refused(running_identity: Running) -> None:
    async with running_identity(ERASURE_KEY="", NEVER_ERASE=True) as identity, identity.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.EraseIdentity(pb.EraseIdentityRequest(identity_id=PERSON, actor="officer"))
        details = details_of(refused.value)
        assert (details.code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_ERASURE_KEY")
        assert "ERASURE_KEY" in details.message


async def test_another_erasure_key_is_refused(running_identity: Running) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        await stub.EraseIdentity(pb.EraseIdentityRequest(identity_id=PERSON, actor="officer"))
    async with running_identity(ERASURE_KEY="another key of some length") as identity:
        assert await asyncio.to_thread(identity.process.wait, 10) == 2
        assert '"problem": "ERASURE_KEY: identities were erased in this database with another key' in identity.output()
        assert "stack" not in identity.output()
