"""The resources of `/api/v1`. Times are milliseconds since the epoch."""

from typing import Literal

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1 import history_service_pb2, visit_pb2
from footfall.identity.v1 import contact_pb2, visitor_pb2
from msgspec import UNSET, UnsetType

from footfall_gateway.history_api import Identity, milliseconds

State = Literal["ANONYMOUS", "RECOGNIZED", "AUTHENTICATED"]
Assurance = Literal["claimed", "proven"]
LinkStatus = Literal["linked", "ambiguous", "unlinked"]
LinkRule = Literal["EmailAddress", "PhoneNumber", "FirstName+LastName", "manual"]

STATES: dict[State, visitor_pb2.VisitorState.ValueType] = {
    "ANONYMOUS": visitor_pb2.VISITOR_STATE_ANONYMOUS,
    "RECOGNIZED": visitor_pb2.VISITOR_STATE_RECOGNIZED,
    "AUTHENTICATED": visitor_pb2.VISITOR_STATE_AUTHENTICATED,
}
_STATE_NAMES = {number: name for name, number in STATES.items()}
_ASSURANCES: dict[int, Assurance] = {event_pb2.ASSURANCE_CLAIMED: "claimed", event_pb2.ASSURANCE_PROVEN: "proven"}


class Visitor(msgspec.Struct, rename="camel"):
    """The live state of a visitor."""

    visit_id: str
    global_visit_id: str | None
    site: str
    state: State
    identity_id: str | None
    session_id: str | None
    contact_id: str | None
    last_event_time: int
    url: str | None
    """The last page of the visitor."""
    title: str | None
    """The title of that page."""


class Visitors(msgspec.Struct, rename="camel"):
    """The visitors on the site now, latest activity first."""

    visitors: list[Visitor]
    next_page_token: str | None


class VisitorSnapshot(msgspec.Struct, rename="camel"):
    """The state and identity of a visitor at one time."""

    state: State
    identity_id: str | None
    session_id: str | None


class Evidence(msgspec.Struct, rename="camel"):
    """The event of a transition."""

    event_id: str
    event_name: str
    event_time: int


class Transition(msgspec.Struct, rename="camel"):
    """One transition of a visit, the rule that applied, and its effect."""

    rule: str
    effect: str
    assurance: Assurance | None
    """Whether the page claims the identity, or a token of the website's server proves it."""
    assurance_reason: str | None
    evidence: list[Evidence]
    before: VisitorSnapshot
    after: VisitorSnapshot


class Explanation(msgspec.Struct, rename="camel"):
    """The evidence for a visit's identity: its timeline, in order."""

    visit_id: str
    site: str
    state: State
    identity_id: str | None
    transitions: list[Transition]
    truncated: bool
    """The visit has had more than `MAX_TRANSITIONS_PER_VISIT` transitions; the others were ignored."""
    next_page_token: str | UnsetType = UNSET
    """Only when there are more transitions."""


class ContactBody(msgspec.Struct, rename="camel"):
    """The new values of a contact. A key that is left out becomes empty."""

    email_addresses: list[str] = []
    phone_numbers: list[str] = []
    first_name: str = ""
    last_name: str = ""
    title: str = ""


class Contact(msgspec.Struct, rename="camel"):
    """A person in the contact center's directory."""

    contact_id: str
    email_addresses: list[str]
    phone_numbers: list[str]
    first_name: str
    last_name: str
    title: str


class Person(msgspec.Struct, rename="camel"):
    """A contact with the identities linked to it, in the order of their ids, each with its visits."""

    contact: Contact
    identities: list[Identity]
    next_page_token: str | None
    """Set when there are more identities."""


class LinkBody(msgspec.Struct, rename="camel"):
    """A link to make."""

    contact_id: str
    actor: str = ""
    """The person who decides, when several people share the key. Stored with the name of the key."""


class LinkEvidence(msgspec.Struct, rename="camel"):
    """An event whose data matched a rule."""

    visit_id: str
    event_id: str
    attribute: str
    assurance: Assurance | None


class Link(msgspec.Struct, rename="camel"):
    """One decision about the contact of an identity."""

    identity_id: str
    contact_id: str | None
    status: LinkStatus
    rule: LinkRule | None
    candidate_contact_ids: list[str]
    actor: str
    create_time: int
    end_time: int | None
    evidence: list[LinkEvidence]
    assurance: Assurance | None
    """The weakest assurance in the evidence of a rule's link."""


class Links(msgspec.Struct, rename="camel"):
    """The link decisions of an identity, newest first. The one without `endTime` is in force."""

    links: list[Link]
    next_page_token: str | None


class Erased(msgspec.Struct, rename="camel"):
    """The extent of an erasure."""

    history: Literal["done", "pending"]
    """pending: history did not answer in time, and erases its data later."""
    identity_erased: bool
    """Whether the identity was stored."""
    live_visits: int
    """Live visits that named the identity."""
    links: int
    visits: int | None
    """Visits in history that named the identity; null while history is pending."""
    events: int | None
    """Events in history whose identity and content were erased, and dead letters that were removed; null: pending."""
    log_clean_time: int
    """When the event log no longer contains the person's events."""


_LINK_STATUS: dict[int, LinkStatus] = {
    contact_pb2.LINK_STATUS_LINKED: "linked",
    contact_pb2.LINK_STATUS_AMBIGUOUS: "ambiguous",
}
_LINK_RULE: dict[int, LinkRule] = {
    contact_pb2.LINK_RULE_EMAIL_ADDRESS: "EmailAddress",
    contact_pb2.LINK_RULE_PHONE_NUMBER: "PhoneNumber",
    contact_pb2.LINK_RULE_NAME: "FirstName+LastName",
    contact_pb2.LINK_RULE_MANUAL: "manual",
}


def visitor(live: visitor_pb2.Visitor) -> Visitor:
    """The resource of a live visitor."""
    return Visitor(
        visit_id=live.visit_id,
        global_visit_id=live.global_visit_id or None,
        site=live.site,
        state=state(live.state),
        identity_id=live.identity_id or None,
        session_id=live.session_id or None,
        contact_id=live.contact_id or None,
        last_event_time=milliseconds(live.last_event_time),
        url=live.url or None,
        title=live.title or None,
    )


def explanation(visit: visit_pb2.Visit, transitions: list[Transition], next_page_token: str) -> Explanation:
    """The resource of an explained visit, or of one page of it."""
    return Explanation(
        visit_id=visit.visit_id,
        site=visit.site,
        state=state(visit.state),
        identity_id=visit.identity_id or None,
        transitions=transitions,
        truncated=visit.timeline_truncated,
        next_page_token=next_page_token or UNSET,
    )


def transitions(response: history_service_pb2.ExplainVisitResponse) -> list[Transition]:
    """The transitions of one page of an explained visit."""
    return [_transition(step) for step in response.explanations]


def contact(stored: contact_pb2.Contact) -> Contact:
    """The resource of a contact."""
    return Contact(
        contact_id=stored.contact_id,
        email_addresses=list(stored.email_addresses),
        phone_numbers=list(stored.phone_numbers),
        first_name=stored.first_name,
        last_name=stored.last_name,
        title=stored.title,
    )


def link(made: contact_pb2.ContactLink) -> Link:
    """The resource of a link."""
    return Link(
        identity_id=made.identity_id,
        contact_id=made.contact_id or None,
        status=_LINK_STATUS.get(made.status, "unlinked"),
        rule=_LINK_RULE.get(made.rule),
        candidate_contact_ids=list(made.candidate_contact_ids),
        actor=made.actor,
        create_time=milliseconds(made.create_time),
        end_time=milliseconds(made.end_time) if made.HasField("end_time") else None,
        evidence=[
            LinkEvidence(found.visit_id, found.event_id, found.attribute, assurance(found.assurance))
            for found in made.evidence
        ],
        assurance=assurance(made.assurance),
    )


def assurance(number: event_pb2.Assurance.ValueType) -> Assurance | None:
    """The name of an assurance in the API; None for an event that is not a transition."""
    return _ASSURANCES.get(number)


def _transition(step: visit_pb2.Explanation) -> Transition:
    return Transition(
        rule=step.rule,
        effect=step.effect,
        assurance=assurance(step.assurance),
        assurance_reason=step.assurance_reason or None,
        evidence=[Evidence(step.event_id, step.event_name, milliseconds(step.event_time))],
        before=visitor_snapshot(step.before),
        after=visitor_snapshot(step.after),
    )


def visitor_snapshot(stamp: visit_pb2.Stamp) -> VisitorSnapshot:
    """The resource of the attribution of an event."""
    return VisitorSnapshot(state(stamp.state), stamp.identity_id or None, stamp.session_id or None)


def state(number: visitor_pb2.VisitorState.ValueType) -> State:
    """The name of a state in the API."""
    return _STATE_NAMES.get(number, "ANONYMOUS")
