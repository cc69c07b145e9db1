"""Turns what events say of an identity into the one record kept of it, whatever their order and repetition."""

from collections.abc import Iterable
from itertools import chain

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import State, Transition
from msgspec.structs import replace

MOST_PROFILE_KEYS = 100
LONGEST_PROFILE_KEY = 256
LONGEST_PROFILE_VALUE = 4_096
"""What one sender can make of a document has a bound; history keeps every event's data whole."""

_decode_data = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ProfileValue(msgspec.Struct, frozen=True):
    """The newest value of a key, as JSON text, and the order key of the event that gave it.

    A list of these instead of a document of values, because keys may hold `.` and `$`.
    """

    key: str
    value: str
    at: str


class Association(msgspec.Struct, frozen=True):
    """The newest naming event's order key and visit, and whether the identity is signed in there.

    `rev` is that of the visit's timeline that says so.
    """

    at: str
    visit_id: str
    rev: int = 0
    is_signed_in: bool = False


class IdentityRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an identity. `rev` is another with every write; `first_ms` is None for one never seen."""

    identity_id: str = msgspec.field(name="_id")
    rev: str = ""
    first_ms: int | None = None
    newest: Association | None = None
    profile: tuple[ProfileValue, ...] = ()
    location: str = ""
    contact_id: str = ""


class Naming(msgspec.Struct, frozen=True):
    """That an event named an identity, and what it said of it."""

    transition: Transition
    visit_id: str
    profile: tuple[ProfileValue, ...]

    @classmethod
    def of(cls, event: Event, transition: Transition) -> "Naming":
        """Read the data of a SignIn or UserInfo. Data that is no JSON object says nothing."""
        return cls(transition, event.visit_id, tuple(_profile(event.data_json, transition.order_key)))


def _profile(data_json: bytes, at: str) -> list[ProfileValue]:
    try:
        fields = _decode_data(data_json or b"{}")
        return [
            ProfileValue(key, text.decode(), at)
            for key, value in fields.items()
            if len(key) <= LONGEST_PROFILE_KEY and len(text := bytes(value)) <= LONGEST_PROFILE_VALUE
        ]
    except ValueError:  # DecodeError is one
        return []


class VisitNow(msgspec.Struct, frozen=True):
    """Who is signed in on a visit, by the timeline of this rev; empty: nobody."""

    visit_id: str
    rev: int
    signed_in: str


def merged(record: IdentityRecord, namings: Iterable[Naming], visits: Iterable[VisitNow]) -> IdentityRecord:
    """The record with events that named it, and with what the visits of these or earlier events say now."""
    namings = list(namings)
    first_ms, newest = record.first_ms, record.newest
    for naming in namings:
        at, event_time_ms = naming.transition.order_key, naming.transition.event_time_ms
        first_ms = event_time_ms if first_ms is None else min(first_ms, event_time_ms)
        if newest is None or (newest.at, newest.visit_id) < (at, naming.visit_id):
            if newest is not None and newest.visit_id == naming.visit_id:
                newest = replace(newest, at=at)
            else:
                newest = Association(at, naming.visit_id)
    for visit in visits:
        if newest is not None and newest.visit_id == visit.visit_id and newest.rev < visit.rev:
            is_signed_in = visit.signed_in == record.identity_id
            newest = replace(newest, rev=visit.rev, is_signed_in=is_signed_in)
    profile = newest_values(record.profile, *(naming.profile for naming in namings))
    return replace(record, first_ms=first_ms, newest=newest, profile=profile, location=text_value(profile, "location"))


def newest_values(*parts: Iterable[ProfileValue]) -> tuple[ProfileValue, ...]:
    """For each key its newest value, by key; of too many keys the newest.

    Leaving out never depends on the order of merging: what is left out once has enough newer keys above it for good.
    """
    newest: dict[str, ProfileValue] = {}
    for value in chain(*parts):
        known = newest.get(value.key)
        if known is None or _age(known) < _age(value):
            newest[value.key] = value
    kept = sorted(newest.values(), key=_age)[-MOST_PROFILE_KEYS:]
    return tuple(sorted(kept, key=lambda value: value.key))


def _age(value: ProfileValue) -> tuple[str, str, str]:
    return value.at, value.key, value.value


def text_value(profile: Iterable[ProfileValue], key: str) -> str:
    """The value of a key when it is a string, else ""."""
    for value in profile:
        if value.key == key:
            try:
                return msgspec.json.decode(value.value, type=str)
            except msgspec.DecodeError:
                return ""
    return ""


def profile_json(record: IdentityRecord) -> bytes:
    """The profile as one JSON object, every value as it was sent."""
    return msgspec.json.encode({value.key: msgspec.Raw(value.value.encode()) for value in record.profile})


def scope(record: IdentityRecord) -> State | None:
    """State of the newest association; None when no event has named it."""
    if record.newest is None:
        return None
    return State.AUTHENTICATED if record.newest.is_signed_in else State.RECOGNIZED
