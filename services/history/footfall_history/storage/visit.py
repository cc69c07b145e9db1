"""Turns the document of a visit into its timeline, and the timeline into the stamps of its events."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, Self

from footfall_timeline import (
    ANONYMOUS,
    Attribution,
    Kind,
    Timeline,
    Transition,
    VisitState,
    erase,
    from_fields,
    merge,
    to_fields,
)

from footfall_history.storage.documents import DEVICE_FIELDS, TIME_DIGITS, Document, erased, event_time_ms, stamp_fields


class Piece(NamedTuple):
    """All events with start <= order key < stop (None: no end) have this stamp.

    `is_erased`: they belong to somebody who has been forgotten, so they keep nothing that was sent.
    """

    start: str
    stop: str | None
    stamp: Attribution
    is_erased: bool


@dataclass(frozen=True)
class Visit:
    """What the consumer knows of a visit. Plain values, so that it can be remembered.

    `rev` counts the changes of the timeline. `identities` are those it names, and those who are being erased from it.
    `start` is what the earliest event says of the visit, and of its site the one received first. `touched_ms` is about
    when an event last arrived. `is_truncated`: it had more transitions than are kept, and those beyond do not count.
    `erases_anonymous`: see `_forgotten`.
    """

    visit_id: str
    rev: int
    timeline: Timeline
    identities: frozenset[str]
    start: Mapping[str, Any]
    touched_ms: int
    is_truncated: bool = False
    erases_anonymous: bool = True

    @classmethod
    def begun(cls, visit_id: str, start: Mapping[str, Any], received_ms: int, *, erases_anonymous: bool = True) -> Self:
        """A visit without transitions, not yet stored."""
        return cls(visit_id, 0, (), frozenset(), start, received_ms, erases_anonymous=erases_anonymous)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], *, erases_anonymous: bool = True) -> Self:
        """A visit as stored. Raises LaterVersionError."""
        return cls(
            document["_id"],
            document["rev"],
            from_fields(document["timeline"].items()),
            frozenset(document["identities"]),
            {"start_key": document["start_key"], "site_key": document.get("site_key", "")},
            document["touched_ms"],
            document.get("truncated", False),
            erases_anonymous,
        )

    def merged(self, transitions: Sequence[Transition], most: int) -> Self:
        """The visit with these transitions in its timeline: `self` when they change nothing, else the next revision.

        Of too many transitions the earliest `most` are kept.
        """
        if not transitions:
            return self
        timeline = merge(self.timeline, transitions)
        visit = self._changed(timeline[:most], self.identities - _named(self.timeline))
        if len(timeline) <= most or self.is_truncated:
            return visit
        return replace(visit, rev=self.rev + 1, is_truncated=True)

    def erased(self, identity: str, erase_time_ms: int) -> Self:
        """The visit with what named this identity up to a moment erased: `self` or the next revision."""
        return self._changed(erase(self.timeline, identity, erase_time_ms), self.identities)

    def with_forgotten(self, forgotten: Mapping[str, int]) -> Self:
        """The visit with everybody erased who has been, each up to the moment given: `self` or the next revision."""
        visit = self
        for identity in forgotten.keys() & self.identities:
            visit = visit.erased(identity, forgotten[identity])
        return visit if visit is self else replace(visit, rev=self.rev + 1)

    def without(self, identity: str) -> Self:
        """The visit no longer known as one of this identity, unless its timeline names it: `self` or the next revision.

        To be stored only when no event names it either: by `identities` such events are found.
        """
        return self._changed(self.timeline, self.identities - {identity})

    def _changed(self, timeline: Timeline, others: frozenset[str]) -> Self:
        identities = _named(timeline) | others
        if timeline == self.timeline and identities == self.identities:
            return self
        return replace(self, rev=self.rev + 1, timeline=timeline, identities=identities)

    def timeline_fields(self) -> Document:
        """The fields that follow from the timeline, as stored."""
        fields: Document = {
            "rev": self.rev,
            "timeline": to_fields(self.timeline),
            "identities": sorted(self.identities),
            "session_ids": [session.session_id for session in self.visit_state.sessions],
        }
        if any(transition.is_erased for transition in self.timeline):
            fields["forgotten"] = self.is_forgotten
        return fields | ({"truncated": True} if self.is_truncated else {})

    def document(self) -> Document:
        """The visit as it is stored first, but for what follows from the timeline."""
        gone = DEVICE_FIELDS if self.is_forgotten else ()
        start = {name: value for name, value in self.start.items() if name not in gone}
        return {"_id": self.visit_id, "touched_ms": self.touched_ms, **start}

    @property
    def first_named(self) -> str:
        """Whom it named first; empty when that is nobody any more, or nobody yet."""
        named = (
            step.transition.identity for step in self.visit_state.steps if step.transition.kind is not Kind.SIGN_OUT
        )
        return next(named, "")

    @property
    def is_forgotten(self) -> bool:
        """Whether it was of people who are erased, from its first event on, and names nobody else."""
        # A start key has the visit's id behind its time: all events of that millisecond come before "~".
        return not _named(self.timeline) and self.piece_at(self.start["start_key"][:TIME_DIGITS] + "~").is_erased

    @cached_property
    def visit_state(self) -> VisitState:
        """The timeline read from beginning to end."""
        return VisitState(self.visit_id, self.timeline)

    @cached_property
    def _pieces(self) -> tuple[list[Piece], list[str]]:
        forgotten = _forgotten(self.visit_state, erases_anonymous=self.erases_anonymous)
        pieces = [
            Piece(*stretch, forgotten.get(stretch.start, False)) for stretch in self.visit_state.attribution_ranges()
        ]
        return pieces, [piece.start for piece in pieces]

    def piece_at(self, order_key: str) -> Piece:
        """The piece an event belongs to."""
        pieces, starts = self._pieces
        return pieces[bisect_right(starts, order_key) - 1]

    def stamped(self, event: Document, forgotten: Mapping[str, int]) -> Document:
        """An event of this visit, not yet stamped, as it is stored."""
        piece = self.piece_at(event["order_key"])
        # Also when the timeline has another identity under this event's id.
        names_forgotten = event_time_ms(event["order_key"]) <= forgotten.get(event.get("names_identity_id", ""), -1)
        if piece.is_erased or names_forgotten:
            event = erased(event)
        return event | stamp_fields(piece.stamp, self.rev)[0]

    def earliest_of(self, transitions: Iterable[Transition]) -> str:
        """The smallest order key under which the timeline has any of these transitions, all of them merged before.

        The timeline may have another, smaller entry for the same event. Empty when it has none of them: they lie beyond
        what is kept.
        """
        ids = {transition.event_id for transition in transitions}
        return next((transition.order_key for transition in self.timeline if transition.event_id in ids), "")


def _named(timeline: Timeline) -> frozenset[str]:
    return frozenset(transition.identity for transition in timeline if transition.identity)


def _forgotten(fold: VisitState, *, erases_anonymous: bool) -> dict[str, bool]:
    """By the key where a stretch starts: whether whoever owns it has been forgotten.

    From an erased SignIn or UserInfo on everything was that person's, until somebody else is named. An erased UserInfo
    within another person's session owned nothing but itself. What a visit did before anybody was named is nobody's, but
    whoever is named first did it all the same: with `erases_anonymous` it is forgotten with that person. There is no
    other anonymous stretch: once somebody is named, the visit is always somebody's.
    """
    named = (step.transition for step in fold.steps if step.transition.kind is not Kind.SIGN_OUT)
    is_forgotten = erases_anonymous and any(transition.is_erased for transition in islice(named, 1))
    forgotten = {"": is_forgotten}
    for step in fold.steps:
        key = step.transition.order_key
        if step.transition.is_erased:
            is_forgotten = step.after == ANONYMOUS
        elif step.transition.kind is not Kind.SIGN_OUT:
            is_forgotten = False
        forgotten[key] = is_forgotten or step.transition.is_erased
        forgotten[key + "\0"] = is_forgotten
    return forgotten
