"""Matching of identities to contacts by e-mail address, telephone number, and name.

Both sides are reduced to normalised match keys. Identity and contact match if a key is the same text.
"""

import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from email_validator import EmailNotValidError, validate_email
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.phone_numbers import e164
from footfall_timeline import Assurance, Kind, Transition

MAX_EMAIL_LENGTH = 254
MAX_NAME_LENGTH = 256
MAX_CANDIDATES = 50
"""Most contacts that a decision lists."""
PHONE_KEY_PREFIX = "phone:"
_EMAIL_KEY_PREFIX = "email:"
_NAME_KEY_PREFIX = "name:"
# A dot-atom of RFC 5322, and a domain of ASCII letters that stand for no others.
_PLAIN_ADDRESS = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*@((?!.*xn--)[a-z0-9.-]+)", re.ASCII | re.IGNORECASE
)
_CACHED_DOMAINS: Final = 10_000


class Rule(IntEnum):
    """What has decided. The numbers are those of footfall.identity.v1.LinkRule; rules are tried in this order."""

    NONE = 0
    EMAIL_ADDRESS = 1
    PHONE_NUMBER = 2
    NAME = 3
    MANUAL = 4


class Status(IntEnum):
    """The status of a link. The numbers are those of footfall.identity.v1.LinkStatus."""

    LINKED = 1
    AMBIGUOUS = 2
    UNLINKED = 3


class Doubt(IntEnum):
    """Why a person should look at a link. The numbers are those of footfall.identity.v1.LinkDoubt."""

    NONE = 0
    AMBIGUOUS = 1
    RECOGNIZED_ONLY = 2
    BY_NAME = 3


ATTRIBUTES = {
    Rule.EMAIL_ADDRESS: ("EmailAddress",),
    Rule.PHONE_NUMBER: ("PhoneNumber",),
    Rule.NAME: ("FirstName", "LastName"),
}
"""The attributes that each rule compares, as the contact center names them."""


class UnusedReason(IntEnum):
    """Why a match key is not used. The numbers are those of footfall.identity.v1.UnusedReason."""

    GENERIC_VALUE = 1
    """Too many identities give the value."""
    SHARED_IDENTITY = 2
    """The identity is used on too many devices, and the value is not proven."""


class MatchKey(msgspec.Struct, frozen=True, order=True):
    """An attribute of an identity as a normalised key, with assurance, order key and visit of the SignIn that gave it.

    The greater of two keys counts: proven before claimed, then the newer. `site` is empty for keys of early versions,
    `browser_visit_id` if it equals `visit_id`.
    """

    assurance: int
    at: str
    visit_id: str
    key: str
    site: str = ""
    browser_visit_id: str = ""


class MatchKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best key of each attribute. `user_id` is used as an e-mail address if no SignIn gave one.

    The key of a proven user id that is no e-mail address is empty: it makes claimed attributes count no longer.
    `recognized` is the e-mail address of a UserInfo. It never links: contacts that have it are only candidates.
    """

    email: MatchKey | None = None
    user_id: MatchKey | None = None
    phone: MatchKey | None = None
    name: MatchKey | None = None
    recognized: MatchKey | None = None

    def by_attribute(self) -> dict[str, MatchKey]:
        """Return the keys that there are, by attribute."""
        return {name: key for name in self.__struct_fields__ if (key := getattr(self, name))}

    def merged(self, other: "MatchKeys") -> "MatchKeys":
        """Return the better key of each attribute."""
        mine, others = self.by_attribute(), other.by_attribute()
        return MatchKeys(**(mine | {name: max(key, mine.get(name, key)) for name, key in others.items()}))

    @property
    def assurance(self) -> int:
        """The highest assurance of the keys that can link; 0 without any."""
        keys = (self.email, self.user_id, self.phone, self.name)
        return max((key.assurance for key in keys if key), default=0)

    def ranked(self) -> list[tuple[Rule, MatchKey]]:
        """Return the keys with their rules, in the order they are tried. If any is proven, only proven ones count."""
        ranked = [
            (Rule.EMAIL_ADDRESS, self.email),
            (Rule.EMAIL_ADDRESS, self.user_id),
            (Rule.PHONE_NUMBER, self.phone),
            (Rule.NAME, self.name),
        ]
        assurance = self.assurance
        found: dict[Rule, MatchKey] = {}
        for rule, match_key in ranked:
            if match_key and match_key.key and match_key.assurance == assurance:
                found.setdefault(rule, match_key)
        return list(found.items())

    @property
    def compared(self) -> set[str]:
        """The keys that contacts are looked up by: those that may link, and that of a candidate."""
        return {match_key.key for _, match_key in self.ranked()} | ({self.recognized.key} if self.recognized else set())


class Matches(NamedTuple):
    """The first contacts with a match key, by id, and how many contacts have it."""

    contact_ids: tuple[str, ...]
    total: int


_NO_MATCHES = Matches((), 0)


class UnusedKey(msgspec.Struct, frozen=True):
    """A match key that contacts have and that was not used, with its rule and the reason."""

    rule: Rule
    reason: UnusedReason
    match_key: MatchKey


class Sharing(NamedTuple):
    """What an identity shares with others.

    `generic` are the match keys that too many identities give. Each is not used up to this assurance: who only claims a
    value does not keep others from proving it. `is_shared`: only proven keys are used.
    """

    generic: Mapping[str, int]
    is_shared: bool = False

    def why_unused(self, match_key: MatchKey) -> UnusedReason | None:
        """Return why a match key is not used; None: it is used."""
        generic_up_to = self.generic.get(match_key.key)
        if generic_up_to is not None and match_key.assurance <= generic_up_to:
            return UnusedReason.GENERIC_VALUE
        if self.is_shared and match_key.assurance < Assurance.PROVEN:
            return UnusedReason.SHARED_IDENTITY
        return None


NOTHING_SHARED: Final = Sharing({})


class MatchResult(msgspec.Struct, frozen=True):
    """The result of matching: status, rule, contact or candidates and their number, and the key that decided.

    `unused` are the keys that would have been used before it.
    """

    status: Status
    rule: Rule = Rule.NONE
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    candidate_count: int = 0
    match_key: MatchKey | None = None
    unused: tuple[UnusedKey, ...] = ()


def match_keys_of(event: Event, transition: Transition, said: Mapping[str, object], region: str | None) -> MatchKeys:
    """Return the match keys that a SignIn gives, or that of a UserInfo, which is not verified.

    `said` are the claims of its token if it is proven, else its data. First and last name count only together.
    """
    is_proven = transition.assurance is Assurance.PROVEN

    def match_key(key: str, *, allow_empty: bool = False) -> MatchKey | None:
        if not (key or allow_empty):
            return None
        assurance, at = transition.assurance.value, transition.order_key
        return MatchKey(assurance, at, event.visit_id, key, event.site, event.browser_visit_id)

    def text(name: str) -> str:
        value = said.get(name)
        return value if isinstance(value, str) else ""

    if transition.kind is not Kind.SIGN_IN:
        return MatchKeys(recognized=match_key(email_key(text("email")) or email_key(transition.identity)))
    return MatchKeys(
        email=match_key(email_key(text("email"))),
        user_id=match_key(email_key(transition.identity), allow_empty=is_proven),
        phone=match_key(phone_key(text("phone"), region)),
        name=match_key(name_key(text("firstName"), text("lastName"))),
    )


def email_key(text: str) -> str:
    """Return the key of an e-mail address, ignoring case; "" for an invalid one."""
    if len(text) > MAX_EMAIL_LENGTH or "@" not in text:  # a cheap check first: the library is slow
        return ""
    address = text.strip()
    if plain := _PLAIN_ADDRESS.fullmatch(address):  # the library only checks the domain, once for many addresses
        normalized = address if _is_domain(plain[1].lower()) else ""
    else:
        normalized = _normalized(address)
    return _EMAIL_KEY_PREFIX + normalized.casefold() if normalized else ""


def _normalized(address: str) -> str:
    try:
        return str(validate_email(address, check_deliverability=False).normalized)
    except EmailNotValidError:
        return ""


@lru_cache(_CACHED_DOMAINS)
def _is_domain(text: str) -> bool:
    """Return whether an e-mail address may have this domain."""
    return bool(_normalized(f"a@{text}"))


def phone_key(text: str, region: str | None) -> str:
    """Return the key of a telephone number, in E.164 form; "" for an invalid one. Without `+` it is one of `region`."""
    number = e164(text, region)
    return PHONE_KEY_PREFIX + number if number else ""


def name_key(first: str, last: str) -> str:
    """Return the key of a first and last name; "" if either is empty."""
    if max(len(first), len(last)) > MAX_NAME_LENGTH:
        return ""
    first, last = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in (first, last))
    return f"{_NAME_KEY_PREFIX}{first}\t{last}" if first and last else ""


def rule_and_text(key: str) -> tuple[Rule, str]:
    """Return the rule that compares a match key, and the key as a person would write it."""
    prefixes = {
        _EMAIL_KEY_PREFIX: Rule.EMAIL_ADDRESS,
        PHONE_KEY_PREFIX: Rule.PHONE_NUMBER,
        _NAME_KEY_PREFIX: Rule.NAME,
    }
    prefix, colon, text = key.partition(":")
    return prefixes[prefix + colon], text.replace("\t", " ")


def contact_keys(
    emails: Iterable[str], phones: Iterable[str], first: str, last: str, region: str | None
) -> tuple[str, ...]:
    """Return all keys that a contact is matched by."""
    keys = {*map(email_key, emails), *(phone_key(phone, region) for phone in phones), name_key(first, last)}
    return tuple(sorted(keys - {""}))


def match_contact(
    match_keys: MatchKeys,
    by_hand: str,
    ruled_out: Collection[str],
    known: Mapping[str, Container[str]],
    matches: Mapping[str, Matches],
    *,
    sharing: Sharing = NOTHING_SHARED,
) -> MatchResult:
    """Decide the contact of an identity. The first rule that finds a contact decides.

    Args: `by_hand` is the manually linked contact, `ruled_out` are the manually unlinked ones; `known` are those of
    them that exist, with their match keys; `matches` are the contacts by key: at least all, or MAX_CANDIDATES more than
    are ruled out. `sharing` is what the identity shares with others.
    """
    if by_hand and by_hand in known:
        return MatchResult(Status.LINKED, Rule.MANUAL, by_hand)

    def left(key: str) -> Matches:
        """Return the contacts with a key that are not ruled out."""
        contact_ids, total = matches.get(key, _NO_MATCHES)
        found = tuple(contact_id for contact_id in contact_ids if contact_id not in ruled_out)
        total -= sum(key in known.get(contact_id, ()) for contact_id in ruled_out)
        return Matches(found, max(total, len(found)))

    unused: list[UnusedKey] = []

    def is_unused(rule: Rule, match_key: MatchKey) -> bool:
        if reason := sharing.why_unused(match_key):
            unused.append(UnusedKey(rule, reason, match_key))
        return reason is not None

    for rule, match_key in match_keys.ranked():
        contact_ids, total = left(match_key.key)
        if not contact_ids or is_unused(rule, match_key):
            continue
        if len(contact_ids) == 1:
            return MatchResult(Status.LINKED, rule, contact_ids[0], match_key=match_key, unused=tuple(unused))
        candidates = contact_ids[:MAX_CANDIDATES]
        return MatchResult(Status.AMBIGUOUS, rule, "", candidates, total, match_key, tuple(unused))
    rule, recognized = Rule.EMAIL_ADDRESS, match_keys.recognized
    if recognized:
        contact_ids, total = left(recognized.key)
        if contact_ids and not is_unused(rule, recognized):
            candidates = contact_ids[:MAX_CANDIDATES]
            return MatchResult(Status.UNLINKED, rule, "", candidates, total, recognized, tuple(unused))
    return MatchResult(Status.UNLINKED, unused=tuple(unused))
