"""An erasure removes an identity from history permanently, and nothing of other identities."""

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
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.erasure.eraser import ErasedCounts, Eraser
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.arrivals import Unstorable
from footfall_history.storage.preview import Preview
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.errors import details_of
from footfall_timeline import ANONYMOUS, Kind, VisitState, erase, identity_hash, merge, normalize_uuid

from tests.service.history.conftest import ERASURE_KEY
from tests.service.history.test_history_attribution import CrashError, UnreliableStore
from tests.tools.attributions import attribution_at
from tests.tools.eventually import eventually
from tests.tools.history import entry, logged
from tests.tools.process import Running
from tests.tools.stories import Story
from tests.tools.visits import Event, event, now_ms, random_visit, scattered, transitions

ROUNDS = int(os.environ.get("FOOTFALL_ERASURE_ROUNDS", "4"))


@pytest.fixture
def person() -> str:
    """An identity that occurs nowhere else."""
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


async def test_an_erased_identity_is_nowhere_and_does_not_come_back(
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    stories = [Story(person), Story(person), Story("ann")]
    said = event("AddToCart", stories[0].visit_id, stories[0].at_ms + 2_500, data={"to": person})
    await attributor.store([*(story.entry() for story in stories), entry([said])])
    assert await is_anywhere(store, person)
    erasure = erasure_of(person)
    # Two visits of seven events, and the event whose data contain the id.
    assert await erase_by_call(stub, person, erasure) == (2, 15)
    assert not await is_anywhere(store, person)

    assert await erase_by_call(stub, person, erasure) == (2, 15), "applied twice it changes nothing"
    for replayed in (attributor, Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=1_000)):
        await replayed.store([*(story.entry() for story in stories), entry([said])])
        assert not await is_anywhere(store, person)
    await store.events.delete_many({})
    await store.visits.delete_many({})
    await attributor.store([*(story.entry() for story in stories), entry([said])])
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


def mentioning(name: str, story: Story, after_ms: int, user: str | None = None) -> Event:
    """An event with the identity in every field that a page may set."""
    mark, at_ms = story.person, story.at_ms + after_ms
    about = {"url": f"https://shop.example/?m={mark}", "category": mark, "pageID": mark, "languageCode": mark}
    return event(name, story.visit_id, at_ms, user, globalVisitID=mark, data={"title": mark}, **about)


async def test_an_erased_event_keeps_only_ids_times_and_class(
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    story = Story(person)
    mentions = [
        mentioning("VisitStarted", story, 0),
        mentioning("PageEntered", story, 10),
        mentioning(f"Saw {person}", story, 20),
        mentioning("SignIn", story, 30, person),
        mentioning(f"Bought {person}", story, 40),
    ]
    batch = entry(mentions, user_agent=f"Browser of {person}")
    await attributor.store([batch])
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 5)
    late = [mentioning(f"Late {person}", story, after_ms) for after_ms in (-5, 15, 50)]
    await attributor.store([batch, entry(late, user_agent=f"Browser of {person}")])
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


async def test_anonymous_events_are_erased_with_the_identity_named_first(
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    ann_first, person_first = Story("ann"), Story(person)
    for story, names in ((ann_first, ["ann", person]), (person_first, [person, "ann"])):
        events = [
            event("PageEntered", story.visit_id, story.at_ms),
            event("SignOut", story.visit_id, story.at_ms + 1),
            *(event("SignIn", story.visit_id, story.at_ms + 2 + n, name) for n, name in enumerate(names)),
        ]
        await attributor.store([entry(events)])
    assert await erase_by_call(stub, person, erasure_of(person)) == (2, 4)
    kept = {ann_first.visit_id: [True, True, True, False], person_first.visit_id: [False, False, False, True]}
    for visit_id, are_kept in kept.items():
        found = await store.events.find({"visit_id": visit_id}).sort("order_key").to_list(None)
        assert ["url" in document for document in found] == are_kept
        assert "user_agent" in (await store.visits.find_one({"_id": visit_id}) or {}), "ann's browser is hers as well"


async def test_anonymous_events_can_be_kept_by_a_setting(
    store: Store, dead_letters: DeadLetterQueue, person: str
) -> None:
    keeping, story = Tombstones(store, ERASURE_KEY, erases_anonymous=False), Story(person)
    attributor = Attributor(store, keeping, max_transitions=1_000)
    await attributor.store([story.entry()])
    eraser = Eraser(store, keeping, dead_letters, Preview(keeping, max_transitions=1_000))
    assert await eraser.erase(person, erasure_of(person)) == ErasedCounts(visits=1, events=5)
    await attributor.store([entry([event("Late", story.visit_id, story.at_ms + 10)])])
    left = await store.events.find({"erased": {"$ne": True}}).sort("order_key").to_list(None)
    assert [document["event_name"] for document in left] == ["VisitStarted", "PageEntered", "Late"]
    assert "user_agent" in (await store.visits.find_one() or {}), "it belongs to the events that are kept as well"


async def test_an_erased_visit_may_start_earlier_and_get_another_identity(
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    story = Story(person)
    await attributor.store([story.entry()])
    await erase_by_call(stub, person, erasure_of(person))
    earlier = event("PageEntered", story.visit_id, story.at_ms - 10, globalVisitID=story.device)
    await attributor.store([entry([earlier])])
    visit = await store.visits.find_one()
    assert visit is not None
    assert (visit["start_key"][:13], visit["forgotten"]) == (str(story.at_ms - 10), True)
    assert not {"user_agent", "global_visit_id"} & set(visit)
    await attributor.store([entry([event("SignIn", story.visit_id, now_ms(), "ann")])])
    assert (await store.visits.find_one({"forgotten": False})) is not None
    [event_of_ann] = (await stub.ListEvents(pb.ListEventsRequest(identity_id="ann"))).events
    assert event_of_ann.event.url


async def test_an_erased_identity_that_signs_in_again_is_new(
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    story = Story(person)
    await attributor.store([story.entry()])
    await erase_by_call(stub, person, erasure_of(person, until_ms=story.at_ms + 5_000))
    again = event("SignIn", story.visit_id, story.at_ms + 5_001, person)
    await attributor.store([entry([again]), story.entry()])
    [session] = (await stub.ListSessions(pb.ListSessionsRequest(identity_id=person))).sessions
    assert session.start_event_id == normalize_uuid(again["eventID"])
    [stored] = (await stub.ListEvents(pb.ListEventsRequest(identity_id=person))).events
    assert stored.event.identity_id == person
    [explained] = [e for e in await explanations(stub, story) if e.event_id == story.event_id(2)]
    assert (explained.rule, explained.event_name) == ("erased", "SignIn")


async def explanations(stub: Any, story: Story) -> list[Any]:
    return list((await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=story.visit_id))).explanations)


async def test_other_identities_of_the_same_visit_keep_their_events(
    stub: Any, store: Store, attributor: Attributor, person: str
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
    await attributor.store([entry(events)])
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
    stub: Any, store: Store, attributor: Attributor, person: str
) -> None:
    first = event("SignIn", str(uuid.uuid4()), now_ms(), person)
    other = first | {"data": {"userID": "\x00smaller than any"}}
    await attributor.store([entry([first])])
    await attributor.store([entry([other])])
    assert (await explanations_of(stub, first["visitID"]))[0].after.identity_id == other["data"]["userID"]
    await erase_by_call(stub, person, erasure_of(person))
    assert not await is_anywhere(store, person)
    await attributor.store([entry([first])])
    assert not await is_anywhere(store, person)


async def explanations_of(stub: Any, visit_id: str) -> list[Any]:
    return list((await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=visit_id))).explanations)


async def test_an_erasure_of_another_identity_is_refused(stub: Any, person: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await erase_by_call(stub, "ann", erasure_of(person))
    assert [violation[0] for violation in details_of(raised.value).violations] == ["erasure.identity_hash"]


async def test_an_erasure_in_the_log_is_applied_and_counted_with_the_call(
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


async def test_without_the_key_no_identity_is_erased_and_none_comes_back(
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
            assert (
                '"problem": "ERASURE_KEY: identities were erased in this database with another key' in history.output()
            )
            assert "stack" not in history.output()


async def test_erasing_removes_dead_letters_of_the_identity_only(
    stub: Any, attributor: Attributor, dead_letters: DeadLetterQueue, eraser: Eraser, person: str
) -> None:
    story, other = Story(person), Story("ann")
    await attributor.store([story.entry(), other.entry()])

    async def put_dead_letter(name: str, of: Story, after_ms: int, user: str | None = None, **fields: Any) -> str:
        """Its id."""
        batch = entry([])
        alone = logged(event(name, of.visit_id, of.at_ms + after_ms, user), **fields)
        await dead_letters.put(0, [Unstorable(alone, batch.contexts[0], "for a test")])
        return f"{alone.visit_id}/{alone.event_id}"

    async def lying() -> set[str]:
        return {dead_letter.id async for dead_letter in dead_letters.in_partition(0)}

    kept = {
        await put_dead_letter("AddToCart", other, 3_000),
        await put_dead_letter("SignIn", other, 3_000, "ann"),
    }
    gone = {
        await put_dead_letter("AddToCart", story, 1_000),  # before an identity was named
        await put_dead_letter("AddToCart", story, 3_000),
        await put_dead_letter("SignIn", Story("new person"), 0, person),
        await put_dead_letter("AddToCart", story, 3_500, transition=9),
        await put_dead_letter("SignIn", story, 3_500, person, event_time_ms=0),
    }
    assert await lying() == kept | gone
    # The whole visit, and the letters.
    assert await erase_by_call(stub, person, erasure_of(person)) == (1, 7 + len(gone))
    assert await lying() == kept

    await put_dead_letter("AddToCart", story, 3_000)  # by a consumer that had not seen the erasure yet
    assert await eraser.erase_dead_letters(0) == 1
    assert await lying() == kept


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_erasing_converges_with_competing_consumers_that_crash(
    store: Store, dead_letters: DeadLetterQueue, person: str, round_: int
) -> None:
    """Storing, erasing and replaying concurrently: the identity is gone and every attribution is right.

    More may be erased than belongs to the identity in the end: a later event may give some to another identity.
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
                await Attributor(unreliable, keyed, max_transitions=most).store([log[n] for n in taken])
                unread.difference_update(taken)
            except CrashError:
                continue

    async def erase_now() -> None:
        await asyncio.sleep(chance.random() * 0.3)
        while True:
            try:
                preview = Preview(keyed, max_transitions=most)
                return await Eraser(unreliable, keyed, dead_letters, preview).apply(0, erasure)
            except CrashError:
                continue

    async with asyncio.TaskGroup() as tasks:
        for work in (consume, consume, consume, erase_now):
            tasks.create_task(work())
    await asyncio.gather(*remains)

    assert not await is_anywhere(store, person)
    for events in visits:
        timeline = erase(merge(transitions(events))[:most], person, erasure.erase_time_ms)
        folded = VisitState(events[0]["visitID"], timeline)
        async for stored in store.events.find({"visit_id": events[0]["visitID"]}):
            stamp = attribution_at(folded, int(stored["order_key"][:13]), stored["event_id"])
            assert (stored["state"], stored.get("identity_id", ""), stored.get("session_id", "")) == stamp[:3]
            assert not (is_of_forgotten(folded, stored["order_key"]) and {"url", "data_json", "category"} & set(stored))
            assert bool(stored.get("erased")) == ("url" not in stored)
        visit = await store.visits.find_one({"_id": events[0]["visitID"]}) or {}
        is_erased = not folded.associations and is_of_forgotten(folded, visit["start_key"])
        assert not (is_erased and "user_agent" in visit)


def is_of_forgotten(folded: VisitState, key: str) -> bool:
    """Whether an event with this key belongs to an erased identity, or is anonymous before one."""
    owners = [
        step.transition
        for step in folded.steps
        if step.transition.kind is not Kind.SIGN_OUT and (step.after != step.before or step.before == ANONYMOUS)
    ]
    before = [owner for owner in owners if owner.order_key <= key]
    return bool(owners) and (before[-1] if before else owners[0]).is_erased


def renamed(events: list[Event], person: str) -> list[Event]:
    """The visit with one identity replaced by this one, which its data mention as well."""
    for one in events:
        if one["data"].get("userID") in {"Bob", "42"}:
            one["data"]["userID"] = person
    return events
