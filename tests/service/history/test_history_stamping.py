"""Competing consumers, duplicates, shuffles and crashes between steps: every stamp is the fold of the sorted events.

FOOTFALL_STAMPING_ROUNDS=50 runs longer, FOOTFALL_SEED picks others.
"""

import asyncio
import inspect
import os
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall_history.stamper import Stamper
from footfall_history.store import Store, Unavailable
from footfall_history.tombstones import Tombstones
from footfall_timeline import Fold, merge, normalize_uuid, order_key

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.history import entry
from tests.tools.visits import Event, random_visit, scattered, transitions

ROUNDS = int(os.environ.get("FOOTFALL_STAMPING_ROUNDS", "12"))
SEED = int(os.environ.get("FOOTFALL_SEED", "1"))
VISITS = 2  # few, so that consumers meet in them
CONSUMERS = 4
CRASH_RATE = 0.02


class CrashError(Exception):
    """The process dies here."""


class UnreliableStore:
    """A store whose user is slow at random, and now and then dies before, after or during a command.

    A command during which its user died may be carried out much later: `remains` are such.
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
            # What was read may be long out of date when it is used to write.
            await self._maybe_crash([0, 0, 0.03] if name in {"insert_events", "restamp"} else [0, 0, 0.001, 0.01])
            if self._chance.random() < CRASH_RATE:
                self._remains.add(asyncio.create_task(self._late(command(*arguments))))
                raise CrashError
            try:
                answer = await command(*arguments)
            except Unavailable:  # on a busy machine the server may be taken for dead: that is a crash like any other
                raise CrashError from None
            await self._maybe_crash([0])
            return answer

        return unreliable

    async def _late(self, command: Coroutine[Any, Any, Any]) -> None:
        await asyncio.sleep(self._chance.choice([0, 0.01, 0.1]))
        with suppress(*Unavailable):
            await command

    async def _maybe_crash(self, delays_s: list[float]) -> None:
        await asyncio.sleep(self._chance.choice(delays_s))
        if self._chance.random() < CRASH_RATE:
            raise CrashError


def new_stamper(store: Any) -> Stamper:
    return Stamper(store, Tombstones(store, ERASURE_KEY))


async def consume(log: list[EventBatch], unacknowledged: set[int], store: Any, chance: random.Random) -> None:
    """Take entries, also such as another consumer is at work on, until all are acknowledged; die and come again."""
    stamper = None
    while unacknowledged:
        stamper = stamper or new_stamper(store)
        taken = chance.sample(sorted(unacknowledged), min(len(unacknowledged), chance.randint(1, 4)))
        try:
            assert (await stamper.keep([log[number] for number in taken])).unstorable == []
        except CrashError:
            stamper = None
        else:
            unacknowledged.difference_update(taken)


@pytest.mark.timeout(60 + 5 * ROUNDS)
async def test_every_stamp_is_the_fold_of_the_sorted_events(store: Store) -> None:
    for round_ in range(ROUNDS):
        await play_round(store, random.Random(f"{SEED}/{round_}"))  # noqa: S311 - repeatable, not secret


async def play_round(store: Store, chance: random.Random) -> None:
    """Store a few visits by several consumers at once, and compare."""
    visits = [random_visit(chance) for _ in range(VISITS)]
    log = [entry(beacon) for visit in visits for beacon in scattered(visit, chance)]
    chance.shuffle(log)
    unacknowledged = set(range(len(log)))
    remains: set[asyncio.Task[Any]] = set()
    async with asyncio.TaskGroup() as consumers:
        for _ in range(CONSUMERS):
            consumers.create_task(consume(log, unacknowledged, UnreliableStore(store, chance, remains), chance))
    await asyncio.gather(*remains)
    for visit in visits:
        await assert_stamped_right(store, visit)


async def assert_stamped_right(store: Store, events: list[Event]) -> None:
    """Compare all of a visit's events in the store with what the pure rules say."""
    visit_id = events[0]["visitID"]
    folded = Fold(visit_id, merge(transitions(events)))
    ids = [(event["timestamp"], normalize_uuid(event["eventID"])) for event in events]
    stored = [document async for document in store.events.find({"visit_id": visit_id})]
    assert {
        document["event_id"]: (document["state"], document.get("identity_id", ""), document.get("session_id", ""))
        for document in stored
    } == {event_id: folded.stamp_at(at_ms, event_id)[:3] for at_ms, event_id in ids}
    assert len(stored) == len(events)
    [visit] = await store.read_visits([visit_id])
    assert visit["start_key"] == order_key(min(event["timestamp"] for event in events), visit_id)


async def test_unique_keys_begin_with_the_visit(stamper: Stamper, store: Store) -> None:
    visits = [random_visit(random.Random(number)) for number in range(2)]  # noqa: S311
    await stamper.keep([entry(events) for events in visits])
    for collection in (store.events, store.visits):
        indexes = await collection.index_information()
        assert [name for name, index in indexes.items() if index.get("unique") and name != "_id_"] == []
    visit_ids = {events[0]["visitID"] for events in visits}
    assert {visit["_id"] async for visit in store.visits.find({})} == visit_ids
    assert {stored["_id"][:36] async for stored in store.events.find({})} == visit_ids
