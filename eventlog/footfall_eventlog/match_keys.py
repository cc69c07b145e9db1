"""The normalised keys by which identities and contacts are compared: e-mail address, telephone number, and name.

Identity links by them, and history tries policies by them. Two sides match if a key is the same text.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final

import msgspec
from email_validator import EmailNotValidError, validate_email
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, Kind, Transition

from footfall_eventlog.phone_numbers import e164

MAX_EMAIL_LENGTH = 254
MAX_NAME_LENGTH = 256
PHONE_KEY_PREFIX = "phone:"
_EMAIL_KEY_PREFIX = "email:"
_NAME_KEY_PREFIX = "name:"
# A dot-atom of RFC 5322, and a domain of ASCII letters that stand for no others.
_PLAIN_ADDRESS = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*@((?!.*xn--)[a-z0-9.-]+)", re.ASCII | re.IGNORECASE
)
_CACHED_DOMAINS: Final = 10_000


class Rule(IntEnum):
    """What has decided. The numbers are those of footfall.identity.v1.LinkRule."""

    NONE = 0
    EMAIL_ADDRESS = 1
    PHONE_NUMBER = 2
    NAME = 3
    MANUAL = 4


RULES: Final = (Rule.EMAIL_ADDRESS, Rule.PHONE_NUMBER, Rule.NAME)
"""The rules by which identities are linked, in the order in which they are tried unless a policy says another."""


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

    def ranked(self, rules: Sequence[Rule] = RULES) -> list[tuple[Rule, MatchKey]]:
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
        return [(rule, found[rule]) for rule in rules if rule in found]

    @property
    def proven(self) -> set[str]:
        """Those of the keys that may link that a token proves."""
        return {match_key.key for _, match_key in self.ranked() if match_key.assurance == Assurance.PROVEN}

    @property
    def compared(self) -> set[str]:
        """The keys that contacts are looked up by: those that may link, and that of a candidate."""
        return {match_key.key for _, match_key in self.ranked()} | ({self.recognized.key} if self.recognized else set())


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


def unused_up_to(givers: int, proven: int, most: int) -> Assurance:
    """Return up to which assurance rules do not use a key that `givers` identities give, if `most` may.

    Of these identities, `proven` give it proven.
    """
    if givers <= most:
        return Assurance.NONE
    return Assurance.PROVEN if proven > most else Assurance.CLAIMED


def contact_keys(
    emails: Iterable[str], phones: Iterable[str], first: str, last: str, region: str | None
) -> tuple[str, ...]:
    """Return all keys that a contact is matched by."""
    keys = {*map(email_key, emails), *(phone_key(phone, region) for phone in phones), name_key(first, last)}
    return tuple(sorted(keys - {""}))
