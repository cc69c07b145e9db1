"""A visit with its timeline, and the attribution of its events that follows from the timeline."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from footfall_history.storage.documents import (
    DEVICE_FIELDS,
    TIME_DIGITS,
    Document,
    attribution_fields,
    erased,
    event_time_ms,
)


class ErasableRange(NamedTuple):
    """The attribution of all events in a range of order keys.

    `is_erased`: they belong to an erased identity, so their content is erased.
    """

    attribution: Attribution
    is_erased: bool


@dataclass(frozen=True)
class Visit:
    """One revision of a visit. Methods that change it return the next revision.

    - `rev`: number of changes of the timeline.
    - `identities`: those that the timeline names, and those whose erasure from this visit is not finished.
    - `start`: fields from the visit's earliest event, and the site of the event received first.
    - `touched_ms`: about the time of the last receipt of an event, in milliseconds since the epoch.
    - `is_truncated`: the visit had more transitions than are kept. The later ones have no effect.
    - `erases_anonymous`: see `_erased_ranges`.
    - `is_staff`: at least one event is one of staff.
    - `marks`: see `storage.marks`.
    """

    visit_id: str
    rev: int
    timeline: Timeline
    identities: frozenset[str]
    start: Mapping[str, Any]
    touched_ms: int
    is_truncated: bool = False
    erases_anonymous: bool = True
    is_staff: bool = False
    marks: frozenset[str] = frozenset()

    @classmethod
    def new(
        cls,
        visit_id: str,
        start: Mapping[str, Any],
        received_ms: int,
        marks: Iterable[str] = (),
        *,
        erases_anonymous: bool = True,
        is_staff: bool = False,
    ) -> Self:
        """A visit without transitions that is not stored yet."""
        return cls(
            visit_id,
            0,
            (),
            frozenset(),
            start,
            received_ms,
            erases_anonymous=erases_anonymous,
            is_staff=is_staff,
            marks=frozenset(marks),
        )

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
            document.get("staff", False),
            frozenset(document.get("marks", ())),
        )

    def is_as_stored(self, document: Mapping[str, Any]) -> bool:
        """Whether a stored visit has the content of this one."""
        stored = document["rev"], document["start_key"], document.get("site_key", ""), document["touched_ms"]
        return (
            (self.rev, self.start["start_key"], self.start["site_key"], self.touched_ms) == stored
            and self.identities == frozenset(document["identities"])
            and to_fields(self.timeline) == document["timeline"]
            and self.is_truncated == document.get("truncated", False)
            and self.is_staff == document.get("staff", False)
            and self.marks == frozenset(document.get("marks", ()))
        )

    def merged(self, transitions: Sequence[Transition], limit: int) -> Self:
        """The visit with transitions merged, of which the earliest `limit` are kept; `self` if nothing changes."""
        if not transitions:
            return self
        timeline = merge(self.timeline, transitions)
        visit = self._changed(timeline[:limit], self.identities - _named(self.timeline))
        if len(timeline) <= limit or self.is_truncated:
            return visit
        return replace(visit, rev=self.rev + 1, is_truncated=True)

    def erased(self, identity: str, erase_time_ms: int) -> Self:
        """The visit with transitions that name this identity erased, up to a time; `self` if nothing changes."""
        return self._changed(erase(self.timeline, identity, erase_time_ms), self.identities)

    def with_erasures(self, erase_times: Mapping[str, int]) -> Self:
        """The visit with each of these identities erased up to its time; `self` if nothing changes."""
        visit = self
        for identity in erase_times.keys() & self.identities:
            visit = visit.erased(identity, erase_times[identity])
        return visit if visit is self else replace(visit, rev=self.rev + 1)

    def without_identity(self, identity: str) -> Self:
        """The visit no longer listed under an identity, unless its timeline names it; `self` if nothing changes.

        Store it only when no event of the visit names the identity either: `identities` is how those are found.
        """
        return self._changed(self.timeline, self.identities - {identity})

    def _changed(self, timeline: Timeline, others: frozenset[str]) -> Self:
        identities = _named(timeline) | others
        if timeline == self.timeline and identities == self.identities:
            return self
        return replace(self, rev=self.rev + 1, timeline=timeline, identities=identities)

    def timeline_fields(self) -> Document:
        """The stored fields that follow from the timeline."""
        fields: Document = {
            "rev": self.rev,
            "timeline": to_fields(self.timeline),
            "identities": sorted(self.identities),
            "session_ids": [session.session_id for session in self.visit_state.sessions],
        }
        if any(transition.is_erased for transition in self.timeline):
            fields["forgotten"] = self.is_erased
        return fields | ({"truncated": True} if self.is_truncated else {})

    def document(self) -> Document:
        """The stored fields that do not follow from the timeline."""
        removed = DEVICE_FIELDS if self.is_erased else ()
        start = {name: value for name, value in self.start.items() if name not in removed}
        fields = {"_id": self.visit_id, "touched_ms": self.touched_ms, **start}
        fields |= {"staff": True} if self.is_staff else {}
        return fields | ({"marks": sorted(self.marks)} if self.marks else {})

    @property
    def first_named(self) -> str:
        """The identity that the visit named first; empty when there is none or it is erased."""
        named = (
            step.transition.identity for step in self.visit_state.steps if step.transition.kind is not Kind.SIGN_OUT
        )
        return next(named, "")

    def owner_at(self, order_key: str) -> str | None:
        """The identity that an interaction belongs to: that of the moment, or else the first one named afterwards.

        Empty while the visit is anonymous; None if the identity is erased.
        """
        part = self.range_at(order_key)
        if part.is_erased or part.attribution.identity:
            return None if part.is_erased else part.attribution.identity
        named = (step.transition for step in self.visit_state.steps if step.transition.kind is not Kind.SIGN_OUT)
        first = next(named, None)
        return None if first and first.is_erased else self.first_named

    @property
    def is_erased(self) -> bool:
        """Whether the whole visit belongs to erased identities, from its first event on."""
        # In a start key, the visit's id follows the time. Keys of all events of that millisecond are less than "~".
        return not _named(self.timeline) and self.range_at(self.start["start_key"][:TIME_DIGITS] + "~").is_erased

    @cached_property
    def visit_state(self) -> VisitState:
        """The state of the visitor after each transition."""
        return VisitState(self.visit_id, self.timeline)

    @cached_property
    def _ranges(self) -> tuple[list[ErasableRange], list[str]]:
        is_erased = _erased_ranges(self.visit_state, erases_anonymous=self.erases_anonymous)
        found = [*self.visit_state.attribution_ranges()]
        ranges = [ErasableRange(one.attribution, is_erased.get(one.start, False)) for one in found]
        return ranges, [one.start for one in found]

    def range_at(self, order_key: str) -> ErasableRange:
        """The range that an event belongs to."""
        ranges, starts = self._ranges
        return ranges[bisect_right(starts, order_key) - 1]

    def ranges(self) -> Iterator[tuple[str, ErasableRange]]:
        """The ranges in order, each with the order key where it begins."""
        ranges, starts = self._ranges
        return zip(starts, ranges, strict=True)

    def attributed(self, event: Document, erase_times: Mapping[str, int]) -> Document:
        """A new event of this visit as it is to be stored."""
        part = self.range_at(event["order_key"])
        # The timeline may have another identity under this event's id, so the event itself is looked at as well.
        names_erased = event_time_ms(event["order_key"]) <= erase_times.get(event.get("names_identity_id", ""), -1)
        if part.is_erased or names_erased:
            event = erased(event)
        return event | attribution_fields(part.attribution, self.rev)[0]

    def first_key_of(self, transitions: Iterable[Transition]) -> str:
        """The smallest order key in the timeline of any of these transitions, which have all been merged before.

        The timeline may have another, smaller entry for the same event. Empty when it keeps none of them.
        """
        ids = {transition.event_id for transition in transitions}
        return next((transition.order_key for transition in self.timeline if transition.event_id in ids), "")


def _named(timeline: Timeline) -> frozenset[str]:
    return frozenset(transition.identity for transition in timeline if transition.identity)


def _erased_ranges(fold: VisitState, *, erases_anonymous: bool) -> dict[str, bool]:
    """Whether the events of a range are erased, by the key where the range starts.

    - From an erased SignIn or UserInfo on, events belonged to the erased identity until another one is named.
    - An erased UserInfo within another identity's session is erased alone.
    - Events before the first identity is named are anonymous. With `erases_anonymous` they are erased with the identity
      that is named first. No other events are anonymous: after the first, the visit always has an identity.
    """
    named = (step.transition for step in fold.steps if step.transition.kind is not Kind.SIGN_OUT)
    is_erased = erases_anonymous and any(transition.is_erased for transition in islice(named, 1))
    ranges = {"": is_erased}
    for step in fold.steps:
        key = step.transition.order_key
        if step.transition.is_erased:
            is_erased = step.after == ANONYMOUS
        elif step.transition.kind is not Kind.SIGN_OUT:
            is_erased = False
        ranges[key] = is_erased or step.transition.is_erased
        ranges[key + "\0"] = is_erased
    return ranges
