"""Live streams: events are streamed as they arrive, attributed, and a stream can be resumed."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall.identity.v1 import visitor_pb2
from footfall_history.event_log import EventLog
from footfall_history.ingest.attribution import Attributor
from footfall_servicekit.errors import details_of

from tests.service.history.conftest import Listener
from tests.tools.eventually import eventually
from tests.tools.history import entry
from tests.tools.stories import Story
from tests.tools.visits import event, now_ms

LOG = "log:{p00}"


async def append(redis: Any, *batches: EventBatch) -> None:
    for batch in batches:
        await redis.xadd(LOG, {"b": batch.SerializeToString()})


async def watching(redis: Any) -> bool:
    """Whether a reader waits at the log of this test. A reader of an earlier test may still be stopping."""
    database = redis.connection_pool.connection_kwargs["db"]
    return any(client["cmd"] == "xread" and int(client["db"]) == database for client in await redis.client_list())


async def take(call: Any, count: int) -> list[Any]:
    async with asyncio.timeout(5):
        return [await call.read() for _ in range(count)]


async def test_events_are_streamed_as_they_arrive_attributed_as_stored(
    stub: Any, attributor: Attributor, redis: Any
) -> None:
    story = Story("dana")
    call = stub.StreamEvents(pb.StreamEventsRequest())
    await eventually(lambda: watching(redis))
    await append(redis, entry(story.events[:3]), entry(story.events[3:]))
    live = [answer.event for answer in await take(call, 3)]
    await attributor.store([entry(story.events[:3])])  # what follows finds the sign-in in the store
    live += [answer.event for answer in await take(call, 4)]
    call.cancel()
    assert [stored.event.event_id for stored in live] == [story.event_id(n) for n in range(7)]
    assert live[2].stamp.session_id == story.session_id
    assert live[1].stamp.state == visitor_pb2.VISITOR_STATE_ANONYMOUS
    assert live[5].event.data_json == b'{"title": "Cart"}'


async def test_a_stream_continues_after_the_token_without_repeating_entries(stub: Any, redis: Any) -> None:
    visit_id = str(uuid.uuid4())
    clicks = [event("AddToCart", visit_id, now_ms() + n) for n in range(6)]
    call = stub.StreamEvents(pb.StreamEventsRequest(visit_id=visit_id))
    await eventually(lambda: watching(redis))
    await append(redis, *(entry([click]) for click in clicks[:3]))
    answers = await take(call, 3)
    call.cancel()
    await append(redis, *(entry([click]) for click in clicks[3:]))
    call = stub.StreamEvents(pb.StreamEventsRequest(visit_id=visit_id, resume_token=answers[1].resume_token))
    again = await take(call, 4)
    call.cancel()
    assert [answer.event.event.timestamp_ms for answer in again] == [click["timestamp"] for click in clicks[2:]]


async def test_an_entry_that_was_streamed_in_part_is_repeated_whole(stub: Any, redis: Any) -> None:
    story = Story("dana")
    call = stub.StreamEvents(pb.StreamEventsRequest())
    await eventually(lambda: watching(redis))
    await append(redis, story.entry())
    answers = await take(call, 4)
    call.cancel()
    call = stub.StreamEvents(pb.StreamEventsRequest(resume_token=answers[3].resume_token))
    assert len(await take(call, 7)) == 7
    call.cancel()


async def test_a_stream_contains_only_the_requested_site_or_visit(stub: Any, redis: Any) -> None:
    here, there = (event("AddToCart", str(uuid.uuid4()), now_ms(), site=site) for site in ("here", "there"))
    by_site = stub.StreamEvents(pb.StreamEventsRequest(site="there"))
    group_by_visit = stub.StreamEvents(pb.StreamEventsRequest(visit_id=there["visitID"].upper()))
    await eventually(lambda: watching(redis))
    await asyncio.sleep(0.1)  # both, not one of them
    await append(redis, entry([here]), entry([there]))
    for call in (by_site, group_by_visit):
        [answer] = await take(call, 1)
        assert answer.event.event.visit_id == there["visitID"]
        call.cancel()


@pytest.mark.parametrize("by", ["visit_id", "site"])
async def test_visits_that_no_stream_needs_are_not_read(stub: Any, redis: Any, listener: Listener, by: str) -> None:
    visit_id = str(uuid.uuid4())
    # What was done on one site says who did what follows on the other.
    sign_in = event("SignIn", visit_id, now_ms(), "dana")
    click = event("AddToCart", visit_id, now_ms() + 1, site="far")
    watched: dict[str, Any] = {by: {"visit_id": visit_id, "site": "far"}[by]}
    call = stub.StreamEvents(pb.StreamEventsRequest(**watched))
    await eventually(lambda: watching(redis))
    before = len(listener.commands)
    await append(redis, Story("ann").entry(), entry([sign_in, click]), Story("bob").entry())
    [*_, answer] = await take(call, {"visit_id": 2, "site": 1}[by])
    call.cancel()
    assert answer.event.event.event_name == "AddToCart"
    assert answer.event.stamp.identity_id == "dana"
    asked = [command for command in listener.commands[before:] if command.get("aggregate") == "visits"]
    assert [command["pipeline"][0] for command in asked] == [{"$match": {"_id": visit_id}}]


async def test_watchers_are_bounded_and_one_that_leaves_makes_room(stub: Any) -> None:
    request = pb.StreamEventsRequest(announce_progress=True)
    calls = [stub.StreamEvents(request) for _ in range(4)]
    for call in calls:
        assert (await take(call, 1))[0].resume_token
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await take(stub.StreamEvents(request), 1)
    assert details_of(raised.value).reason == "LIMIT_REACHED"
    assert details_of(raised.value).retry_ms
    calls.pop().cancel()

    async def has_room() -> None:
        call = stub.StreamEvents(request)
        try:
            assert await call.read() != grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            raise AssertionError from error
        calls.append(call)

    await eventually(has_room)
    for call in calls:
        call.cancel()


async def test_a_token_older_than_the_log_is_refused_with_advice(stub: Any, redis: Any) -> None:
    clicks = [entry([event("AddToCart", str(uuid.uuid4()), now_ms())]) for _ in range(4)]
    call = stub.StreamEvents(pb.StreamEventsRequest())
    await eventually(lambda: watching(redis))
    await append(redis, *clicks[:2])
    first, second = await take(call, 2)
    call.cancel()
    await redis.xtrim(LOG, maxlen=0, approximate=False)
    await append(redis, *clicks[2:])
    call = stub.StreamEvents(pb.StreamEventsRequest(resume_token=second.resume_token))
    assert len(await take(call, 2)) == 2  # nothing behind it was removed
    call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await take(stub.StreamEvents(pb.StreamEventsRequest(resume_token=first.resume_token)), 1)
    details = details_of(raised.value)
    assert (details.code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESUME_TOKEN_EXPIRED")
    assert "list the events since" in details.message


@pytest.mark.parametrize("token", ["x", "====", "MA==", "NT0wLTAvMA=="])
async def test_a_malformed_token_is_refused(stub: Any, token: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await take(stub.StreamEvents(pb.StreamEventsRequest(resume_token=token)), 1)
    assert [violation[0] for violation in details_of(raised.value).violations] == ["resume_token"]


async def test_a_single_trimmed_entry_is_detected(redis: Any, log: EventLog) -> None:
    before = await log.last_position(0)
    await append(redis, entry([event("AddToCart", str(uuid.uuid4()), now_ms())]))
    [(_, behind)] = await log.read_after(0, before)
    assert behind == await log.last_position(0)
    await redis.xtrim(LOG, maxlen=0, approximate=False)
    assert await log.holds_all_after(0, behind)
    assert not await log.holds_all_after(0, before)
    await redis.delete(LOG)
    assert not await log.holds_all_after(0, behind)  # the log itself was lost
