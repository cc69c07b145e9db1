"""Turns the stream of changes and a later look at the visits into each timeline before and after each change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from footfall_timeline import Timeline, Transition, decode


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
    """One change, and the timeline around it."""

    change: Change
    before: Timeline
    after: Timeline


def steps(changes: Iterable[Change], seen: Mapping[str, Timeline]) -> Iterator[Step]:
    """Each change, in the order given, with the timelines around it.

    `changes` are all that the visits in question have had from some moment on, in order. `seen` are their timelines as
    they were at some later moment, before which or after which the last of the changes may have come.
    """
    by_visit: dict[str, list[Change]] = defaultdict(list)
    in_order = list(changes)
    for change in in_order:
        by_visit[change.visit_id].append(change)
    found = {
        step.change.position: step
        for visit_id, of_visit in by_visit.items()
        for step in _steps_of_visit(of_visit, {t.event_id: t for t in seen.get(visit_id, ())})
    }
    for change in in_order:
        yield found[change.position]


def _steps_of_visit(changes: list[Change], seen: dict[str, Transition]) -> Iterator[Step]:
    included = [change for change in changes if _is_in(change, seen)]
    timeline = dict(seen)
    for change in reversed(included):
        after = _timeline(timeline)
        for event_id, new, old in change.entries:
            if timeline.get(event_id) == new:
                timeline.pop(event_id)
                if old:
                    timeline[event_id] = old
        yield Step(change, _timeline(timeline), after)
    timeline = dict(seen)
    for change in (change for change in changes if change not in included):
        before = _timeline(timeline)
        timeline |= {event_id: new for event_id, new, _ in change.entries}
        yield Step(change, before, _timeline(timeline))


def _is_in(change: Change, seen: Mapping[str, Transition]) -> bool:
    """Whether a timeline has this change already. The smaller entry wins, so a smaller one has come after."""
    return all(event_id in seen and seen[event_id] <= new for event_id, new, _ in change.entries)


def _timeline(transitions: Mapping[str, Transition]) -> Timeline:
    return tuple(sorted(transitions.values()))
