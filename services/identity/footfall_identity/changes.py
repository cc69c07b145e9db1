"""Turns the stream of changes and a later look at the visits into who each visitor was before and after each change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from footfall_timeline import RunningFold, Stamp, Transition, decode

from footfall_identity.visit_record import VisitRecord


class TimelineChange(NamedTuple):
    """What one merge changed in one timeline, and the revision that this made.

    `entries` are pairs: what an entry is now (None: it was removed, because the visit has too many), and what it was
    before (None: it is new, or what an erased marker has replaced, which is not told).
    """

    position: str
    visit_id: str
    rev: int
    entries: tuple[tuple[Transition | None, Transition | None], ...]

    @classmethod
    def read(cls, position: str, fields: Mapping[bytes, bytes]) -> Self:
        """Read what merge.lua writes. Raises LaterVersionError."""
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        visit_id, rev = texts.pop("visit"), int(texts.pop("rev", "0"))  # the first version told no revision
        new = {name: decode(name, text) for name, text in texts.items() if not name.startswith("-")}
        old = {name[1:]: decode(name[1:], text) for name, text in texts.items() if name.startswith("-")}
        return cls(position, visit_id, rev, tuple((new.get(name), old.get(name)) for name in {**new, **old}))

    @property
    def time_ms(self) -> int:
        """When it was merged."""
        return int(self.position.partition("-")[0])


class VisitorChange(NamedTuple):
    """One change, and who the visitor was taken to be before and after it."""

    change: TimelineChange
    before: Stamp
    after: Stamp


def visitor_changes(changes: Iterable[TimelineChange], seen: Mapping[str, VisitRecord]) -> Iterator[VisitorChange]:
    """Each change, in the order given, with the stamps around it.

    `changes` are all that the visits in question have had from some moment on, in order. `seen` are these visits as
    they were at some later moment, before which or after which the last of the changes may have come. One that is not
    there has been forgotten meanwhile: its changes are left out.
    """
    in_order = [change for change in changes if change.visit_id in seen]
    by_visit: dict[str, list[TimelineChange]] = defaultdict(list)
    for change in in_order:
        by_visit[change.visit_id].append(change)
    visits = {visit_id: _Visit(seen[visit_id], of_visit) for visit_id, of_visit in by_visit.items()}
    for change in in_order:
        yield visits[change.visit_id].step(change)


class _Visit:
    """A timeline on its way from before the first change on."""

    def __init__(self, seen: VisitRecord, changes: list[TimelineChange]) -> None:
        self._entries = {_key(transition): transition for transition in seen.timeline}
        for change in reversed(changes):
            if change.rev <= seen.rev:
                self._apply((old, new) for new, old in change.entries)
        self._fold = RunningFold(seen.visit_id, self._entries.values())

    def step(self, change: TimelineChange) -> VisitorChange:
        """Go past one change."""
        before = self._fold.stamp
        self._apply(change.entries)
        self._fold.move_to(self._entries.values())
        return VisitorChange(change, before, self._fold.stamp)

    def _apply(self, entries: Iterable[tuple[Transition | None, Transition | None]]) -> None:
        for new, old in entries:
            if new:
                self._entries[_key(new)] = new
            elif old:
                self._entries.pop(_key(old), None)


def _key(transition: Transition) -> tuple[str, int]:
    return transition.event_id, transition.assurance
