"""Turns what events say of an identity into the one record kept of it, whatever their order and repetition."""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import reduce
from itertools import chain

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, State, Transition
from msgspec.structs import replace

from footfall_identity.matching import Rule, Sign, Signs, Status, signs_of

MOST_PROFILE_KEYS = 100
LONGEST_PROFILE_KEY = 256
LONGEST_PROFILE_VALUE = 4_096
"""What one sender can make of a document has a bound; history keeps every event's data whole."""

ORDER_KEY_TIME_DIGITS = 13
"""An order key is so many digits of event time, and the event's id."""

CLAIMS = {"email": "email", "phone_number": "phone", "given_name": "firstName", "family_name": "lastName"}
"""What a token says of a person, and what the data of an event calls the same. These can link to a contact."""

_decode_data = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Source(IntEnum):
    """Who says what a profile holds. What a better one says is never displaced by what a lesser one says."""

    PAGE = 1
    """A page, on the word of a visitor who may be anybody."""
    PAGE_OF_PERSON = 2
    """The page of the SignIn with which the person has proven to be who it is."""
    TOKEN = 3
    """The website's server, in the token of that SignIn."""


class ProfileValue(msgspec.Struct, frozen=True):
    """The best value of a key, as JSON text, the order key of the event that gave it, and who says so.

    A list of these instead of a document of values, because keys may hold `.` and `$`.
    """

    key: str
    value: str
    at: str
    source: Source = Source.PAGE  # what was stored before sources were


class Association(msgspec.Struct, frozen=True):
    """The newest naming event's order key and visit, and whether the identity is signed in there.

    `rev` is that of the visit's timeline that says so.
    """

    at: str
    visit_id: str
    rev: int = 0
    is_signed_in: bool = False

    @property
    def scope(self) -> State:
        """How sure it is that the visitor is this identity."""
        return State.AUTHENTICATED if self.is_signed_in else State.RECOGNIZED


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision about which contact an identity is. It ended when the next one was made.

    `sign` is what a rule rested on; `refused_id` is the contact that an unlinking by hand ruled out.
    """

    at_ms: int
    status: Status
    rule: Rule
    actor: str
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    sign: Sign | None = None
    refused_id: str = ""


class IdentityRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an identity, and which contact it is.

    `rev` is another with every write. `first_ms` is None until an event has named it. `is_due` says that what it is
    matched by has changed since the last decision. `location`, `keys`, `contact_id` and `by_hand` follow from the rest
    and are there to be searched for; `hash` is what stands for the identity once it is erased.
    """

    identity_id: str = msgspec.field(name="_id")
    rev: str = ""
    hash: str = ""
    first_ms: int | None = None
    newest: Association | None = None
    profile: tuple[ProfileValue, ...] = ()
    location: str = ""
    signs: Signs = Signs()
    keys: tuple[str, ...] = ()
    is_due: bool = False
    decisions: tuple[Decision, ...] = ()
    contact_id: str = ""
    by_hand: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to keep."""
        return self.first_ms is None and not self.decisions


class Naming(msgspec.Struct, frozen=True):
    """That an event named an identity, and what it said of it."""

    transition: Transition
    visit_id: str
    profile: tuple[ProfileValue, ...]
    signs: Signs

    @classmethod
    def of(cls, event: Event, transition: Transition, phone_region: str | None) -> "Naming":
        """Read the data of a SignIn or UserInfo, and what its token proves."""
        is_proven = transition.assurance is Assurance.PROVEN
        said, token = _fields(event.data_json), _fields(event.proven_json if is_proven else b"")
        proven = {CLAIMS[key]: value for key, value in token.items() if key in CLAIMS}
        linking = proven if is_proven else said
        texts = {key: text(linking[key]) for key in CLAIMS.values() if key in linking}
        return cls(
            transition,
            event.visit_id,
            (
                *_values(said, transition, Source.PAGE_OF_PERSON if is_proven else Source.PAGE),
                *_values(proven, transition, Source.TOKEN),
            ),
            signs_of(transition, event.visit_id, texts, phone_region),
        )


def _fields(json: bytes) -> dict[str, str]:
    """The values of a JSON object as JSON texts. What is none says nothing."""
    try:
        return {key: bytes(value).decode() for key, value in _decode_data(json or b"{}").items()}
    except ValueError:  # DecodeError is one
        return {}


def _values(fields: Mapping[str, str], transition: Transition, source: Source) -> Iterable[ProfileValue]:
    return (
        ProfileValue(key, value, transition.order_key, source)
        for key, value in fields.items()
        if len(key) <= LONGEST_PROFILE_KEY and len(value) <= LONGEST_PROFILE_VALUE
    )


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
    profile = best_values(record.profile, *(naming.profile for naming in namings))
    signs = reduce(Signs.merged, (naming.signs for naming in namings), record.signs)
    is_due = record.is_due or signs.assurance != record.signs.assurance
    kept = replace(record, first_ms=first_ms, newest=newest, profile=profile, signs=signs, is_due=is_due)
    return _with_searchable(kept)


def _with_searchable(record: IdentityRecord) -> IdentityRecord:
    keys = tuple(sorted(sign.key for _, sign in record.signs.ranked()))
    is_due = record.is_due or keys != record.keys
    return replace(record, location=text_value(record.profile, "location"), keys=keys, is_due=is_due)


def erased(record: IdentityRecord, erase_time_ms: int) -> IdentityRecord:
    """The record without what events up to a moment said, and without decisions that rest on it or were made till then.

    Should later events be in it already, `first_ms` becomes the earliest of them that still shows; what they said less
    surely than what is erased here does not.
    """
    last = f"{erase_time_ms:013d}~"  # above every order key of that moment
    signs = Signs(**{name: sign for name, sign in _given(record.signs) if sign.at > last})
    profile = tuple(value for value in record.profile if value.at > last)
    newest = record.newest if record.newest and record.newest.at > last else None
    first_ms = record.first_ms
    if first_ms is not None and first_ms <= erase_time_ms:
        later = [sign.at for _, sign in _given(signs)] + [value.at for value in profile]
        later += [newest.at] if newest else []
        first_ms = min((int(at[:ORDER_KEY_TIME_DIGITS]) for at in later), default=None)
    decisions: tuple[Decision, ...] = ()
    for decision in record.decisions:
        # When it was made says nothing: a rule may just have rested on an event of before.
        is_later = decision.sign.at > last if decision.sign else bool(decisions)
        if is_later or (decision.rule is Rule.MANUAL and decision.at_ms > erase_time_ms):
            decisions += (decision,)
    is_due = record.is_due or decisions != record.decisions
    kept = replace(record, first_ms=first_ms, newest=newest, profile=profile, signs=signs)
    return standing(_with_searchable(replace(kept, decisions=decisions, is_due=is_due)))


def _given(signs: Signs) -> list[tuple[str, Sign]]:
    return [(name, sign) for name in Signs.__struct_fields__ if (sign := getattr(signs, name))]


def standing(record: IdentityRecord) -> IdentityRecord:
    """The record with what its decisions come to: the contact it is linked to, and the one chosen by hand."""
    by_hand = next((d.contact_id for d in reversed(record.decisions) if d.rule is Rule.MANUAL), "")
    contact_id = record.decisions[-1].contact_id if record.decisions else ""
    return replace(record, by_hand=by_hand, contact_id=contact_id)


def best_values(*parts: Iterable[ProfileValue]) -> tuple[ProfileValue, ...]:
    """For each key its value from the best source, of these the newest, by key; of too many keys the best.

    Leaving out never depends on the order of merging: what is left out once has enough better keys above it for good.
    """
    best: dict[str, ProfileValue] = {}
    for value in chain(*parts):
        known = best.get(value.key)
        if known is None or _rank(known) < _rank(value):
            best[value.key] = value
    kept = sorted(best.values(), key=_rank)[-MOST_PROFILE_KEYS:]
    return tuple(sorted(kept, key=lambda value: value.key))


def _rank(value: ProfileValue) -> tuple[Source, str, str, str]:
    return value.source, value.at, value.key, value.value


def text(value: str) -> str:
    """A JSON text's value when it is a string, else ""."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        return ""


def text_value(profile: Iterable[ProfileValue], key: str) -> str:
    """The value of a key when it is a string, else ""."""
    return next((text(value.value) for value in profile if value.key == key), "")


def profile_json(record: IdentityRecord) -> bytes:
    """The profile as one JSON object, every value as it was sent."""
    return msgspec.json.encode({value.key: msgspec.Raw(value.value.encode()) for value in record.profile})
