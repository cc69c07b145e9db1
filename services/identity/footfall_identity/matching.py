"""Turns what SignIns and the contact directory say into folded keys, and equal keys into which contact an identity is.

The rule is design 3.5. Keys of both sides are made here, so that what compares equal is equal text in both stores.
"""

import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import IntEnum

import msgspec
import phonenumbers
from email_validator import EmailNotValidError, validate_email
from footfall_timeline import Assurance, Kind, Transition
from msgspec.structs import replace

MAX_EMAIL_LENGTH = 254
MAX_PHONE_LENGTH = 64
MAX_NAME_LENGTH = 256
MAX_CANDIDATES = 100


def check_region(region: str | None) -> str | None:
    """Return a country. Raises ValueError for one that has no telephone numbers."""
    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("must be the two capital letters of a country, such as DE")
    return region


class Rule(IntEnum):
    """What decides. The numbers are those of footfall.identity.v1.LinkRule; the three of rules are tried in order."""

    NONE = 0
    EMAIL_ADDRESS = 1
    PHONE_NUMBER = 2
    NAME = 3
    MANUAL = 4


class Status(IntEnum):
    """Where an identity stands. The numbers are those of footfall.identity.v1.LinkStatus."""

    LINKED = 1
    AMBIGUOUS = 2
    UNLINKED = 3


ATTRIBUTES = {
    Rule.EMAIL_ADDRESS: ("EmailAddress",),
    Rule.PHONE_NUMBER: ("PhoneNumber",),
    Rule.NAME: ("FirstName", "LastName"),
}
"""What each rule compares, by the contact center's names."""


class MatchKey(msgspec.Struct, frozen=True, order=True):
    """An attribute of an identity as a folded key, and the SignIn that gave it: its assurance, order key and visit.

    `site` is where that was, unknown of older ones; `browser_visit_id` is empty when the visit has the browser's id.

    Of two the greater counts: what is proven before what is claimed, then the newer.
    """

    assurance: int
    at: str
    visit_id: str
    key: str
    site: str = ""
    browser_visit_id: str = ""


class MatchKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best SignIn that gave each attribute. `user_id` stands in for an e-mail address that none gave.

    Its key is empty when it is proven and no address: then nothing that is only claimed counts beside it.
    """

    email: MatchKey | None = None
    user_id: MatchKey | None = None
    phone: MatchKey | None = None
    name: MatchKey | None = None

    def merged(self, other: "MatchKeys") -> "MatchKeys":
        """The better of each."""

        def better(one: MatchKey | None, another: MatchKey | None) -> MatchKey | None:
            return max(one, another) if one and another else one or another

        return MatchKeys(
            email=better(self.email, other.email),
            user_id=better(self.user_id, other.user_id),
            phone=better(self.phone, other.phone),
            name=better(self.name, other.name),
        )

    @property
    def assurance(self) -> int:
        """The greatest of any; 0 when there is none."""
        return max(
            (match_key.assurance for match_key in (self.email, self.user_id, self.phone, self.name) if match_key),
            default=0,
        )

    def given_on(self, site: str, browser_visit_id: str) -> "MatchKeys":
        """The same, given on a site by a visit that the browser calls so."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return MatchKeys(
            **{
                name: match_key and replace(match_key, site=site, browser_visit_id=browser_visit_id)
                for name, match_key in given.items()
            }
        )

    def ranked(self) -> list[tuple[Rule, MatchKey]]:
        """What there is to match by, in the order it is tried. Where anything is proven, what is claimed is not."""
        ranked = [
            (Rule.EMAIL_ADDRESS, self.email),
            (Rule.EMAIL_ADDRESS, self.user_id),
            (Rule.PHONE_NUMBER, self.phone),
            (Rule.NAME, self.name),
        ]
        found: dict[Rule, MatchKey] = {}
        for rule, match_key in ranked:
            if match_key and match_key.key and match_key.assurance == self.assurance:
                found.setdefault(rule, match_key)
        return list(found.items())


class MatchResult(msgspec.Struct, frozen=True):
    """Where an identity stands, by which rule, with which contact or candidates, resting on which match_key."""

    status: Status
    rule: Rule = Rule.NONE
    contact_id: str = ""
    candidates: tuple[str, ...] = ()
    match_key: MatchKey | None = None


def match_keys_of(transition: Transition, visit_id: str, said: Mapping[str, object], region: str | None) -> MatchKeys:
    """What a SignIn says of the person. Other events say nothing: a UserInfo is a memory, or an unproven claim.

    `said` is what its token says, if it has proven the SignIn, else its data. First and last name count only together,
    from one event.
    """
    if transition.kind is not Kind.SIGN_IN:
        return MatchKeys()
    is_proven = transition.assurance is Assurance.PROVEN

    def match_key(key: str, *, also_empty: bool = False) -> MatchKey | None:
        assurance = transition.assurance.value
        return MatchKey(assurance, transition.order_key, visit_id, key) if key or also_empty else None

    def text(name: str) -> str:
        value = said.get(name)
        return value if isinstance(value, str) else ""

    return MatchKeys(
        email=match_key(email_key(text("email"))),
        user_id=match_key(email_key(transition.identity), also_empty=is_proven),
        phone=match_key(phone_key(text("phone"), region)),
        name=match_key(name_key(text("firstName"), text("lastName"))),
    )


def email_key(text: str) -> str:
    """The key of an e-mail address; empty when it is none. Case does not tell two addresses apart."""
    if len(text) > MAX_EMAIL_LENGTH or "@" not in text:  # the library takes long to say so
        return ""
    try:
        return "email:" + validate_email(text.strip(), check_deliverability=False).normalized.casefold()
    except EmailNotValidError:
        return ""


def phone_key(text: str, region: str | None) -> str:
    """The key of a telephone number, in E.164 form; empty when it is none. Without `+` it is one of `region`."""
    if len(text) > MAX_PHONE_LENGTH:
        return ""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    # Not is_valid_number: new ranges of numbers are in use long before a library knows them.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return ""
    key = "phone:" + phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return f"{key};ext={number.extension}" if number.extension else key


def name_key(first: str, last: str) -> str:
    """The key of a first and last name; empty when either is."""
    if max(len(first), len(last)) > MAX_NAME_LENGTH:
        return ""
    first, last = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in (first, last))
    return f"name:{first}\t{last}" if first and last else ""


def contact_keys(
    emails: Iterable[str], phones: Iterable[str], first: str, last: str, region: str | None
) -> tuple[str, ...]:
    """All keys that a contact is matched by."""
    keys = {*map(email_key, emails), *(phone_key(phone, region) for phone in phones), name_key(first, last)}
    return tuple(sorted(keys - {""}))


def match_contact(
    match_keys: MatchKeys,
    by_hand: str,
    ruled_out: Container[str],
    existing: Container[str],
    matches: Mapping[str, Sequence[str]],
) -> MatchResult:
    """Which contact an identity is.

    `by_hand` is the contact that a person chose, `ruled_out` those that one ruled out; `existing` holds the contacts
    that exist, as far as they were chosen, and `matches` those that have a key. The first rule that finds any decides.
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
