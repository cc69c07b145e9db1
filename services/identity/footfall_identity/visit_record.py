"""Turns admitted events into what they bring to each visit, and a visit as Redis keeps it into a record."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, Fold, Kind, LaterVersionError, Timeline, Transition, decode

SUMMARY_FIELD = b"visit"
"""The one field of a visit's hash that is no transition. No event id looks like it."""

_ADMITTED_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LATEST_MS = 9_999_999_999_999
_LONGEST_IDENTITY = 512
_KINDS = {kind.value: kind for kind in Kind}
_ASSURANCES = {assurance.value: assurance for assurance in Assurance}


@dataclass(slots=True)
class Touch:
    """What a batch brings to one visit. Parts that disagree merge to the same whatever their order."""

    visit_id: str
    first_ms: int
    last_ms: int
    site: str
    global_visit_id: str
    url_ms: int
    url: str
    transitions: list[Transition] = field(default_factory=list)

    @classmethod
    def of(cls, record: "VisitRecord", transitions: list[Transition]) -> "Touch":
        """What only changes transitions of a visit."""
        no_url_ms = 0
        return cls(
            record.visit_id,
            record.first_ms,
            record.last_ms,
            record.site,
            record.global_visit_id,
            no_url_ms,
            "",
            transitions,
        )

    def add(self, event: Event, transition: Transition | None) -> None:
        """Take in one more event of the visit."""
        event_time_ms, global_visit_id, url = event.event_time_ms, event.global_visit_id, event.url
        self.first_ms, self.site = min((self.first_ms, self.site), (event_time_ms, event.site))
        self.last_ms = max(self.last_ms, event_time_ms)
        if global_visit_id:
            self.global_visit_id = min(self.global_visit_id or global_visit_id, global_visit_id)
        if url:
            self.url_ms, self.url = max((self.url_ms, self.url), (event_time_ms, url))
        if transition is not None:
            self.transitions.append(transition)


def transition_of(event: Event) -> Transition | None:
    """What an admitted event does to its visit's timeline; None for an event that is only stamped.

    Raises:
        ValueError: it is not as admission leaves it. The message names field and rule and quotes nothing.

    """
    if not _ADMITTED_UUID.fullmatch(event.visit_id):
        raise ValueError("visit_id: must be a UUID, dashed and lower case")
    event_id, event_time_ms = event.event_id, event.event_time_ms
    if not _ADMITTED_UUID.fullmatch(event_id):
        raise ValueError("event_id: must be a UUID, dashed and lower case")
    if not 0 <= event_time_ms <= _LATEST_MS:
        raise ValueError("event_time_ms: must be 0 to 9999999999999")
    if not event.transition:
        return None
    kind, assurance = _KINDS.get(event.transition), _ASSURANCES.get(event.assurance)
    if kind is None or assurance is None:
        raise ValueError("transition, assurance: must be known")
    if kind is Kind.SIGN_OUT:
        return Transition(event_time_ms, event_id, kind, Assurance.NONE, "")
    identity = event.identity_id
    if not 1 <= len(identity) <= _LONGEST_IDENTITY:
        raise ValueError("identity_id: must be 1 to 512 characters")
    return Transition(event_time_ms, event_id, kind, assurance, identity)


def touches(events: Iterable[tuple[Event, Transition | None]]) -> list[Touch]:
    """What the events, each with its transition, bring to the visits they belong to."""
    found: dict[str, Touch] = {}
    for event, transition in events:
        touch = found.get(event.visit_id)
        if touch is None:
            at, url = event.event_time_ms, event.url
            touch = Touch(event.visit_id, at, at, event.site, event.global_visit_id, at if url else 0, url)
            found[touch.visit_id] = touch
            if transition is not None:
                touch.transitions.append(transition)
        else:
            touch.add(event, transition)
    return list(found.values())


@dataclass(frozen=True)
class VisitRecord:
    """A visit as far as it is remembered. `rev` counts the changes of its timeline."""

    visit_id: str
    site: str
    global_visit_id: str
    first_ms: int
    last_ms: int
    url: str
    rev: int
    timeline: Timeline

    @cached_property
    def fold(self) -> Fold:
        """Its timeline, read from beginning to end."""
        return Fold(self.visit_id, self.timeline)

    @classmethod
    def from_hash(cls, visit_id: str, fields: Iterable[tuple[bytes, bytes]]) -> "VisitRecord":
        """Read what merge.lua keeps. Raises LaterVersionError."""
        summary, transitions = b"", []
        for name, value in fields:
            if name == SUMMARY_FIELD:
                summary = value
            else:
                transitions.append(decode(name.decode(), value.decode()))
        if not summary[:1].isdigit():
            raise LaterVersionError("a visit of a later version")
        first, last, _url_ms, rev, global_visit_id, site, url = summary.decode().split("\n", 6)
        timeline = tuple(sorted(transitions))
        return cls(visit_id, site, global_visit_id, int(first), int(last), url, int(rev), timeline)


def identities(timeline: Timeline) -> Iterator[str]:
    """Whom a timeline names, each once."""
    yield from dict.fromkeys(t.identity for t in timeline if t.identity)
