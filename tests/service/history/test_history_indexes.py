"""Indexes are made while history serves: what has its index goes on, and what has none is refused."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.storage import store as store_module
from footfall_history.storage.indexes import INDEXES
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.background import NotReadyError
from footfall_servicekit.errors import details_of
from footfall_servicekit.indexes import IndexMissingError
from structlog.testing import capture_logs

from bench.past import VISITS_A_PERSON, Past, fill
from tests.service.gateway.conftest import running_gateway
from tests.service.history.conftest import ERASURE_KEY, Listener
from tests.service.history.test_history_process import append, has_events
from tests.tools.eventually import eventually
from tests.tools.faulty_mongo import FaultyMongo, faulty_mongo
from tests.tools.process import Running
from tests.tools.slow_builds import refused_builds, slow_builds
from tests.tools.stories import Story

IS_BUILT = "an index is built"
IS_BEING_BUILT = "an index is being built"


@pytest.fixture
def slow_mongo(mongo_url: str) -> Iterator[FaultyMongo]:
    """A server on which builds can be made slow."""
    with faulty_mongo(mongo_url) as mongo:
        yield mongo


@pytest.fixture
async def new_store(slow_mongo: FaultyMongo, mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store on it without indexes, whose commands must end within 300 ms."""
    monkeypatch.setattr(store_module, "_SOCKET_TIMEOUT_MS", 300)
    store = Store.open(slow_mongo.url, mongo_database, 20_000)
    yield store
    await store.close()


async def test_the_log_is_read_and_queries_with_an_index_are_answered_during_a_build(
    slow_mongo: FaultyMongo, running_history: Running, redis: Any
) -> None:
    story = Story("dana")
    before = [*INDEXES].index("events.event_id")
    by_id = pb.GetEventRequest(event_id=story.event_id(0))
    with slow_builds(slow_mongo, 5, after=before, count=1):
        async with (
            running_history(MONGO_URL=slow_mongo.url) as history,
            history.stub() as stub,
            running_gateway(HISTORY_TARGET=history.target) as http,
        ):
            await append(redis, story.entry())
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetEvent(by_id)
            over_http = await http.get(f"/server/data/events/{story.event_id(0)}")
            await eventually(partial(has_events, stub, story.visit_id, 7))
            assert IS_BUILT not in history.output()
            details = details_of(refused.value)
            assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "INDEX_BEING_BUILT")
            assert details.retry_ms == 10_000
            assert (over_http.status_code, over_http.headers["Retry-After"]) == (503, "10")
            assert "an index that this query needs is being built" in over_http.text
            await eventually(lambda: IS_BUILT in history.output())
            await eventually(partial(has_event, stub, by_id))
    lines = history.output().splitlines()
    [begin, end] = [line for line in lines if '"an index ' in line and '"events.event_id"' in line]
    assert IS_BEING_BUILT in begin
    assert f'"number": {before + 1}' in begin
    assert IS_BUILT in end
    assert '"seconds"' in end


async def all_exist(store: Store) -> bool:
    return all((await store.list_indexes()).values())


async def has_event(stub: Any, request: pb.GetEventRequest) -> bool:
    try:
        return bool((await stub.GetEvent(request)).event.event.event_id)
    except grpc.aio.AioRpcError:
        return False


async def test_history_is_not_ready_during_the_build_of_an_index_that_it_needs_and_can_stop(
    slow_mongo: FaultyMongo, mongo_database: str, listener: Listener
) -> None:
    store = Store.open(slow_mongo.url, mongo_database, 20_000, [listener])
    with slow_builds(slow_mongo, 3):
        preparing = asyncio.create_task(store.prepare())
        await eventually(lambda: bool(listener.commands))
        with pytest.raises(NotReadyError, match=r"events\.visit_id"):
            await store.is_ready()
        with pytest.raises(IndexMissingError):
            await store.find_visits({"start_key": {"$gte": ""}}, 1)
        assert await store.find_visits({"_id": "unknown"}, 1) == []
        started = time.monotonic()
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
        assert time.monotonic() - started < 1
    await store.close()


async def test_a_build_has_no_time_limit_and_two_lines(slow_mongo: FaultyMongo, new_store: Store) -> None:
    with capture_logs() as lines, slow_builds(slow_mongo, 1.3, count=1):
        await new_store.prepare()
    of_first = [line["event"] for line in lines if line["index"] == "events.visit_id"]
    assert of_first == [IS_BEING_BUILT, IS_BUILT], "and no line about a time limit"
    assert new_store.indexes.missing == []
    assert await new_store.is_ready()


async def test_a_failed_build_is_reported_and_tried_again(slow_mongo: FaultyMongo, new_store: Store) -> None:
    with capture_logs() as lines, refused_builds(slow_mongo, code=14_031, count=2):
        await new_store.prepare()
    failed = [line for line in lines if line["event"] == "an index cannot be made; trying again"]
    assert [(line["index"], line["error"], line["code"]) for line in failed] == [
        ("events.visit_id", "OperationFailure", "14031")
    ]
    assert await new_store.is_ready()


def test_a_command_lists_indexes_and_makes_them_in_advance(mongo_url: str, mongo_database: str) -> None:
    settings = {"MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database, "ERASURE_KEY": ERASURE_KEY}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "footfall_history", "indexes", *arguments]
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)

    listed, built, listed_again = run(), run("build"), run("list")
    assert (listed.returncode, listed.stdout.splitlines()) == (1, [f"{name}: missing" for name in INDEXES])
    assert (built.returncode, built.stderr) == (0, "All indexes exist.\n")
    assert (listed_again.returncode, listed_again.stdout.splitlines()) == (0, [f"{name}: exists" for name in INDEXES])


async def test_two_processes_that_start_together_build_all_indexes(mongo_url: str, mongo_database: str) -> None:
    """MongoDB builds one that two ask for once, SecantusDB twice: each visit is found once all the same."""
    past, listeners = Past(2_000), [Listener(), Listener()]
    stores = [Store.open(mongo_url, mongo_database, 20_000, [listener]) for listener in listeners]
    await fill(stores[0], past, Tombstones(stores[0], ERASURE_KEY))
    await asyncio.gather(*(store.prepare() for store in stores))
    are_ready = [await store.is_ready() for store in stores]
    found = await stores[0].find_visits({"identities": past.identities[0]}, 1_000)
    for store in stores:
        await store.close()
    assert are_ready == [True, True]
    assert all(len(listener.indexes_made) >= len(INDEXES) for listener in listeners), "one did not ask for all indexes"
    assert len(found) == VISITS_A_PERSON


@pytest.mark.long
async def test_history_reads_the_log_between_builds_over_much_data(
    mongo_url: str, mongo_database: str, running_history: Running, redis: Any
) -> None:
    past, store = Past(200_000), Store.open(mongo_url, mongo_database, 20_000)
    await fill(store, past, Tombstones(store, ERASURE_KEY))
    story = Story(past.identities[0])
    await append(redis, story.entry())
    async with running_history() as history, history.stub() as stub:
        request = pb.ListVisitsRequest(identity_id=past.identities[0], page_size=1_000)
        assert len((await stub.ListVisits(request)).visits) >= VISITS_A_PERSON
        await eventually(partial(has_events, stub, story.visit_id, 7))
        assert not all((await store.list_indexes()).values()), "all indexes were made before history served"
        await eventually(partial(has_event, stub, pb.GetEventRequest(event_id=story.event_id(0))), timeout=120)
        await eventually(partial(all_exist, store), timeout=120)
    lines = history.output().splitlines()
    for name in INDEXES:
        assert sum(f'"{IS_BUILT}"' in line and f'"{name}"' in line for line in lines) <= 1
    assert any(f'"{IS_BUILT}"' in line for line in lines)
    await store.close()
