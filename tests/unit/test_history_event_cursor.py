"""Reading events by ranges returns the same events as a single query, and reads few others."""

import asyncio
import random
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pytest
from footfall_history.storage.event_cursor import EventCursor
from footfall_timeline import order_key
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.visits import now_ms

NOW_MS = now_ms()


class Keys:
    """An index of keys that counts what a query reads: everything within its bounds, regardless of the limit."""

    def __init__(self, keys: Sequence[str], *, newest_first: bool = False) -> None:
        self.keys = sorted(keys)
        self.newest_first = newest_first
        self.looked_at = 0
        self.questions = 0

    async def read(self, bounds: Any, limit: int) -> list[Any]:
        upper = bisect_left(self.keys, bounds["$lt"]) if "$lt" in bounds else len(self.keys)
        within = self.keys[bisect_left(self.keys, bounds["$gte"]) : upper]
        self.looked_at += len(within)
        self.questions += 1
        in_order = within[::-1] if self.newest_first else within
        return [{"order_key": key} for key in in_order[:limit]]

    def take(
        self, *counts: int, lower: str = "", upper: str = "", start_ms: int | None = None, end_ms: int | None = None
    ) -> list[list[str]]:
        walk = EventCursor(self.read, lower, upper, start_ms, end_ms, newest_first=self.newest_first)

        async def take_all() -> list[list[str]]:
            return [[event["order_key"] for event in await walk.take(count)] for count in counts]

        return asyncio.run(take_all())


def times() -> st.SearchStrategy[int]:
    """Times close together, far apart, equal, and in the future."""
    near = st.integers(NOW_MS - 100, NOW_MS)
    return st.one_of(near, st.integers(NOW_MS - 40 * 86_400_000, NOW_MS + 2 * 86_400_000), st.integers(1, NOW_MS))


def bounds() -> st.SearchStrategy[str]:
    """No bound, or a time."""
    return st.one_of(st.just(""), times().map(lambda at_ms: order_key(at_ms, "")))


@given(
    events=st.lists(st.tuples(times(), st.uuids(version=4)), max_size=60),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    range_=st.tuples(bounds(), bounds()),
    known=st.tuples(st.one_of(st.none(), times()), st.one_of(st.none(), times())),
    newest_first=st.booleans(),
)
def test_a_cursor_returns_all_events_in_order(
    events: list[tuple[int, Any]],
    counts: list[int],
    range_: tuple[str, str],
    known: tuple[int | None, int | None],
    *,
    newest_first: bool,
) -> None:
    lower, upper = range_
    there = Keys([order_key(at_ms, str(event_id)) for at_ms, event_id in events], newest_first=newest_first)
    wanted = [key for key in there.keys if lower <= key and not (upper and key >= upper)]
    wanted = wanted[::-1] if newest_first else wanted
    found = there.take(*counts, 100, lower=lower, upper=upper, start_ms=known[0], end_ms=known[1])
    assert [key for part in found for key in part] == wanted
    for part, count in zip(found, counts, strict=False):
        assert len(part) == min(count, len(wanted))
        wanted = wanted[count:]


@pytest.mark.parametrize("gap_ms", [1, 30, 1_000, 60_000, 3_600_000])
@pytest.mark.parametrize("from_index", [0, 300])
def test_few_other_events_are_read_at_any_density(gap_ms: int, from_index: int) -> None:
    chance = random.Random(gap_ms)  # noqa: S311 - repeatable
    at_ms = [NOW_MS - (1_000 - number) * gap_ms + chance.randrange(gap_ms) for number in range(1_000)]
    there = Keys([order_key(moment, f"{number}") for number, moment in enumerate(at_ms)])
    lower = there.keys[from_index] if from_index else ""
    assert there.take(100, 100, lower=lower, start_ms=at_ms[0]) == [
        there.keys[from_index : from_index + 100],
        there.keys[from_index + 100 : from_index + 200],
    ]
    assert there.looked_at < 1_000
    assert there.questions <= 12


@pytest.mark.parametrize("gap_ms", [1, 30, 1_000, 60_000, 3_600_000])
@pytest.mark.parametrize("late_ms", [-60_000, 0, 60_000])
def test_few_other_events_are_read_from_the_newest_on(gap_ms: int, late_ms: int) -> None:
    chance = random.Random(gap_ms)  # noqa: S311 - repeatable
    at_ms = [NOW_MS - (1_000 - number) * gap_ms + chance.randrange(gap_ms) for number in range(1_000)]
    there = Keys([order_key(moment, f"{number}") for number, moment in enumerate(at_ms)], newest_first=True)
    newest = there.keys[::-1]
    end_ms = at_ms[-1] + (late_ms if gap_ms >= 1_000 else late_ms // 1_000)
    assert there.take(100, 100, start_ms=at_ms[0], end_ms=end_ms) == [newest[:100], newest[100:200]]
    assert there.looked_at < 1_000
    assert there.questions <= 12


def test_a_visit_without_later_events_needs_few_queries() -> None:
    there = Keys([order_key(NOW_MS - 6 * 86_400_000, "")])
    assert there.take(100, start_ms=NOW_MS - 6 * 86_400_000) == [there.keys]
    assert there.questions <= 6
