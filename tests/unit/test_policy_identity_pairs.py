"""Identities that merge, split, get another name, vanish or are new, against the same counted in memory."""

from collections import Counter

from footfall_history.policies.comparison import Pair
from footfall_history.policies.identity_pairs import CHANGES, IdentityPairs, Part
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.identity_changes import identity_changes

NAMES = st.sampled_from(["", "a", "b", "c", "d", "é'\"; DROP TABLE pairs"])
PAIRS = st.builds(Pair, NAMES, NAMES, st.sampled_from(["", "placeholder"])).filter(lambda one: one.before or one.after)
VISITS = st.lists(st.lists(PAIRS, max_size=6), max_size=5)


@given(VISITS)
def test_identities_are_counted_on_disk_as_in_memory(visits: list[list[Pair]]) -> None:
    with IdentityPairs() as pairs:
        for number, visit in enumerate(visits):
            # In two parts, as a visit with many pairs is.
            for some in (visit[:3], visit[3:]):
                pairs.add(f"visit-{number}", Counter(some))
        pairs.prepare()
        every = [pair for visit in visits for pair in visit]
        counts, expected = identity_changes((pair.before, pair.after) for pair in every)
        assert pairs.counts() == counts
        assert expected.keys() == {*CHANGES}
        for kind in CHANGES:
            total, found = pairs.changed(kind, 10)
            assert (total, {one.identity for one in found}) == (len(expected[kind]), expected[kind])
            for one in found:
                is_old = kind in {"split", "vanished", "renamed"}
                own = [pair for pair in every if (pair.before if is_old else pair.after) == one.identity]
                assert one.events == len(own)
                for part in one.parts:
                    assert part == Part(
                        part.identity, part.reason, *_counted(visits, one.identity, part, is_old=is_old)
                    )
        assert pairs.changed("merged", 0) == (len(expected["merged"]), [])


def _counted(visits: list[list[Pair]], identity: str, part: Part, *, is_old: bool) -> tuple[int, int]:
    ends = (identity, part.identity) if is_old else (part.identity, identity)
    counts = [visit.count(Pair(*ends, part.reason)) for visit in visits]
    return sum(counts), sum(count > 0 for count in counts)
