"""A history process from the log to its responses, with stores that become unavailable."""

import statistics
import time
from functools import partial
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.log import HISTORY_GROUP
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.event_log import EventLog
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
    return bool((await redis.xpending(LOG, HISTORY_GROUP))["pending"] == 0)


async def test_only_events_that_cannot_be_stored_become_dead_letters(
    running_history: Running, redis: Any, dead_letters: DeadLetterQueue
) -> None:
    story = Story("dana")
    batch = story.entry()
    malformed = logged(event("SignIn", story.visit_id, now_ms(), "dana"), identity_id="")
    batch.events.insert(2, malformed)
    batch.events.insert(4, logged(event("AddToCart", story.visit_id, now_ms()), event_id="SHOUTED"))
    async with running_history() as history, history.stub() as stub:
        await redis.xadd(LOG, {"b": b"\xff not a batch"})
        await append(redis, batch)
        await eventually(lambda: has_events(stub, story.visit_id, 7))
        await eventually(lambda: is_acknowledged(redis))
    by_reason = {dead_letter.reason: dead_letter async for dead_letter in dead_letters.in_partition(0)}
    assert set(by_reason) == {
        "not an EventBatch",
        "identity_id: must be 1 to 512 characters",
        "event_id: must be a UUID, dashed and lower case",
    }
    assert by_reason["not an EventBatch"].payload == b"\xff not a batch"
    assert by_reason["identity_id: must be 1 to 512 characters"].id == f"{malformed.visit_id}/{malformed.event_id}"
    single = EventBatch.FromString(by_reason["identity_id: must be 1 to 512 characters"].payload)
    assert list(single.events) == [malformed]
    assert list(single.contexts) == list(batch.contexts)
    assert b"SHOUTED" not in history.output().encode()


async def test_entries_of_a_dead_consumer_are_taken_over(running_history: Running, redis: Any) -> None:
    story = Story("dana")
    [entry_id] = await append(redis, story.entry())
    await redis.xgroup_create(LOG, HISTORY_GROUP, id="0")
    await redis.xreadgroup(HISTORY_GROUP, "dead", {LOG: ">"})
    await redis.xclaim(LOG, HISTORY_GROUP, "dead", 0, [entry_id], idle=60_000)
    async with running_history() as history, history.stub() as stub:
        await eventually(lambda: has_events(stub, story.visit_id, 7))


@pytest.mark.long
async def test_readiness_follows_each_store(
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


async def test_entries_are_trimmed_after_identity_and_history_have_read_them(redis: Any, log: EventLog) -> None:
    ids = await append(redis, *(entry([event("AddToCart", Story("dana").visit_id, now_ms())]) for _ in range(3)))
    for group, last in (("identity", ids[2]), ("identity-live", ids[2]), ("history", ids[1])):
        await redis.xgroup_create(LOG, group, id="0")
        await redis.xreadgroup(group, "consumer", {LOG: ">"}, count=ids.index(last) + 1)
        await redis.xack(LOG, group, *ids[: ids.index(last) + 1])
    await log.trim(0, -1_000, 60_000)
    assert [entry_id for entry_id, _ in await redis.xrange(LOG)] == ids[1:]
