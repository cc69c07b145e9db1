"""Recorded changes of visits, and the attribution of each visitor before and after every change."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, Self

from footfall_timeline import Attribution, LaterVersionError, RunningVisitState, Transition, decode

from footfall_identity.visit_record import VisitRecord


class Kind(StrEnum):
    """What has changed besides the timeline, as the scripts write it."""

    ARRIVED = "A"
    """The visit is new, or goes on after it had ended."""
    CONTACT = "C"
    """The contact may have changed."""
    PAGE = "P"
    """The current page or the number of open pages. Recorded only while a watcher asks for it."""
    LEFT = "L"
    RETURNED = "R"
    ENDED = "E"
    STAFF = "S"
    """The visit has become one of staff."""


class TimelineChange(NamedTuple):
    """A recorded change of a visit. `rev` is the revision of the timeline after a change of it.

    `entries` are pairs of the new and the old transition. New None: removed, because the visit has too many. Old None:
    there was none, or it is erased and therefore not stored.

    Of a changed contact, `contact_id` is the contact before ("": none) of the identity with the hash `identity_hash`
    ("": of any identity). It is None if the contact has to be looked up because it was unknown.
    """

    position: str
    visit_id: str
    rev: int
    entries: tuple[tuple[Transition | None, Transition | None], ...]
    kinds: frozenset[Kind] = frozenset()
    contact_id: str | None = None
    identity_hash: str = ""

    @classmethod
    def read(cls, position: str, fields: Mapping[bytes, bytes]) -> Self:
        """Decode an entry of the stream of changes, which the scripts write. Raises LaterVersionError."""
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        visit_id, rev = texts.pop("visit"), int(texts.pop("rev", "0"))  # the first version wrote no revision
        kinds, contact_id = _kinds(texts.pop("kinds", "")), texts.pop("contact", None)
        identity_hash = texts.pop("identity", "")
        new = {name: decode(name, text) for name, text in texts.items() if not name.startswith("-")}
        old = {name[1:]: decode(name[1:], text) for name, text in texts.items() if name.startswith("-")}
        entries = tuple((new.get(name), old.get(name)) for name in {**new, **old})
        return cls(position, visit_id, rev, entries, kinds, contact_id, identity_hash)

    @property
    def time_ms(self) -> int:
        """The time when the change was recorded, in milliseconds since the epoch."""
        return int(self.position.partition("-")[0])


def _kinds(text: str) -> frozenset[Kind]:
    try:
        return frozenset(map(Kind, text))
    except ValueError:
        raise LaterVersionError("a change of a later version") from None


class VisitorChange(NamedTuple):
    """A recorded change with the attribution before and after it."""

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
        if not change.entries:
            return VisitorChange(change, before, before)
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
