"""Conversion of stored records into messages of the contract."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Final

from footfall.event.v1 import event_pb2
from footfall.identity.v1 import contact_pb2, identity_pb2, visitor_pb2
from footfall_timeline import Attribution, State
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_identity.contact_record import ContactRecord
from footfall_identity.identity_record import (
    ORDER_KEY_TIME_DIGITS,
    Decision,
    IdentityRecord,
    profile_json,
    text_value,
)
from footfall_identity.matching import ATTRIBUTES
from footfall_identity.visit_record import VisitRecord

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


def visitor(record: VisitRecord, contact_ids: Mapping[str, str], at: Attribution | None = None) -> visitor_pb2.Visitor:
    """Convert the live state of a visit, now or with the attribution `at`; `contact_ids` are contacts by identity."""
    attribution = at or record.visit_state.attribution
    return visitor_pb2.Visitor(
        visit_id=record.shown_id,
        global_visit_id=record.global_visit_id,
        site=record.site,
        state=state(attribution.state),
        identity_id=attribution.identity,
        session_id=attribution.session_id,
        contact_id=contact_ids.get(attribution.identity, ""),
        last_event_time=timestamp(record.last_ms),
        assurance=event_pb2.Assurance.ValueType(attribution.assurance),
        start_time=timestamp(record.first_ms),
        url=record.url,
        title=record.title,
        timeline_truncated=record.is_truncated,
    )


def identity(record: IdentityRecord, *, copy_name: bool) -> identity_pb2.Identity:
    """Convert an identity. Without events that name it, it has neither times nor a scope."""
    message = identity_pb2.Identity(
        identity_id=record.identity_id,
        name=text_value(record.profile, "name") if copy_name else "",
        location=record.location,
        contact_id=record.contact_id,
        profile_json=profile_json(record),
    )
    if record.newest is not None and record.first_ms is not None:
        message.visit_scope = state(record.newest.scope)
        message.last_visit_id = record.newest.shown_id
        message.create_time.CopyFrom(timestamp(record.first_ms))
        message.update_time.CopyFrom(timestamp(int(record.newest.at[:ORDER_KEY_TIME_DIGITS])))
    return message


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
    )


def contact_links(record: IdentityRecord) -> list[contact_pb2.ContactLink]:
    """Return every stored decision about an identity, newest first. Each ended when the next was made."""
    ends = [decision.at_ms for decision in record.decisions[1:]]
    links = [_contact_link(record, decision, end) for decision, end in zip_longest(record.decisions, ends)]
    return links[::-1]


def _contact_link(record: IdentityRecord, decision: Decision, end_ms: int | None) -> contact_pb2.ContactLink:
    evidence = []
    if decision.match_key is not None:
        evidence = [
            contact_pb2.LinkEvidence(
                visit_id=decision.match_key.browser_visit_id or decision.match_key.visit_id,
                event_id=decision.match_key.at[ORDER_KEY_TIME_DIGITS:],
                attribute=attribute,
                attribute_code=ATTRIBUTE_CODES[attribute],
                assurance=event_pb2.Assurance.ValueType(decision.match_key.assurance),
            )
            for attribute in ATTRIBUTES[decision.rule]
        ]
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
    )
