"""Conversion of stored records into messages of the contract."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, zip_longest
from typing import Final

from footfall.event.v1 import event_pb2
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import contact_pb2, identity_pb2, identity_service_pb2, redirect_pb2, visitor_pb2
from footfall_eventlog.devices import DAY_MS, DeviceDay
from footfall_eventlog.identity_policy import LinkPolicy
from footfall_eventlog.match_keys import MatchKey, Rule, rule_and_text
from footfall_timeline import Attribution, State
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_identity.contact_record import ContactRecord, ContactResult
from footfall_identity.generic_values import GenericValue
from footfall_identity.identity_record import (
    ORDER_KEY_TIME_DIGITS,
    Decision,
    IdentityRecord,
    profile_json,
    text_value,
)
from footfall_identity.known_contact import NO_CONTACT, KnownContact
from footfall_identity.matching import ATTRIBUTES, MatchResult, Status, UnusedKey, UnusedReason
from footfall_identity.redirects import Names, Redirect, RedirectDecision
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_counts import Minute, StateCounts

ATTRIBUTE_CODES: Final = {
    "EmailAddress": contact_pb2.LINK_ATTRIBUTE_EMAIL_ADDRESS,
    "PhoneNumber": contact_pb2.LINK_ATTRIBUTE_PHONE_NUMBER,
    "FirstName": contact_pb2.LINK_ATTRIBUTE_FIRST_NAME,
    "LastName": contact_pb2.LINK_ATTRIBUTE_LAST_NAME,
}
"""The value of LinkAttribute by the name of an attribute."""


def timestamp(milliseconds: int) -> Timestamp:
    """Convert milliseconds since the epoch."""
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


def state(of: State) -> visitor_pb2.VisitorState.ValueType:
    """Convert a state; the numbers are the same."""
    return visitor_pb2.VisitorState.ValueType(of)


def visitor_count(site: str, counts: StateCounts) -> visitor_pb2.VisitorCount:
    """Convert the numbers of visitors of a site; "": of several."""
    return visitor_pb2.VisitorCount(
        site=site,
        anonymous_count=counts.anonymous,
        recognized_count=counts.recognized,
        authenticated_count=counts.authenticated,
    )


def visitor_series(site: str, minutes: Iterable[Minute]) -> visitor_pb2.VisitorSeries:
    """Convert the minutes of a site; "": of several together."""
    return visitor_pb2.VisitorSeries(
        site=site,
        minutes=[
            visitor_pb2.VisitorMinute(
                start_time=timestamp(start_ms),
                anonymous_count=counts.anonymous,
                recognized_count=counts.recognized,
                authenticated_count=counts.authenticated,
            )
            for start_ms, counts in minutes
        ],
    )


def visitor(
    record: VisitRecord, contacts: Mapping[str, KnownContact], at: Attribution | None = None
) -> visitor_pb2.Visitor:
    """Convert the live state of a visit, now or with the attribution `at`; `contacts` are those by identity."""
    attribution = at or record.visit_state.attribution
    contact = contacts.get(attribution.identity, NO_CONTACT)
    return visitor_pb2.Visitor(
        visit_id=record.shown_id,
        global_visit_id=record.global_visit_id,
        site=record.site,
        state=state(attribution.state),
        identity_id=attribution.identity,
        session_id=attribution.session_id,
        contact_id=contact.contact_id,
        contact_status=visitor_pb2.ContactStatus.ValueType(contact.status),
        contact_candidate_count=contact.candidate_count,
        last_event_time=timestamp(record.last_ms),
        assurance=event_pb2.Assurance.ValueType(attribution.assurance),
        start_time=timestamp(record.first_ms),
        url=record.url,
        title=record.title,
        timeline_truncated=record.is_truncated,
        presence=visitor_pb2.VisitorPresence.ValueType(record.presence),
        leave_time=timestamp(record.leave_ms) if record.leave_ms else None,
        open_page_count=record.open_page_count,
        page_enter_time=timestamp(record.page_enter_ms) if record.page_enter_ms else None,
        staff=record.is_staff,
        bot=record.is_bot,
        notable_events=[
            visitor_pb2.NotableEvent(event_id=one.event_id, event_name=one.name, event_time=timestamp(one.time_ms))
            for one in record.notable
        ],
    )


def past_visitor(visit: visit_pb2.Visit, contacts: Mapping[str, KnownContact]) -> visitor_pb2.Visitor:
    """Convert what history says of a visit at a moment; `contacts` are those of now, by identity."""
    contact = contacts.get(visit.identity_id, NO_CONTACT)
    return visitor_pb2.Visitor(
        visit_id=visit.visit_id,
        global_visit_id=visit.global_visit_id,
        site=visit.site,
        state=visit.state,
        identity_id=visit.identity_id,
        session_id=visit.active_session_id,
        contact_id=contact.contact_id,
        contact_status=visitor_pb2.ContactStatus.ValueType(contact.status),
        contact_candidate_count=contact.candidate_count,
        last_event_time=visit.last_event_time,
        assurance=visit.assurance,
        start_time=visit.start_time,
        timeline_truncated=visit.timeline_truncated,
        staff=visit.staff,
    )


def without_candidates(visitor: visitor_pb2.Visitor) -> None:
    """Remove from a visitor what events of other websites may say of candidates."""
    visitor.contact_candidate_count = 0
    if visitor.contact_status == visitor_pb2.CONTACT_STATUS_RECOGNIZED_ONLY:
        visitor.contact_status = visitor_pb2.CONTACT_STATUS_NONE


def identity(record: IdentityRecord, *, copy_name: bool, max_devices: int) -> identity_pb2.Identity:
    """Convert an identity. Without events that name it, it has neither times nor a scope.

    It is shared if it was used on more than `max_devices` devices on a day.
    """
    contact = KnownContact.of_record(record)
    message = identity_pb2.Identity(
        identity_id=record.identity_id,
        name=text_value(record.profile, "name") if copy_name else "",
        location=record.location,
        contact_id=record.contact_id,
        contact_status=visitor_pb2.ContactStatus.ValueType(contact.status),
        contact_candidate_count=contact.candidate_count,
        profile_json=profile_json(record),
        shared=record.is_shared(max_devices),
        device_days=map(_device_day, record.devices),
    )
    if record.newest is not None and record.first_ms is not None:
        message.visit_scope = state(record.newest.scope)
        message.last_visit_id = record.newest.shown_id
        message.create_time.CopyFrom(timestamp(record.first_ms))
        message.update_time.CopyFrom(timestamp(int(record.newest.at[:ORDER_KEY_TIME_DIGITS])))
    return message


def add_current_names(identities: Iterable[identity_pb2.Identity], names: Names) -> None:
    """Add to identities the names that they lead to."""
    for one in identities:
        if (current := names.current(one.identity_id)) != one.identity_id:
            one.current_identity_id = current


def redirect(record: Redirect) -> redirect_pb2.Redirect:
    """Convert what was decided about a name."""
    return redirect_pb2.Redirect(
        from_id=record.from_id,
        to_id=record.to_id,
        decisions=[_redirect_decision(decision) for decision in reversed(record.decisions)],
    )


def _redirect_decision(decision: RedirectDecision) -> redirect_pb2.RedirectDecision:
    return redirect_pb2.RedirectDecision(
        to_id=decision.to_id,
        actor=decision.actor,
        create_time=timestamp(decision.at_ms),
        undo_actor=decision.undone_by,
        undo_time=timestamp(decision.undone_ms) if decision.undone_ms else None,
    )


def _device_day(of: DeviceDay) -> identity_pb2.DeviceDay:
    date = datetime.fromtimestamp(of.day * DAY_MS // 1000, UTC).date().isoformat()
    return identity_pb2.DeviceDay(date=date, device_count=len(of.devices))


def contact(record: ContactRecord) -> contact_pb2.Contact:
    """Convert a contact."""
    return contact_pb2.Contact(
        contact_id=record.contact_id,
        email_addresses=record.email_addresses,
        phone_numbers=record.phone_numbers,
        first_name=record.first_name,
        last_name=record.last_name,
        title=record.title,
        create_time=timestamp(record.create_ms),
        update_time=timestamp(record.update_ms),
        etag=record.etag,
    )


def contact_outcome(result: ContactResult, record: ContactRecord | None) -> contact_pb2.ContactOutcome:
    """Convert what became of a contact of a batch."""
    if result is ContactResult.REQUEST_ID_USED:
        return invalid_contact([("request_id", "must not be that of another write")])
    is_written = result in {ContactResult.CREATED, ContactResult.CHANGED, ContactResult.UNCHANGED}
    return contact_pb2.ContactOutcome(
        result=contact_pb2.ContactResult.ValueType(result), etag=record.etag if record and is_written else ""
    )


def invalid_contact(violations: Iterable[tuple[str, str]]) -> contact_pb2.ContactOutcome:
    """Return the outcome of a contact whose fields break rules."""
    return contact_pb2.ContactOutcome(
        result=contact_pb2.CONTACT_RESULT_INVALID,
        violations=[contact_pb2.ContactViolation(field=field, rule=rule) for field, rule in violations],
    )


def contact_links(record: IdentityRecord) -> list[contact_pb2.ContactLink]:
    """Return every stored decision about an identity, newest first. Each ended when the next was made."""
    ends = [decision.at_ms for decision in record.decisions[1:]]
    links = [_contact_link(record, decision, end) for decision, end in zip_longest(record.decisions, ends)]
    return links[::-1]


def _contact_link(record: IdentityRecord, decision: Decision, end_ms: int | None) -> contact_pb2.ContactLink:
    evidence = [*_evidence(decision.rule, decision.match_key)] if decision.match_key else []
    return contact_pb2.ContactLink(
        identity_id=record.identity_id,
        contact_id=decision.contact_id,
        status=contact_pb2.LinkStatus.ValueType(decision.status),
        rule=contact_pb2.LinkRule.ValueType(decision.rule),
        candidate_contact_ids=decision.candidates,
        actor=decision.actor,
        create_time=timestamp(decision.at_ms),
        end_time=None if end_ms is None else timestamp(end_ms),
        evidence=evidence,
        assurance=min((found.assurance for found in evidence), default=event_pb2.ASSURANCE_UNSPECIFIED),
        candidate_count=decision.match_count,
        count=decision.count,
        last_time=timestamp(decision.last_ms or decision.at_ms),
        is_derived=decision.is_derived,
        unused_evidence=_unused(decision.unused),
        policy_version=decision.policy_version,
    )


def _unused(keys: Iterable[UnusedKey]) -> Iterator[contact_pb2.LinkEvidence]:
    """Convert the keys that were not used, with the reasons."""
    return chain.from_iterable(
        _evidence(one.rule, one.match_key, contact_pb2.UnusedReason.ValueType(one.reason)) for one in keys
    )


def _evidence(
    rule: Rule,
    match_key: MatchKey,
    unused: contact_pb2.UnusedReason.ValueType = contact_pb2.UNUSED_REASON_UNSPECIFIED,
) -> Iterator[contact_pb2.LinkEvidence]:
    """Yield the attributes that a rule compares, with the event that gave them."""
    for attribute in ATTRIBUTES[rule]:
        yield contact_pb2.LinkEvidence(
            visit_id=match_key.browser_visit_id or match_key.visit_id,
            event_id=match_key.at[ORDER_KEY_TIME_DIGITS:],
            attribute=attribute,
            attribute_code=ATTRIBUTE_CODES[attribute],
            assurance=event_pb2.Assurance.ValueType(match_key.assurance),
            unused_reason=unused,
        )


def link_counts(records: Iterable[IdentityRecord], *, max_devices: int) -> identity_service_pb2.CountLinksResponse:
    """Count identities by how they are linked. Shared ones were used on more than `max_devices` devices on a day."""
    named = [record for record in records if record.first_ms is not None]
    in_force = [record.decisions[-1] for record in named if record.decisions]
    return identity_service_pb2.CountLinksResponse(
        identity_count=len(named),
        linked_count=sum(one.status is Status.LINKED for one in in_force),
        ambiguous_count=sum(one.status is Status.AMBIGUOUS for one in in_force),
        generic_count=sum(
            any(unused.reason is UnusedReason.GENERIC_VALUE for unused in one.unused) for one in in_force
        ),
        shared_count=sum(record.is_shared(max_devices) for record in named),
    )


def judged_link(identity_id: str, result: MatchResult) -> contact_pb2.ContactLink:
    """Convert the link that an identity would have."""
    return contact_pb2.ContactLink(
        identity_id=identity_id,
        contact_id=result.contact_id,
        status=contact_pb2.LinkStatus.ValueType(result.status),
        rule=contact_pb2.LinkRule.ValueType(result.rule),
        candidate_count=result.candidate_count,
        unused_evidence=_unused(result.unused),
    )


def link_rules(policy: LinkPolicy) -> identity_service_pb2.LinkRules:
    """Convert what links identities."""
    keys, rules = policy.names.by_attribute, policy.rules
    return identity_service_pb2.LinkRules(
        policy_version=policy.version,
        rules=map(contact_pb2.LinkRule.ValueType, rules.order),
        max_identities_per_value=rules.max_identities_per_value,
        max_devices_per_day=rules.max_devices_per_day,
        email_keys=keys["email"],
        phone_keys=keys["phone"],
        first_name_keys=keys["firstName"],
        last_name_keys=keys["lastName"],
    )


def generic_value(value: GenericValue, identity_count: int) -> contact_pb2.GenericValue:
    """Convert a generic value, which so many identities give."""
    rule, text = rule_and_text(value.key)
    return contact_pb2.GenericValue(
        value_id=value.value_id,
        rule=contact_pb2.LinkRule.ValueType(rule),
        value=text,
        assurance=event_pb2.Assurance.ValueType(value.assurance),
        since_time=timestamp(value.since_ms) if value.since_ms else None,
        identity_count=identity_count,
        allowed=value.is_allowed,
        actor=value.actor,
        decide_time=timestamp(value.decide_ms) if value.decide_ms else None,
    )
