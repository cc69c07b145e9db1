"""A person who is erased is gone from history, stays gone, and takes nothing of others along."""

import asyncio
import os
import random
import uuid
from typing import Any

import bson
import grpc
import pytest
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.arrivals import Unstorable
from footfall_history.dead_letters import DeadLetters
from footfall_history.erasure import Eraser
from footfall_history.preview import Preview
from footfall_history.stamper import Stamper
from footfall_history.store import Store
from footfall_history.tombstones import Tombstones
from footfall_servicekit.errors import details_of
from footfall_timeline import Fold, erase, identity_hash, merge, normalize_uuid

from tests.service.history.conftest import ERASURE_KEY
from tests.service.history.test_history_stamping import CrashError, UnreliableStore
from tests.tools.eventually import eventually
from tests.tools.history import entry, logged
from tests.tools.process import Running
from tests.tools.stamps import stamp_at
from tests.tools.stories import Story
from tests.tools.visits import Event, event, now_ms, random_visit, scattered, transitions

ROUNDS = int(os.environ.get("FOOTFALL_ERASURE_ROUNDS", "6"))


@pytest.fixture
def person() -> str:
    """Somebody whose id is nowhere else."""
    return f"{uuid.uuid4()}@shop.example"


def erasure_of(person: str, until_ms: int | None = None) -> Erasure:
    return Erasure(
        identity_hash=identity_hash(ERASURE_KEY, person),
        erase_time_ms=now_ms() if until_ms is None else until_ms,
        erasure_id=str(uuid.uuid4()),
    )


async def is_anywhere(store: Store, text: str) -> bool:
    """Whether any document of any collection has this text in any of its bytes."""
    database = store.events.database
    for name in await database.list_collection_names():
        async for document in database[name].find():
            if text.encode() in bson.encode(document):
                return True
    return False


async def erase_by_call(stub: Any, person: str, erasure: Erasure) -> tuple[int, int]:
    answer = await stub.EraseIdentity(pb.EraseIdentityRequest(identity_id=person, erasure=erasure))
    return answer.visit_count, answer.event_count


async def test_who_is_erased_is_nowhere_and_does_not_come_back(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    stories = [Story(person), Story(person), Story("ann")]
    said = event("AddToCart", stories[0].visit_id, stories[0].at_ms + 2_500, data={"to": person})
    await stamper.keep([*(story.entry() for story in stories), entry([said])])
    assert await is_anywhere(store, person)
    erasure = erasure_of(person)
    # SignIn, AddToCart, PageExited, PageEntered and SignOut of two visits, and what was said.
    assert await erase_by_call(stub, person, erasure) == (2, 11)
    assert not await is_anywhere(store, person)

    assert await erase_by_call(stub, person, erasure) == (2, 11), "applied twice it changes nothing"
    for replayed in (stamper, Stamper(store, Tombstones(store, ERASURE_KEY), transitions_kept=1_000)):
        await replayed.keep([*(story.entry() for story in stories), entry([said])])
        assert not await is_anywhere(store, person)
    await store.events.delete_many({})
    await store.visits.delete_many({})
    await stamper.keep([*(story.entry() for story in stories), entry([said])])
    assert not await is_anywhere(store, person)

    events = (await stub.ListEvents(pb.ListEventsRequest(visit_id=stories[0].visit_id))).events
    assert len(events) == 8
    assert {stored.stamp.identity_id for stored in events} == {""}
    assert [stored.event.data_json for stored in events if stored.event.event_time_ms < stories[0].at_ms + 2_000] == [
        b"{}",
        b'{"title": "Loans"}',
    ], "what happened before anybody was named is nobody's and stays"
    assert len((await stub.ListEvents(pb.ListEventsRequest(identity_id="ann"))).events) == 5


async def test_who_comes_again_later_is_new(stub: Any, store: Store, stamper: Stamper, person: str) -> None:
    story = Story(person)
    await stamper.keep([story.entry()])
    await erase_by_call(stub, person, erasure_of(person, until_ms=story.at_ms + 5_000))
    again = event("SignIn", story.visit_id, story.at_ms + 5_001, person)
    await stamper.keep([entry([again]), story.entry()])
    [session] = (await stub.ListSessions(pb.ListSessionsRequest(identity_id=person))).sessions
    assert session.start_event_id == normalize_uuid(again["eventID"])
    [stored] = (await stub.ListEvents(pb.ListEventsRequest(identity_id=person))).events
    assert stored.event.identity_id == person
    [explained] = [e for e in await explanations(stub, story) if e.event_id == story.event_id(2)]
    assert (explained.rule, explained.event_name) == ("erased", "SignIn")


async def explanations(stub: Any, story: Story) -> list[Any]:
    return list((await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=story.visit_id))).explanations)


async def test_others_in_the_same_visit_keep_what_is_theirs(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms() - 60_000
    events = [
        event("SignIn", visit_id, at_ms, "ann"),
        event("UserInfo", visit_id, at_ms + 1, person, data={"name": "P."}),
        event("AddToCart", visit_id, at_ms + 2, data={"sku": "A-1"}),
        event("SignIn", visit_id, at_ms + 3, person),
        event("AddToCart", visit_id, at_ms + 4, data={"sku": "P-1"}),
        event("SignIn", visit_id, at_ms + 5, "ann"),
        event("AddToCart", visit_id, at_ms + 6, data={"sku": "A-2"}),
    ]
    await stamper.keep([entry(events)])
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 3)
    stored = (await stub.ListEvents(pb.ListEventsRequest(visit_id=visit_id))).events
    assert [(e.stamp.identity_id, e.event.data_json) for e in stored] == [
        ("ann", b'{"userID": "ann"}'),
        ("", b""),
        ("ann", b'{"sku": "A-1"}'),
        ("", b""),
        ("", b""),
        ("ann", b'{"userID": "ann"}'),
        ("ann", b'{"sku": "A-2"}'),
    ]
    assert not await is_anywhere(store, person)


async def test_an_event_that_names_another_than_its_timeline_is_erased_too(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    first = event("SignIn", str(uuid.uuid4()), now_ms(), person)
    other = first | {"data": {"userID": "\x00smaller than any"}}
    await stamper.keep([entry([first])])
    await stamper.keep([entry([other])])
    assert (await explanations_of(stub, first["visitID"]))[0].after.identity_id == other["data"]["userID"]
    await erase_by_call(stub, person, erasure_of(person))
    assert not await is_anywhere(store, person)
    await stamper.keep([entry([first])])
    assert not await is_anywhere(store, person)


async def explanations_of(stub: Any, visit_id: str) -> list[Any]:
    return list((await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=visit_id))).explanations)


async def test_an_erasure_must_be_that_of_the_person(stub: Any, person: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await erase_by_call(stub, "ann", erasure_of(person))
    assert [violation[0] for violation in details_of(raised.value).violations] == ["erasure.identity_hash"]


async def test_an_erasure_in_the_log_erases_and_counts_for_the_call(
    running_history: Running, redis: Any, store: Store, person: str
) -> None:
    story, erasure = Story(person), erasure_of(person)
    async with running_history() as history, history.stub() as stub:
        for batch in (story.entry(), EventBatch(erasure=erasure), story.entry()):
            await redis.xadd("log:{p00}", {"b": batch.SerializeToString()})

        async def is_erased() -> bool:
            return bool(await store.tombstones([erasure.identity_hash.hex()])) and not await is_anywhere(store, person)

        await eventually(is_erased)
        assert await erase_by_call(stub, person, erasure) == (1, 5)
    assert person.encode() not in history.output().encode()


async def test_without_the_key_nobody_is_erased_and_nobody_comes_back(
    running_history: Running, stub: Any, person: str
) -> None:
    async with running_history(ERASURE_KEY="", NEVER_ERASE=True) as history, history.stub() as keyless:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await erase_by_call(keyless, person, erasure_of(person))
        details = details_of(raised.value)
        assert (details.code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_ERASURE_KEY")
        assert "ERASURE_KEY" in details.message
    await erase_by_call(stub, person, erasure_of(person))
    for key in ("", "another key than before"):
        async with running_history(ERASURE_KEY=key, NEVER_ERASE=True) as history:
            assert await asyncio.to_thread(history.process.wait, 10) == 1
            assert "they would come back" in history.output()


async def test_who_is_erased_is_in_no_dead_letter_and_nobody_else_is_taken_out(
    stub: Any, stamper: Stamper, letters: DeadLetters, eraser: Eraser, person: str
) -> None:
    story, other = Story(person), Story("ann")
    await stamper.keep([story.entry(), other.entry()])

    async def put_aside(name: str, of: Story, after_ms: int, user: str | None = None, **fields: Any) -> str:
        """Its id."""
        batch = entry([])
        alone = logged(event(name, of.visit_id, of.at_ms + after_ms, user), **fields)
        await letters.put(0, [Unstorable(alone, batch.contexts[0], "for a test")])
        return f"{alone.visit_id}/{alone.event_id}"

    async def lying() -> set[str]:
        return {letter.id async for letter in letters.each(0)}

    kept = {
        await put_aside("AddToCart", story, 1_000),  # before anybody was named
        await put_aside("AddToCart", other, 3_000),
        await put_aside("SignIn", other, 3_000, "ann"),
    }
    gone = {
        await put_aside("AddToCart", story, 3_000),
        await put_aside("SignIn", Story("nobody yet"), 0, person),
        await put_aside("AddToCart", story, 3_500, transition=9),
        await put_aside("SignIn", story, 3_500, person, event_time_ms=0),
    }
    assert await lying() == kept | gone
    # SignIn, AddToCart, PageExited, PageEntered and SignOut of the visit, and the letters.
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 5 + len(gone))
    assert await lying() == kept

    await put_aside("AddToCart", story, 3_000)  # by a consumer that had not seen the erasure yet
    assert await eraser.erase_letters(0) == 1
    assert await lying() == kept


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_erasing_beside_competing_consumers_that_crash(
    store: Store, letters: DeadLetters, person: str, round_: int
) -> None:
    """Whatever is stored, erased and replayed at the same time: the person is gone and all stamps are right."""
    chance = random.Random(round_)  # noqa: S311 - repeatable
    visits = [renamed(random_visit(chance), person) for _ in range(4)]
    log = [entry(beacon) for events in visits for beacon in scattered(events, chance)]
    chance.shuffle(log)
    unread, erasure = set(range(len(log))), erasure_of(person)

    remains: set[asyncio.Task[Any]] = set()
    unreliable: Any = UnreliableStore(store, chance, remains)
    keyed, most = Tombstones(unreliable, ERASURE_KEY), chance.choice([2, 5, 1_000])

    async def consume() -> None:
        while unread:
            taken = chance.sample(sorted(unread), min(len(unread), 4))
            try:
                await Stamper(unreliable, keyed, transitions_kept=most).keep([log[n] for n in taken])
                unread.difference_update(taken)
            except CrashError:
                continue

    async def erase_now() -> None:
        await asyncio.sleep(chance.random() * 0.3)
        while True:
            try:
                preview = Preview(unreliable, keyed, transitions_kept=most)
                return await Eraser(unreliable, keyed, letters, preview).apply(0, erasure)
            except CrashError:
                continue

    async with asyncio.TaskGroup() as tasks:
        for work in (consume, consume, consume, erase_now):
            tasks.create_task(work())
    await asyncio.gather(*remains)

    assert not await is_anywhere(store, person)
    for events in visits:
        timeline = erase(merge(transitions(events))[:most], person, erasure.erase_time_ms)
        folded = Fold(events[0]["visitID"], timeline)
        async for stored in store.events.find({"visit_id": events[0]["visitID"]}):
            stamp = stamp_at(folded, int(stored["order_key"][:13]), stored["event_id"])
            assert (stored["state"], stored.get("identity_id", ""), stored.get("session_id", "")) == stamp[:3]


def renamed(events: list[Event], person: str) -> list[Event]:
    """The visit with one of its people replaced by this one, and mentioned wherever that person was."""
    for one in events:
        if one["data"].get("userID") in {"Bob", "42"}:
            one["data"]["userID"] = person
    return events
