"""The stored record of an identity, computed from events regardless of their order and repetition."""

from collections.abc import Container, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import partial, reduce
from itertools import chain

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.attributes import AttributeNames, said_by, text
from footfall_eventlog.devices import DAY_MS, DeviceDay, merged_days, most_devices
from footfall_eventlog.match_keys import MatchKey, MatchKeys, Rule
from footfall_timeline import Assurance, State, Transition
from msgspec.structs import replace

from footfall_identity.matching import Doubt, Status, UnusedKey

MAX_PROFILE_KEYS = 100
MAX_SITES = 1_000
MAX_PROFILE_KEY_LENGTH = 256
MAX_PROFILE_VALUE_LENGTH = 4_096
"""Limits that bound a record; history stores the data of every event in full."""

ORDER_KEY_TIME_DIGITS = 13
"""An order key consists of this many digits of event time (ms), and the event id."""


RECORD_FORM = 1
"""Which derived fields a record has. Greater with each new one: then all records are written again."""


class Source(IntEnum):
    """Where a profile value comes from. A value never replaces one of a better source."""

    PAGE = 1
    """An event of a page, which anybody may forge."""
    PAGE_OF_PERSON = 2
    """The event data of a proven SignIn."""
    TOKEN = 3
    """The token of a proven SignIn, from the website's server."""


class ProfileValue(msgspec.Struct, frozen=True):
    """The best value of a key as a JSON text, with the order key of its event and its source.

    Profiles are lists of these and not documents, because keys may contain `.` and `$`.
    """

    key: str
    value: str
    at: str
    source: Source = Source.PAGE  # of values stored before sources existed
    site: str = ""  # the same


class Association(msgspec.Struct, frozen=True):
    """The order key and visit of the newest event that names the identity, and whether it is signed in there.

    `rev` is the revision of the visit's timeline by which `is_signed_in` was decided.
    """

    at: str
    visit_id: str
    rev: int = 0
    is_signed_in: bool = False
    browser_visit_id: str = ""

    @property
    def shown_id(self) -> str:
        """The visit id that the browser sent."""
        return self.browser_visit_id or self.visit_id

    @property
    def scope(self) -> State:
        """The state of the visitor as this identity: Authenticated or Recognized."""
        return State.AUTHENTICATED if self.is_signed_in else State.RECOGNIZED


class SiteAssociation(msgspec.Struct, frozen=True):
    """What the events of one site say: when they first named the identity, and on which visit last."""

    site: str
    first_ms: int
    newest: Association


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision about the contact of an identity. It is in force until the next decision.

    `match_key` is the key by which a rule decided. `refused_id` is the contact that was unlinked manually. Of several
    contacts that match, `candidates` are the first and `candidate_count` is the number, which decisions of early
    versions do not have. `count` is how often the rules came to the decision, each time with other candidates, and
    `last_ms` when they last did, if more than once. `unused` are keys that contacts have and that are shared too much.
    `is_derived`: it follows from a manual decision, which was made under another name of the person, or about a contact
    that leads to this one. `policy_version` is that of the identity policy by which a rule decided; early versions
    have none.
    """

    at_ms: int
    status: Status
    rule: Rule
    actor: str
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    candidate_count: int = 0
    match_key: MatchKey | None = msgspec.field(name="sign", default=None)
    refused_id: str = ""
    count: int = 1
    last_ms: int = 0
    unused: tuple[UnusedKey, ...] = ()
    is_derived: bool = False
    policy_version: str = ""

    @property
    def is_manual(self) -> bool:
        """Whether a person has made it, for this identity and this contact."""
        return self.rule is Rule.MANUAL and not self.is_derived

    @property
    def doubt(self) -> Doubt:
        """Why a person should look at it."""
        match self.status:
            case Status.AMBIGUOUS:
                return Doubt.AMBIGUOUS
            case Status.UNLINKED:
                return Doubt.RECOGNIZED_ONLY if self.match_key else Doubt.NONE
            case Status.LINKED:
                return Doubt.BY_NAME if self.rule is Rule.NAME else Doubt.NONE

    @property
    def match_count(self) -> int:
        """How many contacts match, if several do; else 0."""
        return self.candidate_count or len(self.candidates)


class IdentityRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An identity and its links. Field names in MongoDB are given where they differ.

    Every write sets another `rev`. `first_ms` is None until an event has named the identity. `is_due`: what its contact
    is matched by has changed since the last decision. `left_keys` are the keys that it no longer gives, or no longer
    proven, since then. `location`, `keys`, `proven_keys`, `device_peak` (the devices of the day with most; 0 for few),
    `contact_id`, `by_hand` (the manually linked contact) and `doubt` (`doubt_key` of the decision in force) are derived
    from the other fields, for queries. `hash` identifies it after an erasure.
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
    proven_keys: tuple[str, ...] = ()
    left_keys: tuple[str, ...] = ()
    devices: tuple[DeviceDay, ...] = ()
    device_peak: int = 0
    is_due: bool = False
    decisions: tuple[Decision, ...] = ()
    contact_id: str = ""
    by_hand: str = ""
    doubt: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether the record can be removed."""
        return self.first_ms is None and not self.decisions and not self.left_keys

    def is_shared(self, max_devices: int) -> bool:
        """Whether the identity was used on more devices on one of its latest days."""
        return self.device_peak > max_devices

    @property
    def last_visit_ids(self) -> list[str]:
        """The visits that named the identity last, over all websites and on each."""
        newest = ([self.newest] if self.newest else []) + [one.newest for one in self.by_site]
        return list(dict.fromkeys(one.visit_id for one in newest))


class IdentityMention(msgspec.Struct, frozen=True):
    """An event that names an identity, and what it says about the identity."""

    transition: Transition
    visit_id: str
    profile: tuple[ProfileValue, ...]
    match_keys: MatchKeys
    site: str = ""
    browser_visit_id: str = ""
    device: DeviceDay | None = None

    @classmethod
    def of(
        cls, event: Event, transition: Transition, names: AttributeNames, phone_region: str | None
    ) -> "IdentityMention":
        """Create it from the data of a SignIn or UserInfo, and from what its token proves."""
        said = said_by(event, transition, names, phone_region)
        is_proven = transition.assurance is Assurance.PROVEN
        return cls(
            transition,
            event.visit_id,
            (
                *_values(said.fields, event.site, transition, Source.PAGE_OF_PERSON if is_proven else Source.PAGE),
                *_values(said.proven, event.site, transition, Source.TOKEN),
            ),
            said.match_keys,
            event.site,
            event.browser_visit_id,
            said.device,
        )


def _values(fields: Mapping[str, str], site: str, transition: Transition, source: Source) -> Iterable[ProfileValue]:
    return (
        ProfileValue(key, value, transition.order_key, source, site)
        for key, value in fields.items()
        if len(key) <= MAX_PROFILE_KEY_LENGTH and len(value) <= MAX_PROFILE_VALUE_LENGTH
    )


class VisitStatus(msgspec.Struct, frozen=True):
    """The identity signed in on a visit ("" for none), by the timeline of revision `rev`."""

    visit_id: str
    rev: int
    signed_in: str


def with_mentions(
    record: IdentityRecord, mentions: Sequence[IdentityMention], visits: Iterable[VisitStatus]
) -> IdentityRecord:
    """Merge events that name the identity, and the current status of visits, into a record."""
    statuses = {visit.visit_id: visit for visit in visits}
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
    update = partial(_with_status, statuses=statuses, identity=record.identity_id)
    site_associations = [replace(one, newest=update(one.newest)) for one in by_site.values()]
    profile = best_values(record.profile, *(mention.profile for mention in mentions))
    match_keys = reduce(MatchKeys.merged, (mention.match_keys for mention in mentions), record.match_keys)
    devices = merged_days(record.devices, [mention.device for mention in mentions if mention.device])
    merged = replace(
        record,
        first_ms=first_ms,
        newest=newest and update(newest),
        by_site=_newest_sites(site_associations),
        profile=profile,
        match_keys=match_keys,
        devices=devices,
        is_due=record.is_due or match_keys.assurance != record.match_keys.assurance,
    )
    return with_derived_fields(merged)


def _newer(newest: Association | None, mention: IdentityMention) -> Association:
    at = mention.transition.order_key
    if newest is not None and (newest.at, newest.visit_id) >= (at, mention.visit_id):
        return newest
    if newest is not None and newest.visit_id == mention.visit_id:
        return replace(newest, at=at)
    return Association(at, mention.visit_id, browser_visit_id=mention.browser_visit_id)


def _with_status(newest: Association, statuses: Mapping[str, VisitStatus], identity: str) -> Association:
    visit = statuses.get(newest.visit_id)
    if visit is None or visit.rev <= newest.rev:
        return newest
    return replace(newest, rev=visit.rev, is_signed_in=visit.signed_in == identity)


def without_lost_revisions(record: IdentityRecord, revs: Mapping[str, int]) -> IdentityRecord:
    """Forget by which revision the status of these visits was decided, where it is later than that given now.

    Redis has lost such revisions, and the next statuses of the visits come with smaller ones.
    """

    def update(newest: Association) -> Association:
        return replace(newest, rev=0) if newest.rev > revs.get(newest.visit_id, newest.rev) else newest

    by_site = tuple(replace(one, newest=update(one.newest)) for one in record.by_site)
    return replace(record, newest=record.newest and update(record.newest), by_site=by_site)


def _newest_sites(by_site: Iterable[SiteAssociation]) -> tuple[SiteAssociation, ...]:
    """Keep the sites of the newest events: without SITES_FILE, senders can invent site names."""
    kept = sorted(by_site, key=lambda one: (one.newest.at, one.site))[-MAX_SITES:]
    return tuple(sorted(kept, key=lambda one: one.site))


def restricted_to_sites(record: IdentityRecord, sites: Container[str]) -> IdentityRecord | None:
    """Return the part of the record that comes from events of these sites; None if there is none.

    It includes the linked contact, also if it was matched on another site. It has no evidence of other sites, nor what
    it shares with others: that is counted over all sites.
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
        devices=(),
        device_peak=0,
        decisions=tuple(_without_evidence(decision, sites) for decision in record.decisions),
    )


def _without_evidence(decision: Decision, sites: Container[str]) -> Decision:
    """Remove candidates, how often and when they have changed, unused keys, and the match key of another site."""
    is_of_sites = decision.match_key is not None and decision.match_key.site in sites
    match_key = decision.match_key if is_of_sites else None
    return replace(decision, candidates=(), candidate_count=0, count=1, last_ms=0, match_key=match_key, unused=())


def joined(records: Sequence[IdentityRecord], identity_id: str) -> IdentityRecord:
    """Return the record of a person, from those of all names: as if all events had named one identity.

    Its decisions are those of this identity, or else of the first name that has any. All names have the same in force.
    """
    named = [record for record in records if record.first_ms is not None]
    profile = best_values(*(record.profile for record in records))
    in_order = sorted(records, key=lambda record: record.identity_id != identity_id)
    widest = max(records, key=lambda record: record.device_peak)
    newest = [record.newest for record in named if record.newest]
    return with_current_link(
        IdentityRecord(
            identity_id=identity_id,
            first_ms=min((record.first_ms for record in named if record.first_ms is not None), default=None),
            newest=max(newest, key=lambda one: (one.at, one.visit_id), default=None),
            profile=profile,
            location=text_value(profile, "location"),
            match_keys=reduce(MatchKeys.merged, (record.match_keys for record in records), MatchKeys()),
            devices=widest.devices,
            device_peak=widest.device_peak,
            decisions=next((record.decisions for record in in_order if record.decisions), ()),
        )
    )


def with_derived_fields(record: IdentityRecord) -> IdentityRecord:
    """Return the record with the fields that follow from the others; it is due if what it is matched by has changed."""
    keys, proven = record.match_keys.compared, record.match_keys.proven
    left = {*record.left_keys} | ({*record.keys} - keys) | ({*record.proven_keys} - proven)
    after = replace(
        record,
        location=text_value(record.profile, "location"),
        keys=tuple(sorted(keys)),
        proven_keys=tuple(sorted(proven)),
        left_keys=tuple(sorted(left)),
        device_peak=most_devices(record.devices),
    )
    return replace(after, is_due=record.is_due or _matched_by(after) != _matched_by(record))


def _matched_by(record: IdentityRecord) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    return record.keys, record.proven_keys, record.device_peak


def erased(record: IdentityRecord, erase_time_ms: int) -> IdentityRecord:
    """Remove what events until a time said, and the decisions that rest on it or were made until then.

    If later events are in the record already, `first_ms` becomes the earliest of them that is still known. Values of
    later events that had been replaced by better, now erased ones are lost, and so are the devices of the whole day.
    """
    last = f"{erase_time_ms:013d}~"  # greater than every order key of that time
    match_keys = MatchKeys(**{name: key for name, key in record.match_keys.by_attribute().items() if key.at > last})
    profile = tuple(value for value in record.profile if value.at > last)
    newest = record.newest if record.newest and record.newest.at > last else None
    by_site = tuple(
        replace(one, first_ms=one.first_ms if one.first_ms > erase_time_ms else _time_ms(one.newest.at))
        for one in record.by_site
        if one.newest.at > last
    )
    first_ms = record.first_ms
    if first_ms is not None and first_ms <= erase_time_ms:
        later = [key.at for key in match_keys.by_attribute().values()] + [value.at for value in profile]
        later += [newest.at] if newest else []
        first_ms = min(map(_time_ms, later), default=None)
    decisions: tuple[Decision, ...] = ()
    for decision in record.decisions:
        # The time of the decision does not count: a rule may have used an older event since.
        unused = tuple(one for one in decision.unused if one.match_key.at > last)
        is_later = decision.match_key.at > last if decision.match_key else bool(decisions or unused)
        if is_later or (decision.is_manual and decision.at_ms > erase_time_ms):
            decisions += (replace(decision, unused=unused),)
    is_due = record.is_due or decisions != record.decisions
    devices = tuple(one for one in record.devices if one.day > erase_time_ms // DAY_MS)
    left = replace(record, first_ms=first_ms, newest=newest, by_site=by_site, profile=profile, match_keys=match_keys)
    left = replace(left, devices=devices, decisions=decisions, is_due=is_due)
    return with_current_link(with_derived_fields(left))


def _time_ms(at: str) -> int:
    return int(at[:ORDER_KEY_TIME_DIGITS])


def with_current_link(record: IdentityRecord) -> IdentityRecord:
    """Return the record with the fields that follow from its decisions."""
    by_hand = next((d.contact_id for d in reversed(record.decisions) if d.is_manual), "")
    contact_id, doubt = "", ""
    if record.decisions:
        in_force = record.decisions[-1]
        contact_id = in_force.contact_id
        doubt = doubt_key(in_force.doubt, record.identity_id) if in_force.doubt else ""
    return replace(record, by_hand=by_hand, contact_id=contact_id, doubt=doubt)


def doubt_key(doubt: Doubt, identity_id: str) -> str:
    """Return a key that all identities with a doubt are in the order of: only they have an entry in its index."""
    return f"{doubt.value}:{identity_id}"


def best_values(*parts: Iterable[ProfileValue]) -> tuple[ProfileValue, ...]:
    """Return for each key and site the newest value of the best source, at most MAX_PROFILE_KEYS, sorted by key.

    The result does not depend on the order of merging: once a value is dropped, enough better ones exist permanently.
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
    """Return the best value of a key if it is a string, else ""."""
    best = max((value for value in profile if value.key == key), key=_rank, default=None)
    return text(best.value) if best else ""


def profile_json(record: IdentityRecord) -> bytes:
    """Return the profile as one JSON object with the best value of every key, as sent."""
    return msgspec.json.encode({value.key: msgspec.Raw(value.value.encode()) for value in record.profile})
