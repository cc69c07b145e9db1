"""Counts the visits of one site that began on one day. The result depends on the set of visits only, not on its order.

A visit is seen with its whole timeline: also what happened after midnight counts.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from footfall_timeline import Assurance, Kind, State, VisitState, from_fields

from footfall_history.storage import (
    CONFLICT,
    IGNORED,
    LATE,
    LATE_S,
    PLACEHOLDER,
    REPEATED,
    Document,
    event_time_ms,
)

VISIT_FIELDS: Final = ("site", "global_visit_id", "timeline", "marks", "staff")
"""The fields of a visit that are counted, besides its id and start key."""
RECOGNITION_BOUNDS_S: Final = (1, 10, 60, 300, 1_800, 3_600)
SIZE_BOUNDS: Final = (1, 2, 3, 5, 10, 20)
"""Upper bounds of the buckets for identities per device and devices per identity."""
_MAX_IDENTITIES: Final = 1_000
"""Identities of which it is asked how they are linked: as many as identity counts in one call."""


class Tally:
    """The counts of one site and day."""

    def __init__(self, sample_size: int) -> None:
        """`sample_size`: pairs of device and identity above which both are sampled, see SizesByKey."""
        self._states: Counter[State] = Counter()
        self._proven = 0
        self._recognition = [0] * (len(RECOGNITION_BOUNDS_S) + 1)
        self._identities = SizesByKey(sample_size)
        self._devices = SizesByKey(sample_size)
        self.identities = Sample(_MAX_IDENTITIES)
        """Those that visits named, or some of them."""
        self._late = [0] * len(LATE_S)
        self._ignored = 0
        self._marks: Counter[str] = Counter()

    def add(self, visit: Mapping[str, Any]) -> None:
        """Count a visit, with VISIT_FIELDS. Raises LaterVersionError."""
        state = VisitState(visit["_id"], from_fields(visit["timeline"].items()))
        reached = [max(step.own.state, step.after.state) for step in state.steps]
        self._states[max(reached, default=State.ANONYMOUS)] += 1
        named = [step.transition for step in state.steps if step.transition.identity]
        self._proven += any(each.kind is Kind.SIGN_IN and each.assurance is Assurance.PROVEN for each in named)
        if named:
            # Not negative: the visit's start is moved to its earliest event, but a moment later than the transition.
            delay_ms = max(0, named[0].event_time_ms - event_time_ms(visit["start_key"]))
            self._recognition[bisect_left(RECOGNITION_BOUNDS_S, delay_ms / 1000)] += 1
        device = visit.get("global_visit_id")
        for identity in {transition.identity for transition in named}:
            self.identities.add(identity)
            if device:
                self._identities.add(device, identity)
                self._devices.add(identity, device)
        marks = visit.get("marks", ())
        self._marks.update(marks)
        self._ignored += any(mark.startswith(f"{IGNORED}:") for mark in marks)
        if late := [number for number, bound in enumerate(LATE_S) if f"{LATE}:{bound}" in marks]:
            self._late[late[-1]] += 1

    def document(self) -> Document:
        """The counts as they are stored."""
        return {
            "states": [self._states[state] for state in State],
            "proven": self._proven,
            "recognition": self._recognition,
            "identities_per_device": self._identities.sizes(SIZE_BOUNDS),
            "devices_sampled_one_in": self._identities.one_in,
            "devices_per_identity": self._devices.sizes(SIZE_BOUNDS),
            "identities_sampled_one_in": self._devices.one_in,
            "ignored": self._ignored,
            "ignored_by_reason": _counts_of(IGNORED, self._marks),
            "placeholders": _counts_of(PLACEHOLDER, self._marks),
            "late": self._late,
            "repeated": self._marks[REPEATED],
            "conflicts": self._marks[CONFLICT],
        }


class SizesByKey:
    """How many different values each key has, in bounded memory.

    With more than `limit` pairs of key and value, only those keys are kept whose hash is a multiple of `one_in`, which
    doubles until the rest fits. Which keys these are depends on the set of pairs only: `one_in` is the least power of
    two with which all pairs fit, because more pairs never need less. Of a key, at most one value more than the last
    bound of SIZE_BOUNDS is kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[int, set[int]] = {}
        self._pair_count = 0
        self.one_in = 1

    def add(self, key: str, value: str) -> None:
        """Add a pair, again or for the first time."""
        hashed = _hash(key)
        if hashed % self.one_in:
            return
        values = self._values.setdefault(hashed, set())
        if len(values) > SIZE_BOUNDS[-1]:
            return
        self._pair_count -= len(values)
        values.add(_hash(value))
        self._pair_count += len(values)
        while self._pair_count > self._limit:
            self.one_in *= 2
            for other in [other for other in self._values if other % self.one_in]:
                self._pair_count -= len(self._values.pop(other))

    def sizes(self, bounds: Sequence[int]) -> list[int]:
        """How many keys have up to so many values, by bound, and how many have more; estimates if `one_in` is not 1."""
        found = Counter(bisect_left(bounds, len(values)) for values in self._values.values())
        return [found[number] * self.one_in for number in range(len(bounds) + 1)]


class Sample:
    """Different texts in bounded memory: with more than `limit`, those whose hash is a multiple of `one_in`.

    As in SizesByKey, these depend on the set of texts only.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[int, str] = {}
        self.one_in = 1

    def add(self, text: str) -> None:
        """Add a text, again or for the first time."""
        hashed = _hash(text)
        if hashed % self.one_in:
            return
        self._kept[hashed] = text
        while len(self._kept) > self._limit:
            self.one_in *= 2
            self._kept = {other: one for other, one in self._kept.items() if not other % self.one_in}

    @property
    def texts(self) -> list[str]:
        """The texts that are kept."""
        return [*self._kept.values()]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _counts_of(kind: str, marks: Mapping[str, int]) -> list[list[Any]]:
    """The values of one kind of mark with their counts, sorted. A list, because a value may be no name of a field."""
    prefix = f"{kind}:"
    return sorted([mark.removeprefix(prefix), count] for mark, count in marks.items() if mark.startswith(prefix))
