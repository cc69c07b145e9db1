"""The timeline of a visit: a set of transitions that merges in any order to the same result."""

from collections.abc import Iterable
from enum import IntEnum
from operator import attrgetter
from typing import NamedTuple

from footfall_timeline.ids import order_key


class Kind(IntEnum):
    """What a transition does. The numbers are those of footfall.event.v1.TransitionKind."""

    USER_INFO = 1
    SIGN_IN = 2
    SIGN_OUT = 3


class Assurance(IntEnum):
    """How far an identification can be trusted. The numbers are those of footfall.event.v1.Assurance."""

    NONE = 0
    CLAIMED = 1
    PROVEN = 2


class Transition(NamedTuple):
    """One event that changes who the visitor is. Sorts by (event time, event id).

    `identity` is empty for a SIGN_OUT. On a USER_INFO or SIGN_IN an empty identity is the mark of an erased person. The
    mark is smaller than the entry that it replaces, so it wins every merge. `token_id` identifies the token that proved
    a SIGN_IN. It stays when the person is erased, because the token has been used.
    """

    event_time_ms: int
    event_id: str
    kind: Kind
    assurance: Assurance
    identity: str
    token_id: str = ""

    @property
    def order_key(self) -> str:
        """The key of the event within its visit."""
        return order_key(self.event_time_ms, self.event_id)

    @property
    def is_erased(self) -> bool:
        """Whether the person that it named has been erased."""
        return self.kind is not Kind.SIGN_OUT and not self.identity


Timeline = tuple[Transition, ...]
"""Sorted transitions of one visit. An event has at most one entry for each assurance.

A SignIn that is sent again after its token has expired is admitted with less assurance, and perhaps at another time.
Both entries are kept, and `by_event` combines them.
"""


def merge(*parts: Iterable[Transition]) -> Timeline:
    """The union of timelines. Of two entries of one event and assurance, the one that is smaller when encoded stays.

    Commutative, associative and idempotent, so neither the order of arrival nor duplicates matter. That also holds
    when only the first N entries of each result are kept: an entry that is left out has N smaller ones, and a merge can
    only make them smaller.
    """
    merged: dict[tuple[str, Assurance], Transition] = {}
    for part in parts:
        for transition in part:
            key = transition.event_id, transition.assurance
            known = merged.get(key)
            if known is None or encode(transition) < encode(known):
                merged[key] = transition
    return tuple(sorted(merged.values()))


_event_id = attrgetter("event_id")


def by_event(timeline: Timeline) -> Timeline:
    """One transition for each event: with its earliest time, and otherwise the entry of the highest assurance."""
    if len({*map(_event_id, timeline)}) == len(timeline):  # nearly always
        return timeline
    found: dict[str, Transition] = {}
    for transition in timeline:
        known = found.setdefault(transition.event_id, transition)
        if known.assurance < transition.assurance:
            found[transition.event_id] = transition._replace(event_time_ms=known.event_time_ms)
    return tuple(found.values())


def until(timeline: Timeline, event_time_ms: int) -> Timeline:
    """The entries of events that had happened at that time. An event happens at the earliest time of its entries."""
    events = {transition.event_id for transition in timeline if transition.event_time_ms <= event_time_ms}
    return tuple(transition for transition in timeline if transition.event_id in events)


def erase(timeline: Iterable[Transition], identity: str, erase_time_ms: int) -> Timeline:
    """The timeline with the mark of an erased person wherever it named `identity` up to that moment."""
    return tuple(
        t._replace(identity="") if t.identity == identity and t.event_time_ms <= erase_time_ms else t for t in timeline
    )


class LaterVersionError(ValueError):
    """A stored entry was written by a later version of this program, which this version cannot read."""


def encode(transition: Transition) -> str:
    """An entry without its event id, as stores keep it: time, kind, assurance and identity.

    Version 1 begins with a digit. A later version must begin with a character below the digits, so that its entry stays
    when an earlier version merges the same event. The assurance may be followed by a dot and the id of a token, which
    programs from before tokens had ids reject as a later version. A dot sorts before `|`, so of two entries of one time
    the one with a token stays.
    """
    event_time_ms, _, kind, assurance, identity, token_id = transition
    proof = f"{assurance.value}.{token_id}" if token_id else f"{assurance.value}"
    return f"{event_time_ms:013d}|{kind.value}|{proof}|{identity}"


def to_fields(timeline: Timeline) -> dict[str, str]:
    """A timeline as stores keep it: encoded entries by event id, further entries of an event by `id+assurance`."""
    fields: dict[str, str] = {}
    for transition in timeline:
        event_id = transition.event_id
        field = f"{event_id}+{transition.assurance.value}" if event_id in fields else event_id
        fields[field] = encode(transition)
    return fields


def from_fields(fields: Iterable[tuple[str, str]]) -> Timeline:
    """The inverse of `to_fields`. Raises LaterVersionError."""
    return tuple(sorted(decode(field, text) for field, text in fields))


def decode(field: str, text: str) -> Transition:
    """The entry that a field of `to_fields` holds. Raises LaterVersionError."""
    try:
        event_time_ms, kind, proof, identity = text.split("|", 3)
        assurance, _, token_id = proof.partition(".")
        event_id, _, _ = field.partition("+")
        return Transition(int(event_time_ms), event_id, Kind(int(kind)), Assurance(int(assurance)), identity, token_id)
    except ValueError:
        raise LaterVersionError("the transition was written by a later version") from None
