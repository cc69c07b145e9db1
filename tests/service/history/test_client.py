"""footfall-client's stream of events: each once, over lost connections and a lost position."""

import asyncio
import uuid
from typing import Any

import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_client import AsyncFootfall, PositionLostError

from tests.service.history.test_history_process import LOG, append, has_events, is_acknowledged
from tests.tools.collecting import collecting
from tests.tools.eventually import eventually
from tests.tools.gate import gate_before
from tests.tools.history import entry
from tests.tools.process import Running
from tests.tools.visits import event, now_ms


async def test_events_of_a_visit_come_once_and_are_listed_when_the_position_is_lost(
    running_history: Running, redis: Any
) -> None:
    visit_id, other = str(uuid.uuid4()), str(uuid.uuid4())
    at_ms = now_ms()
    clicks = [event("AddToCart", visit_id, at_ms + number) for number in range(8)]
    async with (
        running_history(PARTITIONS=1) as history,
        history.stub() as stub,
        gate_before(f"tcp://{history.target}") as gate,
        AsyncFootfall(history=f"127.0.0.1:{gate.port}") as footfall,
    ):
        messages: list[pb.StreamEventsResponse] = []
        reading = collecting(footfall.stream_events(pb.StreamEventsRequest(visit_id=visit_id)), messages)
        reading_all = collecting(footfall.stream_events(), [])

        def seen() -> list[int]:
            return [one.event.event.event_time_ms - clicks[0]["timestamp"] for one in messages]

        async def has_begun() -> bool:
            await append(redis, entry([event("AddToCart", other, now_ms())]), entry(clicks[:1]))
            return bool(messages)

        await eventually(has_begun, every=0.2)
        await append(redis, entry(clicks[:3]))  # an event that is sent again
        await eventually(lambda: len(messages) == 3)
        await gate.close()
        await append(redis, entry(clicks[3:4]))
        await gate.open()
        await eventually(lambda: len(messages) == 4)
        await gate.close()
        await append(redis, entry(clicks[4:6]))
        await eventually(lambda: has_events(stub, visit_id, 6))
        await eventually(lambda: is_acknowledged(redis))
        await redis.xtrim(LOG, maxlen=0, approximate=False)
        await append(redis, entry(clicks[6:7]))
        await gate.open()
        await eventually(lambda: len(messages) == 7)
        await append(redis, entry(clicks[7:]))
        await eventually(lambda: len(messages) == 8)
        assert sorted(seen()) == [*range(8)]
        with pytest.raises(PositionLostError):  # all events cannot be listed
            await asyncio.wait_for(reading_all, 30)
        await footfall.close()
        await asyncio.wait_for(reading, 30)


@pytest.mark.parametrize("from_oldest", [False, True])
async def test_a_stream_begins_now_or_with_the_oldest_event_of_the_log(
    running_history: Running, redis: Any, *, from_oldest: bool
) -> None:
    clicks = [event("AddToCart", str(uuid.uuid4()), now_ms() + number) for number in range(3)]
    async with running_history(PARTITIONS=1) as history, history.stub() as stub:
        await append(redis, entry(clicks[:1]), entry(clicks[1:2]))
        await eventually(lambda: has_events(stub, clicks[1]["visitID"], 1))
        await redis.xtrim(LOG, maxlen=1, approximate=False)
        call = stub.StreamEvents(pb.StreamEventsRequest(from_oldest=from_oldest, announce_progress=True))
        assert not (await call.read()).HasField("event")
        await append(redis, entry(clicks[2:]))
        expected = [click["visitID"] for click in clicks[1 if from_oldest else 2 :]]
        seen: list[str] = []
        while len(seen) < len(expected):
            answer = await asyncio.wait_for(call.read(), 30)
            seen += [answer.event.event.visit_id] if answer.HasField("event") else []
        call.cancel()
        assert seen == expected
