"""The batcher: items that wait together are sent together, within bounds, and one failure affects one batch only."""

import asyncio
from collections.abc import Sequence

import pytest
from footfall_gateway.beacons.batcher import Batcher, Bounds, OutcomeUnknownError, QueueFullError
from hypothesis import given, settings
from hypothesis import strategies as st

WIDE = Bounds(
    max_batch_count=100,
    max_batch_size=10_000,
    max_wait_ms=60_000,
    max_in_flight=1,
    max_queued_count=1_000,
    max_queued_size=100_000,
)


def bounds(**changes: float) -> Bounds:
    return Bounds(**{name: changes.get(name, getattr(WIDE, name)) for name in Bounds.__slots__})


class Outlet:
    """Receives batches: records each, and completes it when the test says so."""

    def __init__(self, *, holds: bool = True) -> None:
        self.batches: list[list[str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._holds = holds
        self._completing = asyncio.Semaphore(0)
        self._sent = asyncio.Event()

    async def send(self, items: list[str]) -> Sequence[str]:
        self.batches.append(list(items))
        self._sent.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self._holds:
            await self._completing.acquire()
        self.in_flight -= 1
        return [item.upper() for item in items]

    def complete(self) -> None:
        self._completing.release()

    async def has_batches(self, count: int) -> None:
        """Return when so many batches have been sent."""
        while len(self.batches) < count:
            self._sent.clear()
            await asyncio.wait_for(self._sent.wait(), 10)


async def turns(count: int = 5) -> None:
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_items_of_one_loop_turn_are_one_batch() -> None:
    outlet = Outlet(holds=False)
    batcher: Batcher[str, str] = Batcher(outlet.send, WIDE)
    assert await asyncio.gather(*(batcher.submit(item, 1, 1) for item in "abc")) == ["A", "B", "C"]
    assert outlet.batches == [["a", "b", "c"]]


async def test_items_that_arrive_while_a_batch_is_in_flight_are_the_next_batch() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, WIDE)
    first = batcher.submit("a", 1, 1)
    await turns()
    later = [batcher.submit(item, 1, 1) for item in "bc"]
    await turns()
    assert outlet.batches == [["a"]]
    outlet.complete()
    assert await first == "A"
    outlet.complete()
    assert await asyncio.gather(*later) == ["B", "C"]
    assert outlet.batches == [["a"], ["b", "c"]]


async def test_with_a_free_slot_a_batch_waits_at_most_max_wait_ms() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, bounds(max_in_flight=2, max_wait_ms=500))
    batcher.submit("a", 1, 1)
    await turns()
    batcher.submit("b", 1, 1)
    batcher.submit("c", 1, 1)
    await turns()
    assert outlet.batches == [["a"]]
    await outlet.has_batches(2)
    assert outlet.batches == [["a"], ["b", "c"]]
    outlet.complete()
    outlet.complete()
    await batcher.close()


async def test_without_a_batch_in_flight_an_item_waits_half_as_long_as_the_last_batch_took() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, WIDE)
    first = batcher.submit("a", 1, 1)
    await asyncio.sleep(0.4)
    outlet.complete()
    await first
    loop = asyncio.get_running_loop()
    waits_since = loop.time()
    second = [batcher.submit("b", 1, 1)]
    await turns()
    second.append(batcher.submit("c", 1, 1))
    outlet.complete()
    await asyncio.gather(*second)
    assert loop.time() - waits_since >= 0.19
    assert outlet.batches == [["a"], ["b", "c"]]


async def test_a_full_batch_does_not_wait() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, bounds(max_in_flight=2, max_batch_count=2))
    batcher.submit("a", 1, 1)
    await turns()
    batcher.submit("b", 1, 1)
    batcher.submit("c", 1, 1)
    await turns()
    assert outlet.batches == [["a"], ["b", "c"]]
    outlet.complete()
    outlet.complete()
    await batcher.close()


async def test_an_item_that_does_not_fit_sends_the_batch_first() -> None:
    outlet = Outlet(holds=False)
    batcher: Batcher[str, str] = Batcher(outlet.send, bounds(max_batch_size=100))
    await asyncio.gather(*(batcher.submit(item, 1, size) for item, size in (("a", 60), ("b", 60), ("c", 500))))
    assert outlet.batches == [["a"], ["b"], ["c"]]


async def test_a_full_queue_refuses_items_until_a_batch_completes() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, bounds(max_queued_count=2))
    waiters = [batcher.submit("a", 1, 1)]
    await turns()
    waiters += [batcher.submit(item, 1, 1) for item in "bc"]
    with pytest.raises(QueueFullError):
        batcher.submit("d", 1, 1)
    outlet.complete()
    await outlet.has_batches(2)
    waiters.append(batcher.submit("e", 1, 1))
    for _ in range(3):
        outlet.complete()
    assert await asyncio.gather(*waiters) == ["A", "B", "C", "E"]


async def test_a_cancelled_waiter_does_not_affect_others_and_its_item_is_sent() -> None:
    outlet = Outlet()
    batcher: Batcher[str, str] = Batcher(outlet.send, WIDE)
    waiters = [batcher.submit(item, 1, 1) for item in "abc"]
    waiters[1].cancel()
    await turns()
    outlet.complete()
    assert (await waiters[0], await waiters[2]) == ("A", "C")
    assert outlet.batches == [["a", "b", "c"]]


async def test_an_error_of_send_reaches_every_waiter_of_that_batch_only() -> None:
    async def send(items: list[str]) -> list[str]:
        if "bad" in items:
            raise OSError("lost")
        return items

    batcher: Batcher[str, str] = Batcher(send, bounds(max_batch_count=2))
    results = await asyncio.gather(
        *(batcher.submit(item, 1, 1) for item in ("a", "bad", "b", "c")), return_exceptions=True
    )
    assert [str(result) for result in results] == ["lost", "lost", "b", "c"]


async def test_items_without_an_outcome_get_an_error() -> None:
    async def send(items: list[str]) -> list[str]:
        return items[:1]

    batcher: Batcher[str, str] = Batcher(send, WIDE)
    first, second = await asyncio.gather(*(batcher.submit(item, 1, 1) for item in "ab"), return_exceptions=True)
    assert first == "a"
    assert isinstance(second, ValueError)


async def test_close_sends_queued_items_and_refuses_new_ones() -> None:
    outlet = Outlet(holds=False)
    batcher: Batcher[str, str] = Batcher(outlet.send, bounds(max_in_flight=1, max_batch_count=2))
    waiters = [batcher.submit(item, 1, 1) for item in "abcde"]
    await batcher.close()
    assert [waiter.result() for waiter in waiters] == ["A", "B", "C", "D", "E"]
    with pytest.raises(QueueFullError):
        batcher.submit("f", 1, 1)


arrivals = st.lists(
    st.tuples(
        st.integers(1, 12),  # count
        st.integers(1, 120),  # size
        st.sampled_from(["go on", "let the loop turn", "complete", "cancel"]),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(
    arriving=arrivals,
    max_batch_count=st.integers(1, 10),
    max_batch_size=st.integers(1, 100),
    max_in_flight=st.integers(1, 3),
    max_queued_count=st.integers(12, 60),
)
def test_every_item_is_sent_once_in_order_within_bounds_and_gets_its_own_outcome(
    arriving: list[tuple[int, int, str]],
    max_batch_count: int,
    max_batch_size: int,
    max_in_flight: int,
    max_queued_count: int,
) -> None:
    limits = bounds(
        max_batch_count=max_batch_count,
        max_batch_size=max_batch_size,
        max_in_flight=max_in_flight,
        max_queued_count=max_queued_count,
        max_wait_ms=0,
    )

    async def scenario() -> None:
        outlet = Outlet()
        batcher: Batcher[str, str] = Batcher(outlet.send, limits)
        measures: dict[str, tuple[int, int]] = {}
        waiters: dict[str, asyncio.Future[str]] = {}
        for number, (count, size, then) in enumerate(arriving):
            item = f"item {number}"
            try:
                waiters[item] = batcher.submit(item, count, size)
                measures[item] = (count, size)
            except QueueFullError:
                pass
            if then == "cancel" and item in waiters:
                waiters[item].cancel()
            if then == "complete":
                outlet.complete()
            if then != "go on":
                await turns(3)
        for _ in arriving:
            outlet.complete()
        await batcher.close()

        sent = [item for batch in outlet.batches for item in batch]
        assert sent == list(measures)
        assert outlet.most_in_flight <= max_in_flight
        for batch in outlet.batches:
            counts, sizes = zip(*(measures[item] for item in batch), strict=True)
            assert len(batch) == 1 or (sum(counts) <= max_batch_count and sum(sizes) <= max_batch_size)
        assert all(waiter.cancelled() or waiter.result() == item.upper() for item, waiter in waiters.items())

    asyncio.run(scenario())


async def test_a_cancelled_batch_leaves_no_waiter_pending() -> None:
    async def lose(_items: list[str]) -> Sequence[str]:
        raise asyncio.CancelledError

    batcher: Batcher[str, str] = Batcher(lose, WIDE)
    waiters = [batcher.submit(item, 1, 1) for item in "ab"]
    outcomes = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 1)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 2
    await batcher.close()
