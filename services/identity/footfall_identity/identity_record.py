"""Turns what events say of an identity into the one record kept of it, whatever their order and repetition."""

from collections.abc import Container, Iterable, Mapping
from enum import IntEnum
from functools import reduce
from itertools import chain

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, State, Transition
from msgspec.structs import replace

from footfall_identity.attributes import CLAIMS, AttributeNames, text
from footfall_identity.matching import MatchKey, MatchKeys, Rule, Status, match_keys_of

MAX_PROFILE_KEYS = 100
MAX_SITES = 1_000
MAX_PROFILE_KEY_LENGTH = 256
MAX_PROFILE_VALUE_LENGTH = 4_096
"""What one sender can make of a document has a bound; history keeps every event's data whole."""

ORDER_KEY_TIME_DIGITS = 13
"""An order key is so many digits of event time, and the event's id."""

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
    site: str = ""  # likewise


class Association(msgspec.Struct, frozen=True):
    """The newest mention event's order key and visit, and whether the identity is signed in there.

    `rev` is that of the visit's timeline that says so.
    """

    at: str
    visit_id: str
    rev: int = 0
    is_signed_in: bool = False
    browser_visit_id: str = ""

    @property
    def shown_id(self) -> str:
        """The id that the browser knows the visit by."""
        return self.browser_visit_id or self.visit_id

    @property
    def scope(self) -> State:
        """How sure it is that the visitor is this identity."""
        return State.AUTHENTICATED if self.is_signed_in else State.RECOGNIZED


class SiteAssociation(msgspec.Struct, frozen=True):
    """What events of one site make of an identity: when they first named it, and by which visit last."""

    site: str
    first_ms: int
    newest: Association


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision about which contact an identity is. It ended when the next one was made.

    `match_key` is what a rule rested on; `refused_id` is the contact that an unlinking by hand ruled out.
    """

    at_ms: int
    status: Status
    rule: Rule
    actor: str
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    match_key: MatchKey | None = msgspec.field(name="sign", default=None)
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
    by_site: tuple[SiteAssociation, ...] = msgspec.field(name="presences", default=())
    profile: tuple[ProfileValue, ...] = ()
    location: str = ""
    match_keys: MatchKeys = msgspec.field(name="signs", default=MatchKeys())
    keys: tuple[str, ...] = ()
    is_due: bool = False
    decisions: tuple[Decision, ...] = ()
    contact_id: str = ""
    by_hand: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to keep."""
        return self.first_ms is None and not self.decisions


class IdentityMention(msgspec.Struct, frozen=True):
    """That an event named an identity, and what it said of it."""

    transition: Transition
    visit_id: str
    profile: tuple[ProfileValue, ...]
    match_keys: MatchKeys
    site: str = ""
    browser_visit_id: str = ""

    @classmethod
    def of(
        cls, event: Event, transition: Transition, names: AttributeNames, phone_region: str | None
    ) -> "IdentityMention":
        """Read the data of a SignIn or UserInfo, and what its token proves."""
        is_proven = transition.assurance is Assurance.PROVEN
        said = names.unified(_fields(event.data_json))
        token = _fields(event.proven_json if is_proven else b"")
        proven = {CLAIMS[key]: value for key, value in token.items() if key in CLAIMS}
        matched = proven if is_proven else said
        texts = {key: text(matched[key]) for key in CLAIMS.values() if key in matched}
        return cls(
            transition,
            event.visit_id,
            (
                *_values(said, event.site, transition, Source.PAGE_OF_PERSON if is_proven else Source.PAGE),
                *_values(proven, event.site, transition, Source.TOKEN),
            ),
            match_keys_of(transition, event.visit_id, texts, phone_region).given_on(event.site, event.browser_visit_id),
            event.site,
            event.browser_visit_id,
        )


def _fields(json: bytes) -> dict[str, str]:
    """The values of a JSON object as JSON texts. What is none says nothing."""
    try:
        return {key: bytes(value).decode() for key, value in _decode_data(json or b"{}").items()}
    except ValueError:  # DecodeError is one
        return {}


def _values(fields: Mapping[str, str], site: str, transition: Transition, source: Source) -> Iterable[ProfileValue]:
    return (
        ProfileValue(key, value, transition.order_key, source, site)
        for key, value in fields.items()
        if len(key) <= MAX_PROFILE_KEY_LENGTH and len(value) <= MAX_PROFILE_VALUE_LENGTH
    )


class VisitStatus(msgspec.Struct, frozen=True):
    """Who is signed in on a visit, by the timeline of this rev; empty: nobody."""

    visit_id: str
    rev: int
    signed_in: str


def with_mentions(
    record: IdentityRecord, mentions: Iterable[IdentityMention], visits: Iterable[VisitStatus]
) -> IdentityRecord:
    """The record with events that named it, and with what the visits of these or earlier events say now."""
    mentions, visits = list(mentions), list(visits)
    now = {visit.visit_id: visit for visit in visits}
    first_ms, newest, by_site = record.first_ms, record.newest, {one.site: one for one in record.by_site}
    for mention in mentions:
        at_ms = mention.transition.event_time_ms
        first_ms = at_ms if first_ms is None else min(first_ms, at_ms)
        newest = _newer(newest, mention)
        known = by_site.get(mention.site)
        by_site[mention.site] = SiteAssociation(
            mention.site,
            min(known.first_ms, at_ms) if known else at_ms,
            _newer(known.newest if known else None, mention),
        )
    newest = newest and _at_present(newest, now, record.identity_id)
    present = [replace(p, newest=_at_present(p.newest, now, record.identity_id)) for p in by_site.values()]
    profile = best_values(record.profile, *(mention.profile for mention in mentions))
    match_keys = reduce(MatchKeys.merged, (mention.match_keys for mention in mentions), record.match_keys)
    is_due = record.is_due or match_keys.assurance != record.match_keys.assurance
    kept = replace(
        record, first_ms=first_ms, newest=newest, by_site=_bounded(present), profile=profile, match_keys=match_keys
    )
    return _with_searchable(replace(kept, is_due=is_due))


def _newer(newest: Association | None, mention: IdentityMention) -> Association:
    at = mention.transition.order_key
    if newest is not None and (newest.at, newest.visit_id) >= (at, mention.visit_id):
        return newest
    if newest is not None and newest.visit_id == mention.visit_id:
        return replace(newest, at=at)
    return Association(at, mention.visit_id, browser_visit_id=mention.browser_visit_id)


def _at_present(newest: Association, now: Mapping[str, VisitStatus], identity: str) -> Association:
    visit = now.get(newest.visit_id)
    if visit is None or visit.rev <= newest.rev:
        return newest
    return replace(newest, rev=visit.rev, is_signed_in=visit.signed_in == identity)


def _bounded(by_site: Iterable[SiteAssociation]) -> tuple[SiteAssociation, ...]:
    """Those named last, by site: without SITES_FILE anybody may make up sites."""
    kept = sorted(by_site, key=lambda one: (one.newest.at, one.site))[-MAX_SITES:]
    return tuple(sorted(kept, key=lambda one: one.site))


def restricted_to_sites(record: IdentityRecord, sites: Container[str]) -> IdentityRecord | None:
    """The record as if there were only these sites; None when no event of them has named the identity.

    Which contact it is, is known to all of them, whatever that rests on; what it rests on elsewhere is not.
    """
    by_site = [one for one in record.by_site if one.site in sites]
    if not by_site:
        return None
    profile = tuple(value for value in record.profile if value.site in sites)
    return replace(
        record,
        first_ms=min(one.first_ms for one in by_site),
        newest=max((one.newest for one in by_site), key=lambda newest: (newest.at, newest.visit_id)),
        profile=profile,
        location=text_value(profile, "location"),
        decisions=tuple(
            replace(
                made,
                candidates=(),
                match_key=made.match_key if made.match_key and made.match_key.site in sites else None,
            )
            for made in record.decisions
        ),
    )


def _with_searchable(record: IdentityRecord) -> IdentityRecord:
    keys = tuple(sorted(match_key.key for _, match_key in record.match_keys.ranked()))
    is_due = record.is_due or keys != record.keys
    return replace(record, location=text_value(record.profile, "location"), keys=keys, is_due=is_due)


def erased(record: IdentityRecord, erase_time_ms: int) -> IdentityRecord:
    """The record without what events up to a moment said, and without decisions that rest on it or were made till then.

    Should later events be in it already, `first_ms` becomes the earliest of them that still shows; what they said less
    surely than what is erased here does not.
    """
    last = f"{erase_time_ms:013d}~"  # above every order key of that moment
    match_keys = MatchKeys(**{name: match_key for name, match_key in _given(record.match_keys) if match_key.at > last})
    profile = tuple(value for value in record.profile if value.at > last)
    newest = record.newest if record.newest and record.newest.at > last else None
    by_site = tuple(
        replace(one, first_ms=one.first_ms if one.first_ms > erase_time_ms else _time_ms(one.newest.at))
        for one in record.by_site
        if one.newest.at > last
    )
    first_ms = record.first_ms
    if first_ms is not None and first_ms <= erase_time_ms:
        later = [match_key.at for _, match_key in _given(match_keys)] + [value.at for value in profile]
        later += [newest.at] if newest else []
        first_ms = min(map(_time_ms, later), default=None)
    decisions: tuple[Decision, ...] = ()
    for decision in record.decisions:
        # When it was made says nothing: a rule may just have rested on an event of before.
        is_later = decision.match_key.at > last if decision.match_key else bool(decisions)
        if is_later or (decision.rule is Rule.MANUAL and decision.at_ms > erase_time_ms):
            decisions += (decision,)
    is_due = record.is_due or decisions != record.decisions
    kept = replace(record, first_ms=first_ms, newest=newest, by_site=by_site, profile=profile, match_keys=match_keys)
    return with_current_link(_with_searchable(replace(kept, decisions=decisions, is_due=is_due)))


def _time_ms(at: str) -> int:
    return int(at[:ORDER_KEY_TIME_DIGITS])


def _given(match_keys: MatchKeys) -> list[tuple[str, MatchKey]]:
    return [(name, match_key) for name in MatchKeys.__struct_fields__ if (match_key := getattr(match_keys, name))]


def with_current_link(record: IdentityRecord) -> IdentityRecord:
    """The record with what its decisions come to: the contact it is linked to, and the one chosen by hand."""
    by_hand = next((d.contact_id for d in reversed(record.decisions) if d.rule is Rule.MANUAL), "")
    contact_id = record.decisions[-1].contact_id if record.decisions else ""
    return replace(record, by_hand=by_hand, contact_id=contact_id)


def best_values(*parts: Iterable[ProfileValue]) -> tuple[ProfileValue, ...]:
    """For each key and site its value from the best source, of these the newest; of too many the best. Best last.

    Leaving out never depends on the order of merging: what is left out once has enough better keys above it for good.
    """
    best: dict[tuple[str, str], ProfileValue] = {}
    for value in chain(*parts):
        known = best.get((value.key, value.site))
        if known is None or _rank(known) < _rank(value):
            best[value.key, value.site] = value
    kept = sorted(best.values(), key=_rank)[-MAX_PROFILE_KEYS:]
    return tuple(sorted(kept, key=lambda value: value.key))


def _rank(value: ProfileValue) -> tuple[Source, str, str, str]:
    return value.source, value.at, value.key, value.value


def text_value(profile: Iterable[ProfileValue], key: str) -> str:
    """The best value of a key when it is a string, else ""."""
    best = max((value for value in profile if value.key == key), key=_rank, default=None)
    return text(best.value) if best else ""


def profile_json(record: IdentityRecord) -> bytes:
    """The profile as one JSON object, the best value of every key as it was sent."""
    return msgspec.json.encode({value.key: msgspec.Raw(value.value.encode()) for value in record.profile})
