"""Turns identifying events into a timeline: a set of transitions that merges in any order to the same result."""

from collections.abc import Iterable
from enum import IntEnum
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
    """One identifying event. Sorts by (event time, event id).

    `identity` is empty for a SIGN_OUT. On a USER_INFO or SIGN_IN an empty identity is the erased marker: it was
    somebody who has since been forgotten. The marker is smaller than what it replaces, so it wins every merge.
    """

    event_time_ms: int
    event_id: str
    kind: Kind
    assurance: Assurance
    identity: str

    @property
    def order_key(self) -> str:
        """The key of the event within its visit."""
        return order_key(self.event_time_ms, self.event_id)

    @property
    def is_erased(self) -> bool:
        """Whether the person it named has been forgotten."""
        return self.kind is not Kind.SIGN_OUT and not self.identity


Timeline = tuple[Transition, ...]
"""Transitions of one visit, sorted, one an event id."""


def merge(*parts: Iterable[Transition]) -> Timeline:
    """The union of timelines; of two entries with the same event id the smaller one stays.

    Commutative, associative and idempotent, so neither order nor repetition of arrival matters.
    """
    merged: dict[str, Transition] = {}
    for part in parts:
        for transition in part:
            known = merged.get(transition.event_id)
            if known is None or transition < known:
                merged[transition.event_id] = transition
    return tuple(sorted(merged.values()))


def erase(timeline: Iterable[Transition], identity: str, erase_time_ms: int) -> Timeline:
    """The timeline with the erased marker wherever it named `identity` up to that moment."""
    return tuple(
        t._replace(identity="") if t.identity == identity and t.event_time_ms <= erase_time_ms else t for t in timeline
    )


class LaterVersionError(ValueError):
    """What is stored was written by a later version, and this one cannot tell what it means."""


def encode(transition: Transition) -> str:
    """A transition without its event id, as stores keep it. Encoded entries of one event id sort as transitions do.

    This is version 1, told by its first character, a digit. A later version shall begin with a character below the
    digits, so that it stays when an earlier one merges the same event.
    """
    return f"{transition.event_time_ms:013d}|{transition.kind.value}|{transition.assurance.value}|{transition.identity}"


def decode(event_id: str, text: str) -> Transition:
    """The inverse of `encode`. Raises LaterVersionError for a text that this version's `encode` has not made."""
    try:
        event_time_ms, kind, assurance, identity = text.split("|", 3)
        return Transition(int(event_time_ms), event_id, Kind(int(kind)), Assurance(int(assurance)), identity)
    except ValueError:
        raise LaterVersionError("a transition of a later version") from None
