"""Turns verdicts of rules and choices made by hand into the decisions kept of an identity."""

from msgspec.structs import replace

from footfall_identity.identity_record import Decision, IdentityRecord, with_current_link
from footfall_identity.matching import MatchResult, Rule, Status

MAX_DECISIONS = 1_000
"""Beyond it the oldest ones made by rules are dropped: a page that signs in with ever other data must have a bound."""

RULE_ACTOR = "rule"


def ruled_out_contacts(record: IdentityRecord) -> set[str]:
    """The contacts that somebody has ruled out and not chosen since."""
    ruled_out: set[str] = set()
    for decision in record.decisions:
        if decision.rule is Rule.MANUAL:
            ruled_out |= {decision.refused_id} - {""}
            ruled_out.discard(decision.contact_id)
    return ruled_out


def with_match_result(record: IdentityRecord, result: MatchResult, now_ms: int) -> IdentityRecord:
    """The record with the match_contact in force. A match_contact that stands already is no new decision."""
    record = replace(record, is_due=False)
    if _is_standing(record, result):
        return record
    actor = RULE_ACTOR
    if result.rule is Rule.MANUAL:  # the contact chosen by hand is back
        actor = next(d.actor for d in reversed(record.decisions) if d.rule is Rule.MANUAL)
    decision = Decision(
        at_ms=now_ms,
        status=result.status,
        rule=result.rule,
        actor=actor,
        contact_id=result.contact_id,
        candidates=result.candidates,
        match_key=result.match_key,
    )
    return _with(record, decision)


def _is_standing(record: IdentityRecord, result: MatchResult) -> bool:
    if not record.decisions:
        return result.status is Status.UNLINKED
    last = record.decisions[-1]
    if result.status is Status.UNLINKED:
        return last.status is Status.UNLINKED
    known = (last.status, last.rule, last.contact_id, last.candidates, last.match_key and last.match_key.assurance)
    sure = result.match_key and result.match_key.assurance
    return known == (result.status, result.rule, result.contact_id, result.candidates, sure)


def linked_manually(record: IdentityRecord, contact_id: str, actor: str, now_ms: int) -> IdentityRecord:
    """The record with a contact chosen; unchanged when that choice stands."""
    if record.by_hand == contact_id:
        return record
    decision = Decision(at_ms=now_ms, status=Status.LINKED, rule=Rule.MANUAL, actor=actor, contact_id=contact_id)
    return replace(_with(record, decision), is_due=True)


def unlinked_manually(record: IdentityRecord, actor: str, now_ms: int) -> IdentityRecord:
    """The record with its contact ruled out; unchanged when it is linked to none."""
    if not record.contact_id:
        return record
    decision = Decision(
        at_ms=now_ms, status=Status.UNLINKED, rule=Rule.MANUAL, actor=actor, refused_id=record.contact_id
    )
    return replace(_with(record, decision), is_due=True)


def _with(record: IdentityRecord, decision: Decision) -> IdentityRecord:
    decisions = (*record.decisions, decision)
    if len(decisions) > MAX_DECISIONS:
        oldest = next((d for d in decisions if d.rule is not Rule.MANUAL), None)
        decisions = tuple(d for d in decisions if d is not oldest)
    return with_current_link(replace(record, decisions=decisions))
