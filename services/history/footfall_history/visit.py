"""Turns the document of a visit into its timeline, and the timeline into the stamps of its events."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

from footfall_timeline import (
    ANONYMOUS,
    Fold,
    Kind,
    Stamp,
    Timeline,
    Transition,
    decode,
    encode,
    merge,
)

from footfall_history.documents import Document


class Piece(NamedTuple):
    """All events with start <= order key < stop (None: no end) have this stamp.

    `is_erased`: they belong to somebody who has been forgotten, so they keep no data.
    """

    start: str
    stop: str | None
    stamp: Stamp
    is_erased: bool


@dataclass(frozen=True)
class Visit:
    """What the consumer knows of a visit. Plain values, so that it can be remembered.

    `rev` counts the changes of the timeline. `identities` are those its transitions named, also those that lost a
    merge: the first stored event of an id may name another identity than the timeline does, and erasing must find
    both. `start` is what the earliest event says of the visit. `touched_ms` is about when an event last arrived.
    """

    visit_id: str
    rev: int
    timeline: Timeline
    identities: frozenset[str]
    start: Mapping[str, Any]
    touched_ms: int

    @classmethod
    def begun(cls, visit_id: str, start: Mapping[str, Any], received_ms: int) -> Self:
        """A visit without transitions, not yet stored."""
        return cls(visit_id, 0, (), frozenset(), start, received_ms)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """A visit as stored."""
        return cls(
            document["_id"],
            document["rev"],
            merge(decode(event_id, text) for event_id, text in document["timeline"].items()),
            frozenset(document["identities"]),
            {"start_key": document["start_key"]},
            document["touched_ms"],
        )

    def merged(self, transitions: Iterable[Transition]) -> Self:
        """The visit with these transitions in its timeline: `self` when they change nothing, else the next revision."""
        named = {transition.identity for transition in transitions if transition.identity}
        return self._changed(merge(self.timeline, transitions), self.identities | named)

    def _changed(self, timeline: Timeline, identities: frozenset[str]) -> Self:
        if timeline == self.timeline and identities == self.identities:
            return self
        return replace(self, rev=self.rev + 1, timeline=timeline, identities=identities)

    def timeline_fields(self) -> Document:
        """The fields that follow from the timeline, as stored."""
        return {
            "rev": self.rev,
            "timeline": {transition.event_id: encode(transition) for transition in self.timeline},
            "identities": sorted(self.identities),
            "session_ids": [session.session_id for session in self.fold.sessions],
        }

    def document(self) -> Document:
        """The visit as it is stored first."""
        return {"_id": self.visit_id, "touched_ms": self.touched_ms, **self.start, **self.timeline_fields()}

    @cached_property
    def fold(self) -> Fold:
        """The timeline read from beginning to end."""
        return Fold(self.visit_id, self.timeline)

    @cached_property
    def _pieces(self) -> tuple[list[Piece], list[str]]:
        forgotten = _forgotten(self.fold)
        pieces = [Piece(*stretch, forgotten.get(stretch.start, False)) for stretch in self.fold.stretches()]
        return pieces, [piece.start for piece in pieces]

    def piece_at(self, order_key: str) -> Piece:
        """The piece an event belongs to."""
        pieces, starts = self._pieces
        return pieces[bisect_right(starts, order_key) - 1]

    def pieces_since(self, order_key: str) -> list[Piece]:
        """All pieces that reach beyond `order_key`."""
        pieces, starts = self._pieces
        return pieces[max(0, bisect_right(starts, order_key) - 1) :]

    def earliest_of(self, transitions: Iterable[Transition]) -> str:
        """The smallest order key under which the timeline has any of these transitions, all of them merged before.

        The timeline may have another, smaller entry for the same event id.
        """
        ids = {transition.event_id for transition in transitions}
        return min(transition.order_key for transition in self.timeline if transition.event_id in ids)


def _forgotten(fold: Fold) -> dict[str, bool]:
    """By the key where a stretch starts: whether whoever owns it has been forgotten.

    From an erased SignIn or UserInfo on everything was that person's, until somebody else is named. An erased UserInfo
    within another person's session owned nothing but itself.
    """
    forgotten: dict[str, bool] = {}
    is_forgotten = False
    for step in fold.steps:
        key = step.transition.order_key
        if step.transition.is_erased:
            is_forgotten = step.after == ANONYMOUS
        elif step.transition.kind is not Kind.SIGN_OUT:
            is_forgotten = False
        forgotten[key] = is_forgotten or step.transition.is_erased
        forgotten[key + "\0"] = is_forgotten
    return forgotten
