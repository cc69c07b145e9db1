"""Turns the stream of changes and a later look at the visits into who each visitor was before and after each change."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from footfall_timeline import Fold, Kind, Stamp, State, Timeline, Transition, decode


class Change(NamedTuple):
    """What one merge changed in one timeline: each entry that is new, and the one it replaced if there was one.

    What an erased marker replaced is not told.
    """

    position: str
    visit_id: str
    entries: tuple[tuple[str, Transition, Transition | None], ...]

    @classmethod
    def read(cls, position: str, fields: Mapping[bytes, bytes]) -> Self:
        """Read what merge.lua writes. Raises LaterVersionError."""
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        visit_id = texts.pop("visit")
        entries = []
        for event_id, new in texts.items():
            if not event_id.startswith("-"):
                old = texts.get(f"-{event_id}")
                entries.append((event_id, decode(event_id, new), decode(event_id, old) if old else None))
        return cls(position, visit_id, tuple(entries))

    @property
    def time_ms(self) -> int:
        """When it was merged."""
        return int(self.position.partition("-")[0])


class Step(NamedTuple):
    """One change, and who the visitor was around it."""

    change: Change
    before: Stamp
    after: Stamp


def steps(changes: Iterable[Change], seen: Mapping[str, Timeline]) -> Iterator[Step]:
    """Each change with the stamps around it, visit by visit and not in order.

    `changes` are all that the visits in question have had from some moment on, in order. `seen` are their timelines as
    they were at some later moment, before which or after which the last of the changes may have come.
    """
    by_visit: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_visit[change.visit_id].append(change)
    for visit_id, of_visit in by_visit.items():
        yield from _steps_of_visit(of_visit, visit_id, seen.get(visit_id, ()))


def _steps_of_visit(changes: list[Change], visit_id: str, seen: Timeline) -> Iterator[Step]:
    then = _Reading(visit_id, seen)
    included: list[Change] = []
    later: list[Change] = []
    for change in changes:
        (included if _is_in(change, then) else later).append(change)
    for change in reversed(included):
        after = then.stamp
        for event_id, new, old in change.entries:
            if then.get(event_id) == new:
                then.put(event_id, old)
        yield Step(change, then.stamp, after)
    now = _Reading(visit_id, seen if later else ())
    for change in later:
        before = now.stamp
        for event_id, new, _ in change.entries:
            now.put(event_id, new)
        yield Step(change, before, now.stamp)


def _is_in(change: Change, seen: "_Reading") -> bool:
    """Whether a timeline has this change already. The smaller entry wins, so a smaller one has come after."""
    return all((entry := seen.get(event_id)) is not None and entry <= new for event_id, new, _ in change.entries)


class _Reading:
    """A timeline that changes entry by entry, read on from each change only as far as that makes a difference.

    So a change costs what it moves, and not what the whole timeline holds.
    """

    def __init__(self, visit_id: str, timeline: Timeline) -> None:
        self._visit_id = visit_id
        self._entries: dict[str, Transition] = {}
        self._timeline: list[Transition] = []
        # The shortest timelines with the stamps before each transition and after the last: one transition at most.
        self._gists: list[Timeline] = [()]
        for transition in timeline:
            self.put(transition.event_id, transition)

    @property
    def stamp(self) -> Stamp:
        """The stamp after the last transition."""
        return Fold(self._visit_id, self._gists[-1]).stamp

    def get(self, event_id: str) -> Transition | None:
        """The entry of an event."""
        return self._entries.get(event_id)

    def put(self, event_id: str, transition: Transition | None) -> None:
        """Let this be the entry of an event; None: let there be none."""
        if known := self._entries.pop(event_id, None):
            place = bisect_left(self._timeline, known)
            del self._timeline[place], self._gists[place + 1]
            self._read_from(place)
        if transition:
            self._entries[event_id] = transition
            place = bisect_left(self._timeline, transition)
            self._timeline.insert(place, transition)
            self._gists.insert(place + 1, self._gists[place])
            self._read_from(place)

    def _read_from(self, place: int) -> None:
        for position in range(place, len(self._timeline)):
            gist = self._read(self._gists[position], self._timeline[position])
            if gist == self._gists[position + 1]:
                return
            self._gists[position + 1] = gist

    def _read(self, gist: Timeline, transition: Transition) -> Timeline:
        step = Fold(self._visit_id, (*gist, transition)).steps[-1]
        if step.after == step.before:
            return gist
        match step.after.state:
            case State.ANONYMOUS:
                return ()
            case State.RECOGNIZED:
                return (Transition(0, "", Kind.USER_INFO, step.after.assurance, step.after.identity),)
            case State.AUTHENTICATED:
                return (transition,)
