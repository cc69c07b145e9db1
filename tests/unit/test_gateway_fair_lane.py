"""The lane of large bodies: senders take turns, one batch at a time, with rests between the batches."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from itertools import count
from typing import Any

import pytest
from footfall_gateway.beacons import fair_lane
from footfall_gateway.beacons.batcher import QueueFullError
from footfall_gateway.beacons.fair_lane import FairLane

from tests.unit.test_gateway_batcher import Outlet, bounds, turns


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rests of the lane, in seconds, which take no time."""
    rests: list[float] = []

    async def rest(waiting: Awaitable[Any], seconds: float) -> None:
        rests.append(seconds)
        task = asyncio.ensure_future(waiting)
        task.cancel()

    monkeypatch.setattr("footfall_gateway.beacons.fair_lane.asyncio.wait_for", rest)
    return rests


@pytest.mark.usefixtures("rests")
async def test_senders_take_turns_however_much_each_has_sent() -> None:
    outlet = Outlet()
    lane = FairLane(outlet.send, bounds(max_batch_count=3, max_batch_size=100), share=0.5)
    first = lane.submit("a", "a1", 1, 10)
    await asyncio.sleep(0)
    assert outlet.batches == [["a1"]]
    sent = {name: lane.submit(name[0], name, 1, 10) for name in ("a2", "a3", "a4", "a5", "b1", "b2", "c1")}
    for _ in range(4):
        outlet.complete()
    outcomes = await asyncio.gather(first, *sent.values())
    assert outlet.batches == [["a1"], ["a2", "b1", "c1"], ["a3", "b2", "a4"], ["a5"]]
    assert outlet.most_in_flight == 1
    assert outcomes == ["A1", *map(str.upper, sent)]


@pytest.mark.usefixtures("rests")
async def test_an_item_that_does_not_fit_is_first_in_the_next_batch() -> None:
    outlet = Outlet(holds=False)
    lane = FairLane(outlet.send, bounds(max_batch_size=100), share=0.5)
    sent = [lane.submit(name[0], name, 1, size) for name, size in (("a1", 60), ("b1", 50), ("c1", 30), ("d1", 500))]
    await asyncio.gather(*sent)
    assert outlet.batches == [["a1"], ["b1", "c1"], ["d1"]]


async def test_after_each_batch_the_lane_rests_in_proportion_to_its_time_and_to_its_largest_item(
    rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    takes = {"a": 0.1, "b": 0.5, "c": 60.0, "small": 0.1, "larger": 0.1}
    sizes = {"small": 1, "larger": 20}

    async def send(items: list[str]) -> list[str]:
        nonlocal now
        now += takes[items[0]]
        return items

    monkeypatch.setattr(fair_lane, "_FULL_REST_SIZE", 16)
    lane = FairLane(send, bounds(), share=0.25)
    monkeypatch.setattr(lane, "_now_s", lambda: now)
    for item in takes:
        await lane.submit("sender", item, 1, sizes.get(item, 16))
    await lane.close()
    assert rests == pytest.approx([0.3, 1.5, 2.0, 0.3 / 16, 0.3])


async def test_nothing_is_sent_during_a_rest_and_closing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = Outlet()
    lane = FairLane(outlet.send, bounds(), share=0.01)
    monkeypatch.setattr(lane, "_now_s", partial(next, count()))
    monkeypatch.setattr(fair_lane, "_MAX_REST_S", 1_000)
    monkeypatch.setattr(fair_lane, "_FULL_REST_SIZE", 16)
    first = lane.submit("a", "a1", 1, 16)
    outlet.complete()
    await first
    second = lane.submit("a", "a2", 1, 1)
    await turns()
    assert outlet.batches == [["a1"]]
    outlet.complete()
    await lane.close()
    assert await second == "A2"
    with pytest.raises(QueueFullError):
        lane.submit("a", "a3", 1, 1)


@pytest.mark.usefixtures("rests")
async def test_one_sender_has_half_of_the_queue_and_any_sender_one_item() -> None:
    outlet = Outlet()
    lane = FairLane(outlet.send, bounds(max_queued_count=10, max_queued_size=100, max_batch_size=1), share=1)
    sent = [lane.submit("a", "a1", 6, 10)]  # more than half, but its first
    for events, size in ((1, 1), (0, 45)):
        with pytest.raises(QueueFullError):
            lane.submit("a", "a2", events, size)
    sent.append(lane.submit("b", "b1", 2, 20))
    sent.append(lane.submit("b", "b2", 2, 30))
    with pytest.raises(QueueFullError):
        lane.submit("c", "c1", 1, 1)  # all of it
    for _ in sent:
        outlet.complete()
    await asyncio.gather(*sent)
    again = lane.submit("c", "c1", 6, 60)
    outlet.complete()
    assert await again == "C1"
    await lane.close()


@pytest.mark.usefixtures("rests")
async def test_a_failure_is_that_of_its_batch_alone() -> None:
    async def send(items: list[str]) -> list[str]:
        if "bad" in items:
            raise ValueError(items)
        return items

    lane = FairLane(send, bounds(max_batch_count=1), share=1)
    bad, good = lane.submit("a", "bad", 1, 1), lane.submit("a", "good", 1, 1)
    with pytest.raises(ValueError, match="bad"):
        await bad
    assert await good == "good"
    await lane.close()
