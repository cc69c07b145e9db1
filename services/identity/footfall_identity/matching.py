"""Matching of identities to contacts by their match keys."""

from collections.abc import Collection, Container, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec
from footfall_eventlog.match_keys import RULES, MatchKey, MatchKeys, Rule
from footfall_timeline import Assurance

MAX_CANDIDATES = 50
"""Most contacts that a decision lists."""


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


def match_contact(
    match_keys: MatchKeys,
    by_hand: str,
    ruled_out: Collection[str],
    known: Mapping[str, Container[str]],
    matches: Mapping[str, Matches],
    *,
    rules: Sequence[Rule] = RULES,
    sharing: Sharing = NOTHING_SHARED,
) -> MatchResult:
    """Decide the contact of an identity. The first of the rules that finds a contact decides.

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

    for rule, match_key in match_keys.ranked(rules):
        contact_ids, total = left(match_key.key)
        if not contact_ids or is_unused(rule, match_key):
            continue
        if len(contact_ids) == 1:
            return MatchResult(Status.LINKED, rule, contact_ids[0], match_key=match_key, unused=tuple(unused))
        candidates = contact_ids[:MAX_CANDIDATES]
        return MatchResult(Status.AMBIGUOUS, rule, "", candidates, total, match_key, tuple(unused))
    rule, recognized = Rule.EMAIL_ADDRESS, match_keys.recognized
    if recognized and rule in rules:
        contact_ids, total = left(recognized.key)
        if contact_ids and not is_unused(rule, recognized):
            candidates = contact_ids[:MAX_CANDIDATES]
            return MatchResult(Status.UNLINKED, rule, "", candidates, total, recognized, tuple(unused))
    return MatchResult(Status.UNLINKED, unused=tuple(unused))
