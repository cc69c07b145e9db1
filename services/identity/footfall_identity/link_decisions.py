"""The decisions about the contact of an identity: by rules and manual, newest last."""

from msgspec.structs import replace

from footfall_identity.identity_record import Decision, IdentityRecord, with_current_link
from footfall_identity.matching import MatchResult, Rule, Status

MAX_DECISIONS = 1_000
"""Beyond this number, the oldest decision by a rule is dropped: the number of sign-ins has no limit."""

RULE_ACTOR = "rule"


def ruled_out_contacts(record: IdentityRecord) -> set[str]:
    """Return the contacts that have been unlinked manually and not linked manually since."""
    found: set[str] = set()
    for decision in record.decisions:
        if decision.rule is Rule.MANUAL:
            found |= {decision.refused_id} - {""}
            found.discard(decision.contact_id)
    return found


def with_match_result(record: IdentityRecord, result: MatchResult, now_ms: int) -> IdentityRecord:
    """Return the record with the result of the rules in force. The same result as before adds no decision."""
    record = replace(record, is_due=False)
    if _is_in_force(record, result):
        return record
    actor = RULE_ACTOR
    if result.rule is Rule.MANUAL:  # the manually linked contact exists again
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


def _is_in_force(record: IdentityRecord, result: MatchResult) -> bool:
    if not record.decisions:
        return result.status is Status.UNLINKED
    last = record.decisions[-1]
    if result.status is Status.UNLINKED:
        return last.status is Status.UNLINKED
    known = (last.status, last.rule, last.contact_id, last.candidates, last.match_key and last.match_key.assurance)
    assurance = result.match_key and result.match_key.assurance
    return known == (result.status, result.rule, result.contact_id, result.candidates, assurance)


def linked_manually(record: IdentityRecord, contact_id: str, actor: str, now_ms: int) -> IdentityRecord:
    """Return the record linked to a contact manually; unchanged if that is the last manual decision."""
    if record.by_hand == contact_id:
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
        oldest = next((d for d in decisions if d.rule is not Rule.MANUAL), None)
        decisions = tuple(d for d in decisions if d is not oldest)
    return with_current_link(replace(record, decisions=decisions))
