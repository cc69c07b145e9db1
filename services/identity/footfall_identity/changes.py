"""Changes of timelines, and the attribution of each visitor before and after every change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from footfall_timeline import Attribution, RunningVisitState, Transition, decode

from footfall_identity.visit_record import VisitRecord


class TimelineChange(NamedTuple):
    """The change that one merge made to a timeline; `rev` is the timeline's revision after it.

    `entries` are pairs of the new and the old transition. New None: removed, because the visit has too many. Old None:
    there was none, or it is erased and therefore not stored.
    """

    position: str
    visit_id: str
    rev: int
    entries: tuple[tuple[Transition | None, Transition | None], ...]

    @classmethod
    def read(cls, position: str, fields: Mapping[bytes, bytes]) -> Self:
        """Decode an entry of the stream of changes, which merge_visits.lua writes. Raises LaterVersionError."""
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        visit_id, rev = texts.pop("visit"), int(texts.pop("rev", "0"))  # the first version wrote no revision
        new = {name: decode(name, text) for name, text in texts.items() if not name.startswith("-")}
        old = {name[1:]: decode(name[1:], text) for name, text in texts.items() if name.startswith("-")}
        return cls(position, visit_id, rev, tuple((new.get(name), old.get(name)) for name in {**new, **old}))

    @property
    def time_ms(self) -> int:
        """The time of the merge, in milliseconds since the epoch."""
        return int(self.position.partition("-")[0])


class VisitorChange(NamedTuple):
    """A change of a timeline with the attribution before and after it."""

    change: TimelineChange
    before: Attribution
    after: Attribution


def visitor_changes(changes: Iterable[TimelineChange], seen: Mapping[str, VisitRecord]) -> Iterator[VisitorChange]:
    """Yield each change, in the order given, with the attribution before and after it.

    `changes` are all changes of these visits from some time on, in order. `seen` are the visits as read later; their
    revisions may be older or newer than the last of the changes. Changes of a visit not in `seen` are left out.
    """
    in_order = [change for change in changes if change.visit_id in seen]
    by_visit: dict[str, list[TimelineChange]] = defaultdict(list)
    for change in in_order:
        by_visit[change.visit_id].append(change)
    visits = {visit_id: _Visit(seen[visit_id], of_visit) for visit_id, of_visit in by_visit.items()}
    for change in in_order:
        yield visits[change.visit_id].apply(change)


class _Visit:
    """A timeline, rewound to before the first change and then moved forward change by change."""

    def __init__(self, seen: VisitRecord, changes: list[TimelineChange]) -> None:
        self._entries = {_key(transition): transition for transition in seen.timeline}
        for change in reversed(changes):
            if change.rev <= seen.rev:
                self._apply((old, new) for new, old in change.entries)
        self._visit_state = RunningVisitState(seen.visit_id, self._entries.values())

    def apply(self, change: TimelineChange) -> VisitorChange:
        """Apply the next change."""
        before = self._visit_state.attribution
        self._apply(change.entries)
        self._visit_state.move_to(self._entries.values())
        return VisitorChange(change, before, self._visit_state.attribution)

    def _apply(self, entries: Iterable[tuple[Transition | None, Transition | None]]) -> None:
        for new, old in entries:
            if new:
                self._entries[_key(new)] = new
            elif old:
                self._entries.pop(_key(old), None)


def _key(transition: Transition) -> tuple[str, int]:
    return transition.event_id, transition.assurance
