"""A history process, from the log to its answers, beside stores that come and go."""

import statistics
import time
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.dead_letters.letters import DeadLetters
from footfall_history.log import GROUP, Log
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from tests.tools.eventually import eventually
from tests.tools.gate import gate_before
from tests.tools.history import entry, logged
from tests.tools.process import Running, ServiceProcess
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

LOG = "log:{p00}"


async def append(redis: Any, *batches: EventBatch) -> list[bytes]:
    return [await redis.xadd(LOG, {"b": batch.SerializeToString()}) for batch in batches]


async def has_events(stub: Any, visit_id: str, count: int) -> bool:
    answer = await stub.ListEvents(pb.ListEventsRequest(visit_id=visit_id), wait_for_ready=True)
    assert len(answer.events) <= count
    return len(answer.events) == count


async def is_serving(history: ServiceProcess) -> bool:
    async with grpc.aio.insecure_channel(history.target) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_what_is_appended_to_the_log_is_in_history_within_two_seconds(
    running_history: Running, redis: Any
) -> None:
    stories = [Story(f"person {number}") for number in range(20)]
    async with running_history() as history, history.stub() as stub:
        await append(redis, *(story.entry() for story in stories))
        begun = time.monotonic()
        took = []
        for story in stories:
            await eventually(partial(has_events, stub, story.visit_id, 7))
            took.append(time.monotonic() - begun)
        # A reader that waits for a pause to end would be late with all of them, a busy machine with the last ones.
        assert statistics.median(took) < 2
        await eventually(lambda: is_acknowledged(redis))


async def is_acknowledged(redis: Any) -> bool:
    return bool((await redis.xpending(LOG, GROUP))["pending"] == 0)


async def test_only_what_cannot_be_stored_is_put_aside_with_its_reason(
    running_history: Running, redis: Any, letters: DeadLetters
) -> None:
    story = Story("dana")
    batch = story.entry()
    nobody = logged(event("SignIn", story.visit_id, now_ms(), "dana"), identity_id="")
    batch.events.insert(2, nobody)
    batch.events.insert(4, logged(event("AddToCart", story.visit_id, now_ms()), event_id="SHOUTED"))
    async with running_history() as history, history.stub() as stub:
        await redis.xadd(LOG, {"b": b"\xff not a batch"})
        await append(redis, batch)
        await eventually(lambda: has_events(stub, story.visit_id, 7))
        await eventually(lambda: is_acknowledged(redis))
    put_aside = {letter.reason: letter async for letter in letters.each(0)}
    assert set(put_aside) == {
        "not an EventBatch",
        "identity_id: must be 1 to 512 characters",
        "event_id: must be a UUID, dashed and lower case",
    }
    assert put_aside["not an EventBatch"].payload == b"\xff not a batch"
    assert put_aside["identity_id: must be 1 to 512 characters"].id == f"{nobody.visit_id}/{nobody.event_id}"
    alone = EventBatch.FromString(put_aside["identity_id: must be 1 to 512 characters"].payload)
    assert list(alone.events) == [nobody]
    assert list(alone.contexts) == list(batch.contexts)
    assert b"SHOUTED" not in history.output().encode()


async def test_what_a_dead_consumer_left_is_taken_over(running_history: Running, redis: Any) -> None:
    story = Story("dana")
    [entry_id] = await append(redis, story.entry())
    await redis.xgroup_create(LOG, GROUP, id="0")
    await redis.xreadgroup(GROUP, "dead", {LOG: ">"})
    await redis.xclaim(LOG, GROUP, "dead", 0, [entry_id], idle=60_000)
    async with running_history() as history, history.stub() as stub:
        await eventually(lambda: has_events(stub, story.visit_id, 7))


async def test_readiness_turns_with_each_store_and_turns_back(
    running_history: Running, redis: Any, redis_database_url: str, mongo_url: str
) -> None:
    redis_server, _, database = redis_database_url.rpartition("/")
    async with gate_before(mongo_url) as mongo_gate, gate_before(redis_server) as redis_gate:
        settings = {"MONGO_URL": mongo_gate.url, "REDIS_URL": f"{redis_gate.url}/{database}"}
        async with running_history(**settings, HISTORY_MONGO_TIMEOUT_MS=500) as history, history.stub() as stub:
            for gate in (mongo_gate, redis_gate):
                story = Story("dana")
                await eventually(lambda: is_serving(history))
                await gate.close()
                await append(redis, story.entry())
                await eventually(lambda: is_unready(history))
                if gate is mongo_gate:
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await stub.GetVisit(pb.GetVisitRequest(visit_id=story.visit_id))
                    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                await gate.open()
                await eventually(lambda: is_serving(history))
                await eventually(partial(has_events, stub, story.visit_id, 7))


async def is_unready(history: ServiceProcess) -> bool:
    return not await is_serving(history)


async def test_a_log_of_another_number_of_partitions_is_refused(running_history: Running, redis: Any) -> None:
    await redis.set("log:partitions", 4)
    async with running_history(PARTITIONS=2) as history:
        assert history.process.wait(30) == 2
        assert "Set PARTITIONS=4" in history.output()
        assert "stack" not in history.output()


async def test_the_log_is_trimmed_when_identity_and_history_are_done_with_it(redis: Any, log: Log) -> None:
    ids = await append(redis, *(entry([event("AddToCart", Story("dana").visit_id, now_ms())]) for _ in range(3)))
    for group, last in (("identity", ids[2]), ("identity-live", ids[2]), ("history", ids[1])):
        await redis.xgroup_create(LOG, group, id="0")
        await redis.xreadgroup(group, "somebody", {LOG: ">"}, count=ids.index(last) + 1)
        await redis.xack(LOG, group, *ids[: ids.index(last) + 1])
    await log.trim(0, -1_000)
    assert [entry_id for entry_id, _ in await redis.xrange(LOG)] == ids[1:]
