"""The decisions about the contact of an identity: by rules and manual, newest last."""

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

from footfall_eventlog.match_keys import Rule
from msgspec.structs import replace

from footfall_identity.identity_record import Decision, IdentityRecord, with_current_link
from footfall_identity.matching import MatchResult, Status

MAX_DECISIONS = 1_000
"""Beyond this number, the oldest decision by a rule is dropped: the number of sign-ins has no limit."""

RULE_ACTOR = "rule"


class ManualDecisions(NamedTuple):
    """What people have decided about the contact of a person, under all names, as it holds together.

    `by_hand` is the contact of the last decision if that was a link, else "". `ruled_out` have been unlinked and not
    linked since. `last_ms` is when the last decision was made, by `actor`; 0 without any.
    """

    by_hand: str
    ruled_out: set[str]
    last_ms: int
    actor: str


def manual_decisions(
    records: Iterable[IdentityRecord], resolved: Callable[[str], str] = lambda contact_id: contact_id
) -> ManualDecisions:
    """Return what people have decided, in the order of time, from the records of all names of a person.

    `resolved` gives the contact that a contact leads to.
    """
    by_hand, ruled_out, last_ms, actor = "", set[str](), 0, ""
    for last_ms, decision in merge(*map(_timed, records), key=itemgetter(0)):  # noqa: B007  # the last one counts
        by_hand, actor = decision.contact_id and resolved(decision.contact_id), decision.actor
        if decision.refused_id:
            ruled_out.add(resolved(decision.refused_id))
        ruled_out.discard(by_hand)
    return ManualDecisions(by_hand, ruled_out, last_ms, actor)


def _timed(record: IdentityRecord) -> Iterator[tuple[int, Decision]]:
    """Yield the decisions with times that never go back, because their order counts and not the clocks of servers."""
    last_ms = 0
    for decision in record.decisions:
        if decision.is_manual:
            last_ms = max(last_ms, decision.at_ms)
            yield last_ms, decision


def with_match_result(
    record: IdentityRecord, result: MatchResult, now_ms: int, actor: str = RULE_ACTOR, policy_version: str = ""
) -> IdentityRecord:
    """Return the record with the result of the rules in force. The same result as before adds no decision.

    `actor` has made the manual decision that the result follows from, if it does; else the rules are those of
    `policy_version`.
    """
    record = replace(record, is_due=False, left_keys=())
    if _is_in_force(record, result):
        return record
    if record.decisions and _is_same_with_other_candidates(record.decisions[-1], result):
        return _with_other_candidates(record, result, now_ms)
    # The manually linked contact exists again; or it was linked under another name, or leads to another contact.
    is_derived = result.rule is Rule.MANUAL
    decision = Decision(
        at_ms=now_ms,
        status=result.status,
        rule=result.rule,
        actor=actor if is_derived else RULE_ACTOR,
        contact_id=result.contact_id,
        candidates=result.candidates,
        candidate_count=result.candidate_count,
        match_key=result.match_key,
        is_derived=is_derived,
        unused=result.unused,
        policy_version="" if is_derived else policy_version,
    )
    return _with(record, decision)


def without_former_names(record: IdentityRecord) -> IdentityRecord:
    """Return the record of a person with one name without decisions that only other names can have caused.

    That is: of a name about which no event and no person has said anything.
    """
    if record.first_ms is not None or any(decision.is_manual for decision in record.decisions):
        return record
    return with_current_link(replace(record, decisions=()))


def _is_in_force(record: IdentityRecord, result: MatchResult) -> bool:
    finds_nothing = result.status is Status.UNLINKED and not (result.candidates or result.unused)
    if not record.decisions:
        return finds_nothing
    last = record.decisions[-1]
    if finds_nothing:
        return last.status is Status.UNLINKED and not (last.candidates or last.unused)
    known = (last.status, last.rule, last.contact_id, last.candidates, last.match_key and last.match_key.assurance)
    assurance = result.match_key and result.match_key.assurance
    is_same = known == (result.status, result.rule, result.contact_id, result.candidates, assurance)
    return is_same and last.match_count == result.candidate_count and _is_same_unused(last, result)


def _is_same_unused(last: Decision, result: MatchResult) -> bool:
    """Return whether the same attributes are not used for the same reasons."""
    known, found = (
        [(one.rule, one.reason, one.match_key.assurance) for one in unused] for unused in (last.unused, result.unused)
    )
    return known == found


def _is_same_with_other_candidates(last: Decision, result: MatchResult) -> bool:
    """Return whether the same rule finds candidates by the same key as before."""
    if not (last.candidates and result.candidates and last.match_key and result.match_key):
        return False
    if not _is_same_unused(last, result):
        return False
    known, found = ((key.key, key.assurance) for key in (last.match_key, result.match_key))
    return (last.status, last.rule, known) == (result.status, result.rule, found)


def _with_other_candidates(record: IdentityRecord, result: MatchResult, now_ms: int) -> IdentityRecord:
    """Return the record whose last decision has the candidates that are found now."""
    *earlier, last = record.decisions
    last = replace(
        last,
        candidates=result.candidates,
        candidate_count=result.candidate_count,
        count=last.count + 1,
        last_ms=now_ms,
    )
    return replace(record, decisions=(*earlier, last))


def linked_manually(
    record: IdentityRecord, contact_id: str, actor: str, now_ms: int, others_ms: int = 0
) -> IdentityRecord:
    """Return the record linked to a contact manually; unchanged if that is the last manual decision.

    `others_ms`: when the last one was made under another name of the person.
    """
    if record.by_hand == contact_id and manual_decisions([record]).last_ms > others_ms:
        return record
    decision = Decision(at_ms=now_ms, status=Status.LINKED, rule=Rule.MANUAL, actor=actor, contact_id=contact_id)
    return replace(_with(record, decision), is_due=True)


def unlinked_manually(record: IdentityRecord, actor: str, now_ms: int) -> IdentityRecord:
    """Return the record with its contact ruled out; unchanged if it is not linked."""
    if not record.contact_id:
        return record
    decision = Decision(
        at_ms=now_ms, status=Status.UNLINKED, rule=Rule.MANUAL, actor=actor, refused_id=record.contact_id
    )
    return replace(_with(record, decision), is_due=True)


def _with(record: IdentityRecord, decision: Decision) -> IdentityRecord:
    decisions = (*record.decisions, decision)
    if len(decisions) > MAX_DECISIONS:
        oldest = next((d for d in decisions if not d.is_manual), None)
        decisions = tuple(d for d in decisions if d is not oldest)
    return with_current_link(replace(record, decisions=decisions))
