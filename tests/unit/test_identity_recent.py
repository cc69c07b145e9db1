"""Which entries of the log its consumer may leave out of its merge."""

from footfall_identity.recent import RecentEntries


def test_an_entry_is_known_by_partition_and_id() -> None:
    recent = RecentEntries()
    recent.add([(1, "7-0"), (2, "8-0")])
    assert (1, "7-0") in recent
    assert (2, "8-0") in recent
    assert (1, "8-0") not in recent


def test_the_oldest_are_forgotten() -> None:
    recent = RecentEntries(most=10)
    for number in range(100):
        recent.add([(0, f"{number}-0")])
    assert [number for number in range(100) if (0, f"{number}-0") in recent] == [*range(90, 100)]
