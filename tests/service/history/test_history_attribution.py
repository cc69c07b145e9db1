"""Attribution with competing consumers, duplicates, shuffled events and crashes between the steps.

FOOTFALL_STAMPING_ROUNDS=50 runs longer, FOOTFALL_SEED picks others.
"""

import asyncio
import inspect
import os
import random
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_SITE, EventBatch
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import TRANSIENT_STORE_ERRORS, Reattribution, Store
from footfall_history.storage.tombstones import Tombstones
from footfall_timeline import State, VisitState, merge, normalize_uuid, order_key

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.attributions import attribution_at
from tests.tools.batches import batch
from tests.tools.history import entry, logged
from tests.tools.visits import Event, event, now_ms, random_visit, scattered, transitions

ROUNDS = int(os.environ.get("FOOTFALL_STAMPING_ROUNDS", "8"))
SEED = int(os.environ.get("FOOTFALL_SEED", "1"))
VISITS = 2  # few, so that consumers meet in them
CONSUMERS = 4
CRASH_RATE = 0.02


class CrashError(Exception):
    """The process dies here."""


class UnreliableStore:
    """A store whose user is slow at random and sometimes crashes before, after or during a command.

    A command during which the user crashed may be executed much later. `remains` collects these.
    """

    def __init__(self, store: Store, chance: random.Random, remains: set[asyncio.Task[Any]]) -> None:
        self._store = store
        self._chance = chance
        self._remains = remains

    def __getattr__(self, name: str) -> Callable[..., Any]:
        command = getattr(self._store, name)
        if not inspect.iscoroutinefunction(command):
            return command  # type: ignore[no-any-return]

        async def unreliable(*arguments: Any) -> Any:
            # What was read may be outdated when it is used to write.
            await self._maybe_crash([0, 0, 0.03] if name in {"insert_events", "reattribute"} else [0, 0, 0.001, 0.01])
            if self._chance.random() < CRASH_RATE:
                self._remains.add(asyncio.create_task(self._late(command(*arguments))))
                raise CrashError
            try:
                answer = await command(*arguments)
            except (
                TRANSIENT_STORE_ERRORS
            ):  # on a busy machine the server may be taken for dead: that is a crash like any other
                raise CrashError from None
            await self._maybe_crash([0])
            return answer

        return unreliable

    async def _late(self, command: Coroutine[Any, Any, Any]) -> None:
        await asyncio.sleep(self._chance.choice([0, 0.01, 0.1]))
        with suppress(*TRANSIENT_STORE_ERRORS):
            await command

    async def _maybe_crash(self, delays_s: list[float]) -> None:
        await asyncio.sleep(self._chance.choice(delays_s))
        if self._chance.random() < CRASH_RATE:
            raise CrashError


async def consume(
    log: list[EventBatch], unacknowledged: set[int], store: Any, chance: random.Random, most: int
) -> None:
    """Handle entries until all are acknowledged, also those of other consumers. Start again after a crash."""
    attributor = None
    while unacknowledged:
        attributor = attributor or Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=most)
        taken = chance.sample(sorted(unacknowledged), min(len(unacknowledged), chance.randint(1, 4)))
        try:
            assert (await attributor.store([log[number] for number in taken])).unstorable == []
        except CrashError:
            attributor = None
        else:
            unacknowledged.difference_update(taken)


@pytest.mark.timeout(60 + 5 * ROUNDS)
async def test_every_attribution_equals_that_of_the_events_in_order(store: Store) -> None:
    for round_ in range(ROUNDS):
        await play_round(store, random.Random(f"{SEED}/{round_}"))  # noqa: S311 - repeatable, not secret


async def play_round(store: Store, chance: random.Random) -> None:
    """Store a few visits by several concurrent consumers, and compare."""
    visits = [random_visit(chance) for _ in range(VISITS)]
    for visit in visits:
        for one in chance.sample(visit, chance.choice([0, 1, 2])):
            one["staffReason"] = STAFF_REASON_SITE
    log = [entry(beacon) for visit in visits for beacon in scattered(visit, chance)]
    chance.shuffle(log)
    unacknowledged, most = set(range(len(log))), chance.choice([2, 5, 1_000])
    remains: set[asyncio.Task[Any]] = set()
    async with asyncio.TaskGroup() as consumers:
        for _ in range(CONSUMERS):
            consumers.create_task(consume(log, unacknowledged, UnreliableStore(store, chance, remains), chance, most))
    await asyncio.gather(*remains)
    for visit in visits:
        await assert_attributed_right(store, visit, most)


async def assert_attributed_right(store: Store, events: list[Event], most: int = 1_000) -> None:
    """Compare all stored events of a visit with the rules of the timeline."""
    visit_id = events[0]["visitID"]
    timeline = merge(transitions(events))
    folded = VisitState(visit_id, timeline[:most])
    ids = [(event["timestamp"], normalize_uuid(event["eventID"])) for event in events]
    stored = [document async for document in store.events.find({"visit_id": visit_id})]
    assert {
        document["event_id"]: (document["state"], document.get("identity_id", ""), document.get("session_id", ""))
        for document in stored
    } == {event_id: attribution_at(folded, at_ms, event_id)[:3] for at_ms, event_id in ids}
    assert len(stored) == len(events)
    [visit] = await store.read_visits([visit_id])
    assert (len(visit["timeline"]), visit.get("truncated", False)) == (min(most, len(timeline)), len(timeline) > most)
    assert visit.get("staff", False) == any("staffReason" in one for one in events)
    assert visit["start_key"] == order_key(min(event["timestamp"] for event in events), visit_id)


async def test_a_process_that_remembers_a_visit_as_anonymous_notices_that_another_has_changed_it(
    attributor: Attributor, store: Store, tombstones: Tombstones
) -> None:
    visit_id, at = str(uuid.uuid4()), now_ms() - 60_000
    pages = [event("PageEntered", visit_id, at + offset) for offset in (0, 20, 30)]
    await attributor.store([entry(pages[:1])])
    other = Attributor(store, tombstones, max_transitions=1_000)
    await other.store([entry([event("SignIn", visit_id, at + 10, "ann")])])
    for page in pages[1:]:
        await attributor.store([entry([page])])
    stored = {found["event_id"]: found async for found in store.events.find({"visit_id": visit_id})}
    assert [stored[normalize_uuid(page["eventID"])]["state"] for page in pages] == [
        State.ANONYMOUS,
        State.AUTHENTICATED,
        State.AUTHENTICATED,
    ]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("later_first", [True, False])
async def test_an_event_admitted_with_two_times_has_the_earlier_one(
    attributor: Attributor, store: Store, later_first: bool, together: bool
) -> None:
    """A wrong clock of a browser is corrected at each attempt to send, to different times."""
    visit_id, at = str(uuid.uuid4()), now_ms() - 60_000
    sign_in, sign_out = event("SignIn", visit_id, at, "ann"), event("SignOut", visit_id, at + 20)
    pages = [event("PageEntered", visit_id, at + offset) for offset in (5, 15, 25)]
    copies = [logged(sign_out, event_time_ms=at + offset) for offset in ((20, 10) if later_first else (10, 20))]
    rest = [logged(one) for one in (sign_in, *pages)]
    entries = [batch(*rest, *copies)] if together else [batch(*rest), *map(batch, copies)]
    for one in entries:
        await attributor.store([one])
    stored = {document["event_id"]: document async for document in store.events.find({"visit_id": visit_id})}
    out = stored[normalize_uuid(sign_out["eventID"])]
    assert (out["order_key"][:13], out["state"], "session_id" in out) == (f"{at + 10:013d}", State.RECOGNIZED, True)
    after = [stored[normalize_uuid(one["eventID"])]["state"] for one in pages]
    assert after == [State.AUTHENTICATED, State.RECOGNIZED, State.RECOGNIZED]
    assert all(document["rev"] >= 0 for document in stored.values())


async def test_unique_keys_begin_with_the_visit(attributor: Attributor, store: Store) -> None:
    visits = [random_visit(random.Random(number)) for number in range(2)]  # noqa: S311
    await attributor.store([entry(events) for events in visits])
    for collection in (store.events, store.visits):
        indexes = await collection.index_information()
        assert [name for name, index in indexes.items() if index.get("unique") and name != "_id_"] == []
    visit_ids = {events[0]["visitID"] for events in visits}
    assert {visit["_id"] async for visit in store.visits.find({})} == visit_ids
    assert {stored["_id"][:36] async for stored in store.events.find({})} == visit_ids


async def test_an_event_moved_since_it_was_read_is_not_reattributed(store: Store) -> None:
    await store.insert_events([{"_id": "e", "visit_id": "v", "order_key": "2", "rev": 1}])
    await store.move_events({"e": "1"})  # by another consumer, which will attribute it
    assert await store.reattribute([Reattribution("v", ["2"], {"rev": 5}, [])]) == 0
    assert await store.reattribute([Reattribution("v", ["1"], {"rev": 5}, [])]) == 1


async def test_an_event_is_reattributed_by_a_later_revision_only(store: Store) -> None:
    event = {"_id": "e", "visit_id": "v", "order_key": "1", "rev": 1, "session_id": "s"}
    await store.insert_events([event])
    fields = {"rev": 3, "identity_id": "$order_key"}  # no text is taken for a field's name
    assert await store.reattribute([Reattribution("v", ["1"], fields, ["session_id"])]) == 1
    assert await store.reattribute([Reattribution("v", ["1"], {"rev": 2, "identity_id": "ann"}, ["order_key"])]) == 0
    stored = {"_id": "e", "visit_id": "v", "order_key": "1", "rev": 3, "identity_id": "$order_key"}
    assert await store.read_events(["e"]) == [stored]
