"""Counting how many values keys have, in bounded memory: exact while all fits, and independent of order always."""

import random
from collections import defaultdict
from itertools import pairwise

from footfall_history.scorecards.tally import SIZE_BOUNDS, Sample, SizesByKey
from hypothesis import given
from hypothesis import strategies as st

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=400)


def sizes_of(pairs: list[tuple[int, int]], limit: int) -> tuple[int, list[int]]:
    sizes = SizesByKey(limit)
    for key, value in pairs:
        sizes.add(f"key {key}", f"value {value}")
    return sizes.one_in, sizes.sizes(SIZE_BOUNDS)


def plain_sizes(pairs: list[tuple[int, int]]) -> list[int]:
    values = defaultdict[int, set[int]](set)
    for key, value in pairs:
        values[key].add(value)
    edges = [0, *SIZE_BOUNDS, 10_000]
    counts = [len(found) for found in values.values()]
    return [sum(low < count <= high for count in counts) for low, high in pairwise(edges)]


@given(PAIRS)
def test_what_fits_is_counted_exactly(pairs: list[tuple[int, int]]) -> None:
    assert sizes_of(pairs, 10_000) == (1, plain_sizes(pairs))


@given(PAIRS, st.integers(10, 100), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_order_or_repetition(
    pairs: list[tuple[int, int]], limit: int, chance: random.Random
) -> None:
    shuffled = pairs + pairs[: len(pairs) // 2]
    chance.shuffle(shuffled)
    assert sizes_of(shuffled, limit) == sizes_of(pairs, limit)


def test_memory_is_bounded_and_the_estimate_is_close() -> None:
    sizes = SizesByKey(2_000)
    for number in range(100_000):
        sizes.add(f"device {number % 40_000}", f"person {number}")
    for number in range(10_000):
        sizes.add("a kiosk", f"person {number}")
    assert sizes.one_in > 1
    assert sum(map(len, sizes._values.values())) <= 2_000
    two, three = sizes.sizes(SIZE_BOUNDS)[1:3]
    assert abs(two - 20_000) < 4_000
    assert abs(three - 20_000) < 4_000


@given(st.lists(st.integers(0, 500), max_size=300), st.integers(5, 50), st.randoms(use_true_random=False))
def test_a_sample_of_texts_is_bounded_and_depends_on_the_set_alone(
    numbers: list[int], limit: int, chance: random.Random
) -> None:
    samples = []
    for order in (numbers, chance.sample(numbers * 2, 2 * len(numbers))):
        sample = Sample(limit)
        for number in order:
            sample.add(f"person {number}")
        samples.append((sample.one_in, sorted(sample.texts)))
    assert samples[0] == samples[1]
    one_in, kept = samples[0]
    assert len(kept) <= limit
    assert one_in > 1 or len(kept) == len(set(numbers))
