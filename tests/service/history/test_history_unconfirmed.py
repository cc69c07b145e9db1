"""Writes that MongoDB does not confirm, or refuses for now, have failed: entries are read again, calls UNAVAILABLE."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import Erasure
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.storage.store import TRANSIENT_STORE_ERRORS, Reattribution, Store, TemporaryRefusalError
from footfall_servicekit.errors import details_of
from footfall_timeline import identity_hash

from tests.service.history.conftest import ERASURE_KEY
from tests.service.history.test_history_process import append, has_events
from tests.tools.batches import new_uuid
from tests.tools.eventually import eventually
from tests.tools.faulty_mongo import (
    FAULTS,
    FULL_DISK,
    FULL_DISK_FOR_ONE,
    UNCONFIRMED,
    Fault,
    FaultyMongo,
    faulty_mongo,
)
from tests.tools.process import Running
from tests.tools.stories import Story
from tests.tools.visits import now_ms

Write = Callable[[Store], Awaitable[object]]
VISIT = {"_id": "v", "rev": 1, "start_key": "1"}
EVENT = {"_id": "e", "visit_id": "v", "rev": 1, "order_key": "1"}
WRITES: dict[str, Write] = {
    "new visits": lambda store: store.begin_visits([VISIT | {"_id": "w"}]),
    "new visits, one of them known": lambda store: store.begin_visits([VISIT | {"_id": "w"}, VISIT]),
    "timelines": lambda store: store.replace_timelines([("v", {"rev": 2})]),
    "starts": lambda store: store.move_visits({"v": {"start_key": "0"}}, ["v"], 1),
    "new events, one of them known": lambda store: store.insert_events([EVENT | {"_id": "f"}, EVENT]),
    "attributions": lambda store: store.reattribute([Reattribution("v", ["1"], {"rev": 2}, [])]),
    "events that name an identity": lambda store: store.erase_naming(["e"]),
    "conflicts": lambda store: store.flag_conflicts(["e"]),
    "a tombstone": lambda store: store.put_tombstone("hash", 1, "check"),
    "the journal": lambda store: store.journal(),
    "expired events": lambda store: store.remove_before(now_ms()),
}


@pytest.fixture
def mongo(mongo_url: str) -> Iterator[FaultyMongo]:
    """A server whose answers to writes can have a fault."""
    with faulty_mongo(mongo_url) as mongo:
        yield mongo


@pytest.fixture
async def store(mongo: FaultyMongo, mongo_database: str) -> AsyncIterator[Store]:
    """A store on it, with a visit and an event."""
    store = Store.open(mongo.url, mongo_database, 2_000)
    await store.begin_visits([VISIT])
    await store.insert_events([EVENT])
    yield store
    await store.close()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", WRITES)
async def test_every_write_says_that_the_store_is_unavailable(
    mongo: FaultyMongo, store: Store, write: str, fault: str
) -> None:
    mongo.fault = FAULTS[fault]
    with pytest.raises(TRANSIENT_STORE_ERRORS):
        await WRITES[write](store)


async def test_visits_that_cannot_be_read_now_say_that_the_store_is_unavailable(
    mongo: FaultyMongo, store: Store
) -> None:
    mongo.commands, mongo.fault = {"aggregate"}, FULL_DISK
    with pytest.raises(TemporaryRefusalError) as refused:
        await anext(store.each_visit({"start_key": "1"}))
    assert refused.value.code == FULL_DISK["code"]


@pytest.mark.parametrize("fault", [UNCONFIRMED, FULL_DISK])
async def test_indexes_are_made_as_soon_as_it_confirms(mongo: FaultyMongo, store: Store, fault: Fault) -> None:
    mongo.fault = fault
    preparing = asyncio.create_task(store.prepare())
    await asyncio.sleep(0.3)
    assert not preparing.done()
    mongo.fault = None
    await asyncio.wait_for(preparing, 10)


@pytest.mark.parametrize("fault", [UNCONFIRMED, FULL_DISK_FOR_ONE])
async def test_calls_are_unavailable_and_the_log_is_read_after_writes_are_confirmed_again(
    mongo: FaultyMongo, running_history: Running, redis: Any, dead_letters: DeadLetterQueue, fault: Fault
) -> None:
    story = Story("dana")
    erasure = Erasure(identity_hash=identity_hash(ERASURE_KEY, "ann"), erasure_id=new_uuid(), erase_time_ms=now_ms())
    async with running_history(MONGO_URL=mongo.url) as history, history.stub() as stub:
        mongo.fault = fault
        await append(redis, story.entry())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.EraseIdentity(pb.EraseIdentityRequest(identity_id="ann", erasure=erasure))
        assert details_of(refused.value).code is grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: "reading failed" in history.output())
        mongo.fault = None
        await eventually(partial(has_events, stub, story.visit_id, 7))
        assert history.process.poll() is None
    assert [letter async for letter in dead_letters.in_partition(0)] == []
