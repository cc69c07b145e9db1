"""Matching of identities to contacts by e-mail address, telephone number, and name.

Both sides are reduced to normalised match keys. Identity and contact match if a key is the same text.
"""

import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import IntEnum

import msgspec
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, Kind, Transition

MAX_EMAIL_LENGTH = 254
MAX_PHONE_LENGTH = 64
MAX_NAME_LENGTH = 256
MAX_CANDIDATES = 100


def check_region(region: str | None) -> str | None:
    """Return the country code. Raises ValueError for one without telephone numbers."""
    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("must be the two capital letters of a country, such as DE")
    return region


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


ATTRIBUTES = {
    Rule.EMAIL_ADDRESS: ("EmailAddress",),
    Rule.PHONE_NUMBER: ("PhoneNumber",),
    Rule.NAME: ("FirstName", "LastName"),
}
"""The attributes that each rule compares, as the contact center names them."""


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
    """

    email: MatchKey | None = None
    user_id: MatchKey | None = None
    phone: MatchKey | None = None
    name: MatchKey | None = None

    def by_attribute(self) -> dict[str, MatchKey]:
        """Return the keys that there are, by attribute."""
        return {name: key for name in self.__struct_fields__ if (key := getattr(self, name))}

    def merged(self, other: "MatchKeys") -> "MatchKeys":
        """Return the better key of each attribute."""
        mine, others = self.by_attribute(), other.by_attribute()
        return MatchKeys(**(mine | {name: max(key, mine.get(name, key)) for name, key in others.items()}))

    @property
    def assurance(self) -> int:
        """The highest assurance of the keys; 0 without any."""
        return max((key.assurance for key in self.by_attribute().values()), default=0)

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


class MatchResult(msgspec.Struct, frozen=True):
    """The result of matching: status, rule, contact or candidates, and the key that decided."""

    status: Status
    rule: Rule = Rule.NONE
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    match_key: MatchKey | None = None


def match_keys_of(event: Event, transition: Transition, said: Mapping[str, object], region: str | None) -> MatchKeys:
    """Return the match keys that a SignIn gives. Other events give none: a UserInfo is not verified.

    `said` are the claims of its token if it is proven, else its data. First and last name count only together.
    """
    if transition.kind is not Kind.SIGN_IN:
        return MatchKeys()
    is_proven = transition.assurance is Assurance.PROVEN

    def match_key(key: str, *, allow_empty: bool = False) -> MatchKey | None:
        if not (key or allow_empty):
            return None
        assurance, at = transition.assurance.value, transition.order_key
        return MatchKey(assurance, at, event.visit_id, key, event.site, event.browser_visit_id)

    def text(name: str) -> str:
        value = said.get(name)
        return value if isinstance(value, str) else ""

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
    try:
        return "email:" + validate_email(text.strip(), check_deliverability=False).normalized.casefold()
    except EmailNotValidError:
        return ""


def phone_key(text: str, region: str | None) -> str:
    """Return the key of a telephone number, in E.164 form; "" for an invalid one. Without `+` it is one of `region`."""
    if len(text) > MAX_PHONE_LENGTH:
        return ""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    # Not is_valid_number: new number ranges are used long before the library knows them.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return ""
    key = "phone:" + phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return f"{key};ext={number.extension}" if number.extension else key


def name_key(first: str, last: str) -> str:
    """Return the key of a first and last name; "" if either is empty."""
    if max(len(first), len(last)) > MAX_NAME_LENGTH:
        return ""
    first, last = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in (first, last))
    return f"name:{first}\t{last}" if first and last else ""


def contact_keys(
    emails: Iterable[str], phones: Iterable[str], first: str, last: str, region: str | None
) -> tuple[str, ...]:
    """Return all keys that a contact is matched by."""
    keys = {*map(email_key, emails), *(phone_key(phone, region) for phone in phones), name_key(first, last)}
    return tuple(sorted(keys - {""}))


def match_contact(
    match_keys: MatchKeys,
    by_hand: str,
    ruled_out: Container[str],
    existing: Container[str],
    matches: Mapping[str, Sequence[str]],
) -> MatchResult:
    """Decide the contact of an identity. The first rule that finds a contact decides.

    Args: `by_hand` is the manually linked contact, `ruled_out` are the manually unlinked ones; `existing` are those of
    the manually linked contacts that exist; `matches` are the contacts by key.
    """
    if by_hand and by_hand in existing:
        return MatchResult(Status.LINKED, Rule.MANUAL, by_hand)
    for rule, match_key in match_keys.ranked():
        found = sorted(contact_id for contact_id in matches.get(match_key.key, ()) if contact_id not in ruled_out)
        if len(found) == 1:
            return MatchResult(Status.LINKED, rule, found[0], match_key=match_key)
        if found:
            return MatchResult(Status.AMBIGUOUS, rule, candidates=tuple(found[:MAX_CANDIDATES]), match_key=match_key)
    return MatchResult(Status.UNLINKED)
