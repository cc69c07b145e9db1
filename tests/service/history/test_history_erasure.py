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
from footfall_history.dead_letters.letters import DeadLetters
from footfall_history.erasure.eraser import Eraser
from footfall_history.ingest.stamper import Stamper
from footfall_history.storage.arrivals import Unstorable
from footfall_history.storage.preview import Preview
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.errors import details_of
from footfall_timeline import ANONYMOUS, Fold, Kind, erase, identity_hash, merge, normalize_uuid

from tests.service.history.conftest import ERASURE_KEY
from tests.service.history.test_history_stamping import CrashError, UnreliableStore
from tests.tools.eventually import eventually
from tests.tools.history import entry, logged
from tests.tools.process import Running
from tests.tools.stamps import stamp_at
from tests.tools.stories import Story
from tests.tools.visits import Event, event, now_ms, random_visit, scattered, transitions

ROUNDS = int(os.environ.get("FOOTFALL_ERASURE_ROUNDS", "4"))


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
    # Two visits of seven events, from the first on, and what was said.
    assert await erase_by_call(stub, person, erasure) == (2, 15)
    assert not await is_anywhere(store, person)

    assert await erase_by_call(stub, person, erasure) == (2, 15), "applied twice it changes nothing"
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
    assert len((await stub.ListEvents(pb.ListEventsRequest(identity_id="ann"))).events) == 5


LEFT_OF_AN_EVENT = {
    *("_id", "visit_id", "event_id", "event_name", "event_type", "site", "erased"),
    *("order_key", "received_ms", "timestamp_ms", "rev", "state"),
}
LEFT_OF_A_VISIT = {
    *("_id", "site", "site_key", "start_key", "touched_ms"),
    *("rev", "timeline", "identities", "identity_hashes", "session_ids", "forgotten"),
}


def telling(name: str, story: Story, after_ms: int, user: str | None = None) -> Event:
    """An event that tells of the person by everything that a page may say."""
    mark, at_ms = story.person, story.at_ms + after_ms
    about = {"url": f"https://shop.example/?m={mark}", "category": mark, "pageID": mark, "languageCode": mark}
    return event(name, story.visit_id, at_ms, user, globalVisitID=mark, data={"title": mark}, **about)


async def test_of_an_event_its_ids_times_and_class_are_left(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    story = Story(person)
    told = [
        telling("VisitStarted", story, 0),
        telling("PageEntered", story, 10),
        telling(f"Saw {person}", story, 20),
        telling("SignIn", story, 30, person),
        telling(f"Bought {person}", story, 40),
    ]
    batch = entry(told, user_agent=f"Browser of {person}")
    await stamper.keep([batch])
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 5)
    late = [telling(f"Late {person}", story, after_ms) for after_ms in (-5, 15, 50)]
    await stamper.keep([batch, entry(late, user_agent=f"Browser of {person}")])
    assert not await is_anywhere(store, person)

    stored = await store.events.find().sort("order_key").to_list(None)
    assert {name for document in stored for name in document} == LEFT_OF_AN_EVENT
    names = [document.get("event_name") for document in stored]
    assert names == [None, "VisitStarted", "PageEntered", None, None, "SignIn", None, None]
    visit = await store.visits.find_one() or {}
    assert {*visit} - {"last_key"} == LEFT_OF_A_VISIT
    events = (await stub.ListEvents(pb.ListEventsRequest(visit_id=story.visit_id))).events
    assert [found.event.event_time_ms - story.at_ms for found in events] == [-5, 0, 10, 15, 20, 30, 40, 50]
    assert (await stub.ListPages(pb.ListPagesRequest(visit_id=story.visit_id))).pages == []


async def test_what_came_before_the_first_name_is_whose_that_name_was(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    ann_first, person_first = Story("ann"), Story(person)
    for story, names in ((ann_first, ["ann", person]), (person_first, [person, "ann"])):
        events = [
            event("PageEntered", story.visit_id, story.at_ms),
            event("SignOut", story.visit_id, story.at_ms + 1),
            *(event("SignIn", story.visit_id, story.at_ms + 2 + n, name) for n, name in enumerate(names)),
        ]
        await stamper.keep([entry(events)])
    assert await erase_by_call(stub, person, erasure_of(person)) == (2, 4)
    kept = {ann_first.visit_id: [True, True, True, False], person_first.visit_id: [False, False, False, True]}
    for visit_id, are_kept in kept.items():
        found = await store.events.find({"visit_id": visit_id}).sort("order_key").to_list(None)
        assert ["url" in document for document in found] == are_kept
        assert "user_agent" in (await store.visits.find_one({"_id": visit_id}) or {}), "ann's browser is hers as well"


async def test_what_came_before_anybody_was_named_may_be_kept(store: Store, letters: DeadLetters, person: str) -> None:
    keeping, story = Tombstones(store, ERASURE_KEY, erases_anonymous=False), Story(person)
    stamper = Stamper(store, keeping, transitions_kept=1_000)
    await stamper.keep([story.entry()])
    eraser = Eraser(store, keeping, letters, Preview(keeping, transitions_kept=1_000))
    assert await eraser.erase(person, erasure_of(person)) == (1, 5)
    await stamper.keep([entry([event("Late", story.visit_id, story.at_ms + 10)])])
    left = await store.events.find({"erased": {"$ne": True}}).sort("order_key").to_list(None)
    assert [document["event_name"] for document in left] == ["VisitStarted", "PageEntered", "Late"]
    assert "user_agent" in (await store.visits.find_one() or {}), "it is of the events that are kept too"


async def test_a_visit_that_is_forgotten_may_start_earlier_and_be_somebody_elses_later(
    stub: Any, store: Store, stamper: Stamper, person: str
) -> None:
    story = Story(person)
    await stamper.keep([story.entry()])
    await erase_by_call(stub, person, erasure_of(person))
    earlier = event("PageEntered", story.visit_id, story.at_ms - 10, globalVisitID=story.device)
    await stamper.keep([entry([earlier])])
    visit = await store.visits.find_one()
    assert visit is not None
    assert (visit["start_key"][:13], visit["forgotten"]) == (str(story.at_ms - 10), True)
    assert not {"user_agent", "global_visit_id"} & set(visit)
    await stamper.keep([entry([event("SignIn", story.visit_id, now_ms(), "ann")])])
    assert (await store.visits.find_one({"forgotten": False})) is not None
    [event_of_ann] = (await stub.ListEvents(pb.ListEventsRequest(identity_id="ann"))).events
    assert event_of_ann.event.url


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
        assert await erase_by_call(stub, person, erasure) == (1, 7)
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
            assert await asyncio.to_thread(history.process.wait, 30) == 2
            assert '"problem": "ERASURE_KEY: people were erased here under another one' in history.output()
            assert "stack" not in history.output()


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
        await put_aside("AddToCart", other, 3_000),
        await put_aside("SignIn", other, 3_000, "ann"),
    }
    gone = {
        await put_aside("AddToCart", story, 1_000),  # before anybody was named
        await put_aside("AddToCart", story, 3_000),
        await put_aside("SignIn", Story("nobody yet"), 0, person),
        await put_aside("AddToCart", story, 3_500, transition=9),
        await put_aside("SignIn", story, 3_500, person, event_time_ms=0),
    }
    assert await lying() == kept | gone
    # The whole visit, and the letters.
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 7 + len(gone))
    assert await lying() == kept

    await put_aside("AddToCart", story, 3_000)  # by a consumer that had not seen the erasure yet
    assert await eraser.erase_letters(0) == 1
    assert await lying() == kept


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_erasing_beside_competing_consumers_that_crash(
    store: Store, letters: DeadLetters, person: str, round_: int
) -> None:
    """Whatever is stored, erased and replayed at the same time: the person is gone and all stamps are right.

    More may be erased than is the person's in the end: what an event that came later still gave to somebody else.
    """
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
                preview = Preview(keyed, transitions_kept=most)
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
            assert not (is_of_forgotten(folded, stored["order_key"]) and {"url", "data_json", "category"} & set(stored))
            assert bool(stored.get("erased")) == ("url" not in stored)
        visit = await store.visits.find_one({"_id": events[0]["visitID"]}) or {}
        is_forgotten = not folded.associations and is_of_forgotten(folded, visit["start_key"])
        assert not (is_forgotten and "user_agent" in visit)


def is_of_forgotten(folded: Fold, key: str) -> bool:
    """Whether whoever an event with this key belongs to has been erased, or whom the visit first named after it."""
    owners = [
        step.transition
        for step in folded.steps
        if step.transition.kind is not Kind.SIGN_OUT and (step.after != step.before or step.before == ANONYMOUS)
    ]
    before = [owner for owner in owners if owner.order_key <= key]
    return bool(owners) and (before[-1] if before else owners[0]).is_erased


def renamed(events: list[Event], person: str) -> list[Event]:
    """The visit with one of its people replaced by this one, and mentioned wherever that person was."""
    for one in events:
        if one["data"].get("userID") in {"Bob", "42"}:
            one["data"]["userID"] = person
    return events
