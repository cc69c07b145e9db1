"""Group commit: what waits together leaves together, within bounds, and nobody's fate is another's."""

import asyncio
from collections.abc import Sequence

import pytest
from footfall_gateway.beacons.group_commit import Bounds, FullError, GroupCommit, LostError
from hypothesis import given, settings
from hypothesis import strategies as st

WIDE = Bounds(
    group_count=100,
    group_size=10_000,
    linger_ms=60_000,
    groups_in_flight=1,
    waiting_count=1_000,
    waiting_size=100_000,
)


def bounds(**changes: float) -> Bounds:
    return Bounds(**{name: changes.get(name, getattr(WIDE, name)) for name in Bounds.__slots__})


class Outlet:
    """Where groups go: records them, and lets them land when told."""

    def __init__(self, *, holds: bool = True) -> None:
        self.groups: list[list[str]] = []
        self.under_way = 0
        self.most_under_way = 0
        self._holds = holds
        self._landing = asyncio.Semaphore(0)

    async def send(self, items: list[str]) -> Sequence[str]:
        self.groups.append(list(items))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self._holds:
            await self._landing.acquire()
        self.under_way -= 1
        return [item.upper() for item in items]

    def land(self) -> None:
        self._landing.release()


async def turns(count: int = 5) -> None:
    """Let the loop take what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_items_of_one_turn_leave_together_without_waiting() -> None:
    outlet = Outlet(holds=False)
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, WIDE)
    assert await asyncio.gather(*(commit.submit(item, 1, 1) for item in "abc")) == ["A", "B", "C"]
    assert outlet.groups == [["a", "b", "c"]]


async def test_what_comes_while_a_group_is_under_way_leaves_when_it_lands() -> None:
    outlet = Outlet()
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, WIDE)
    first = commit.submit("a", 1, 1)
    await turns()
    later = [commit.submit(item, 1, 1) for item in "bc"]
    await turns()
    assert outlet.groups == [["a"]]
    outlet.land()
    assert await first == "A"
    outlet.land()
    assert await asyncio.gather(*later) == ["B", "C"]
    assert outlet.groups == [["a"], ["b", "c"]]


async def test_with_a_free_slot_a_group_waits_no_longer_than_the_linger() -> None:
    outlet = Outlet()
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, bounds(groups_in_flight=2, linger_ms=5))
    commit.submit("a", 1, 1)
    await turns()
    commit.submit("b", 1, 1)
    commit.submit("c", 1, 1)
    await turns()
    assert outlet.groups == [["a"]]
    await asyncio.sleep(0.02)
    assert outlet.groups == [["a"], ["b", "c"]]
    outlet.land()
    outlet.land()
    await commit.close()


async def test_a_full_group_does_not_linger() -> None:
    outlet = Outlet()
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, bounds(groups_in_flight=2, group_count=2))
    commit.submit("a", 1, 1)
    await turns()
    commit.submit("b", 1, 1)
    commit.submit("c", 1, 1)
    await turns()
    assert outlet.groups == [["a"], ["b", "c"]]
    outlet.land()
    outlet.land()
    await commit.close()


async def test_an_item_that_does_not_fit_flushes_the_group_first() -> None:
    outlet = Outlet(holds=False)
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, bounds(group_size=100))
    await asyncio.gather(*(commit.submit(item, 1, size) for item, size in (("a", 60), ("b", 60), ("c", 500))))
    assert outlet.groups == [["a"], ["b"], ["c"]]


async def test_more_than_may_wait_is_refused_and_room_is_made_again() -> None:
    outlet = Outlet()
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, bounds(waiting_count=2))
    waiters = [commit.submit("a", 1, 1)]
    await turns()
    waiters += [commit.submit(item, 1, 1) for item in "bc"]
    with pytest.raises(FullError):
        commit.submit("d", 1, 1)
    outlet.land()
    await turns()
    waiters.append(commit.submit("e", 1, 1))
    for _ in range(3):
        outlet.land()
    assert await asyncio.gather(*waiters) == ["A", "B", "C", "E"]


async def test_a_waiter_that_leaves_hurts_nobody_and_its_item_is_sent() -> None:
    outlet = Outlet()
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, WIDE)
    waiters = [commit.submit(item, 1, 1) for item in "abc"]
    waiters[1].cancel()
    await turns()
    outlet.land()
    assert (await waiters[0], await waiters[2]) == ("A", "C")
    assert outlet.groups == [["a", "b", "c"]]


async def test_what_sending_raises_every_waiter_of_the_group_gets_and_no_other() -> None:
    async def send(items: list[str]) -> list[str]:
        if "bad" in items:
            raise OSError("lost")
        return items

    commit: GroupCommit[str, str] = GroupCommit(send, bounds(group_count=2))
    results = await asyncio.gather(
        *(commit.submit(item, 1, 1) for item in ("a", "bad", "b", "c")), return_exceptions=True
    )
    assert [str(result) for result in results] == ["lost", "lost", "b", "c"]


async def test_too_few_outcomes_are_an_error_for_those_left_without() -> None:
    async def send(items: list[str]) -> list[str]:
        return items[:1]

    commit: GroupCommit[str, str] = GroupCommit(send, WIDE)
    first, second = await asyncio.gather(*(commit.submit(item, 1, 1) for item in "ab"), return_exceptions=True)
    assert first == "a"
    assert isinstance(second, ValueError)


async def test_closing_sends_what_waits_and_takes_nothing_more() -> None:
    outlet = Outlet(holds=False)
    commit: GroupCommit[str, str] = GroupCommit(outlet.send, bounds(groups_in_flight=1, group_count=2))
    waiters = [commit.submit(item, 1, 1) for item in "abcde"]
    await commit.close()
    assert [waiter.result() for waiter in waiters] == ["A", "B", "C", "D", "E"]
    with pytest.raises(FullError):
        commit.submit("f", 1, 1)


arrivals = st.lists(
    st.tuples(
        st.integers(1, 12),  # count
        st.integers(1, 120),  # size
        st.sampled_from(["go on", "let the loop turn", "land", "leave"]),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(
    arriving=arrivals,
    group_count=st.integers(1, 10),
    group_size=st.integers(1, 100),
    groups_in_flight=st.integers(1, 3),
    waiting_count=st.integers(12, 60),
)
def test_every_item_leaves_once_in_order_within_bounds_and_gets_its_own_outcome(
    arriving: list[tuple[int, int, str]],
    group_count: int,
    group_size: int,
    groups_in_flight: int,
    waiting_count: int,
) -> None:
    limits = bounds(
        group_count=group_count,
        group_size=group_size,
        groups_in_flight=groups_in_flight,
        waiting_count=waiting_count,
        linger_ms=0,
    )

    async def scenario() -> None:
        outlet = Outlet()
        commit: GroupCommit[str, str] = GroupCommit(outlet.send, limits)
        measures: dict[str, tuple[int, int]] = {}
        waiters: dict[str, asyncio.Future[str]] = {}
        for number, (count, size, then) in enumerate(arriving):
            item = f"item {number}"
            try:
                waiters[item] = commit.submit(item, count, size)
                measures[item] = (count, size)
            except FullError:
                pass
            if then == "leave" and item in waiters:
                waiters[item].cancel()
            if then == "land":
                outlet.land()
            if then != "go on":
                await turns(3)
        for _ in arriving:
            outlet.land()
        await commit.close()

        sent = [item for group in outlet.groups for item in group]
        assert sent == list(measures)
        assert outlet.most_under_way <= groups_in_flight
        for group in outlet.groups:
            counts, sizes = zip(*(measures[item] for item in group), strict=True)
            assert len(group) == 1 or (sum(counts) <= group_count and sum(sizes) <= group_size)
        assert all(waiter.cancelled() or waiter.result() == item.upper() for item, waiter in waiters.items())

    asyncio.run(scenario())


async def test_a_group_that_is_cancelled_under_way_leaves_nobody_waiting() -> None:
    async def lose(_items: list[str]) -> Sequence[str]:
        raise asyncio.CancelledError

    commit: GroupCommit[str, str] = GroupCommit(lose, WIDE)
    waiters = [commit.submit(item, 1, 1) for item in "ab"]
    outcomes = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 30)
    assert [type(outcome) for outcome in outcomes] == [LostError] * 2
    await commit.close()
