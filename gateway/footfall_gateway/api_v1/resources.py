"""Turns what identity and history answer into the resources of `/api/v1`. Times are milliseconds since the epoch."""

from typing import Literal

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1 import history_service_pb2, visit_pb2
from footfall.identity.v1 import contact_pb2, visitor_pb2
from msgspec import UNSET, UnsetType

from footfall_gateway.history_api import Identity, milliseconds

State = Literal["ANONYMOUS", "RECOGNIZED", "AUTHENTICATED"]
Assurance = Literal["claimed", "proven"]

STATES: dict[State, visitor_pb2.VisitorState.ValueType] = {
    "ANONYMOUS": visitor_pb2.VISITOR_STATE_ANONYMOUS,
    "RECOGNIZED": visitor_pb2.VISITOR_STATE_RECOGNIZED,
    "AUTHENTICATED": visitor_pb2.VISITOR_STATE_AUTHENTICATED,
}
_STATE_NAMES = {number: name for name, number in STATES.items()}
_ASSURANCES: dict[int, Assurance] = {event_pb2.ASSURANCE_CLAIMED: "claimed", event_pb2.ASSURANCE_PROVEN: "proven"}


class Visitor(msgspec.Struct, rename="camel"):
    """Who a visitor is, live."""

    visit_id: str
    global_visit_id: str | None
    site: str
    state: State
    identity_id: str | None
    session_id: str | None
    contact_id: str | None
    last_event_time: int
    url: str | None
    """The page the visitor was on last."""
    title: str | None
    """Its title."""


class Visitors(msgspec.Struct, rename="camel"):
    """Who is on the site now, latest activity first."""

    visitors: list[Visitor]
    next_page_token: str | None


class Moment(msgspec.Struct, rename="camel"):
    """Who the visitor was before or after a transition."""

    state: State
    identity_id: str | None
    session_id: str | None


class Evidence(msgspec.Struct, rename="camel"):
    """The event a transition rests on."""

    event_id: str
    event_name: str
    event_time: int


class Transition(msgspec.Struct, rename="camel"):
    """One identifying event of a visit, the rule it fell under, and what it changed."""

    rule: str
    effect: str
    assurance: Assurance | None
    """How far the identification can be trusted: the page says so, or the website's server signed it."""
    assurance_reason: str | None
    evidence: list[Evidence]
    before: Moment
    after: Moment


class Explanation(msgspec.Struct, rename="camel"):
    """Why a visit's visitor is who we say: its timeline, in order."""

    visit_id: str
    site: str
    state: State
    identity_id: str | None
    transitions: list[Transition]
    truncated: bool
    """The visit has had more transitions than are kept (`VISIT_TRANSITIONS`): those beyond do not count."""
    next_page_token: str | UnsetType = UNSET
    """Only when there are more transitions."""


class ContactBody(msgspec.Struct, rename="camel"):
    """A contact as given: what is left out is emptied."""

    email_addresses: list[str] = []
    phone_numbers: list[str] = []
    first_name: str = ""
    last_name: str = ""
    title: str = ""


class Contact(msgspec.Struct, rename="camel"):
    """A person as the contact center knows them."""

    contact_id: str
    email_addresses: list[str]
    phone_numbers: list[str]
    first_name: str
    last_name: str
    title: str


class Person(msgspec.Struct, rename="camel"):
    """A contact with the identities linked to it, by id, each with its visits."""

    contact: Contact
    identities: list[Identity]
    next_page_token: str | None
    """When there are more identities than `page_size`."""


class LinkBody(msgspec.Struct, rename="camel"):
    """A link to make."""

    contact_id: str
    actor: str = ""
    """Who decides, when the key is shared by several people; kept beside the name of the key."""


class LinkEvidence(msgspec.Struct, rename="camel"):
    """An event whose data a rule matched."""

    visit_id: str
    event_id: str
    attribute: str
    assurance: Assurance | None


class Link(msgspec.Struct, rename="camel"):
    """One decision about which contact an identity is."""

    identity_id: str
    contact_id: str | None
    status: Literal["linked", "ambiguous", "unlinked"]
    rule: Literal["EmailAddress", "PhoneNumber", "FirstName+LastName", "manual"] | None
    candidate_contact_ids: list[str]
    actor: str
    create_time: int
    end_time: int | None
    evidence: list[LinkEvidence]
    assurance: Assurance | None
    """How far a rule's link can be trusted: as far as its weakest evidence."""


class Links(msgspec.Struct, rename="camel"):
    """Every decision about an identity, newest first; the one without `endTime` is in force."""

    links: list[Link]
    next_page_token: str | None


class Erased(msgspec.Struct, rename="camel"):
    """What was erased, and whether that is all."""

    history: Literal["done", "pending"]
    """pending: history did not answer in time. It erases the person all the same, from its record in the log."""
    identity_erased: bool
    """Whether an identity of this name was stored."""
    live_visits: int
    """Visits whose live timeline named it."""
    links: int
    visits: int | None
    """Visits in history whose timeline named it; null while history is pending."""
    events: int | None
    """Events in history that lost identity and content, and dead letters that were removed; likewise."""
    log_clean_time: int
    """When the event log itself holds nothing of the person any more."""


_LINK_STATUS: dict[int, Literal["linked", "ambiguous", "unlinked"]] = {
    contact_pb2.LINK_STATUS_LINKED: "linked",
    contact_pb2.LINK_STATUS_AMBIGUOUS: "ambiguous",
}
_LINK_RULE: dict[int, Literal["EmailAddress", "PhoneNumber", "FirstName+LastName", "manual"]] = {
    contact_pb2.LINK_RULE_EMAIL_ADDRESS: "EmailAddress",
    contact_pb2.LINK_RULE_PHONE_NUMBER: "PhoneNumber",
    contact_pb2.LINK_RULE_NAME: "FirstName+LastName",
    contact_pb2.LINK_RULE_MANUAL: "manual",
}


def visitor(live: visitor_pb2.Visitor) -> Visitor:
    """A visitor as the API answers it."""
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
    """An explained visit, or a page of it, as the API answers it."""
    return Explanation(
        visit_id=visit.visit_id,
        site=visit.site,
        state=state(visit.state),
        identity_id=visit.identity_id or None,
        transitions=transitions,
        truncated=visit.timeline_truncated,
        next_page_token=next_page_token or UNSET,
    )


def transitions(answer: history_service_pb2.ExplainVisitResponse) -> list[Transition]:
    """The transitions of one page, as the API answers them."""
    return [_transition(step) for step in answer.explanations]


def contact(stored: contact_pb2.Contact) -> Contact:
    """A contact as the API answers it."""
    return Contact(
        contact_id=stored.contact_id,
        email_addresses=list(stored.email_addresses),
        phone_numbers=list(stored.phone_numbers),
        first_name=stored.first_name,
        last_name=stored.last_name,
        title=stored.title,
    )


def link(made: contact_pb2.ContactLink) -> Link:
    """A link as the API answers it."""
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
        assurance=_ASSURANCES.get(made.assurance),
    )


def assurance(number: event_pb2.Assurance.ValueType) -> Assurance | None:
    """How far an identification can be trusted, by its name in the API; None for what identifies nobody."""
    return _ASSURANCES.get(number)


def _transition(step: visit_pb2.Explanation) -> Transition:
    return Transition(
        rule=step.rule,
        effect=step.effect,
        assurance=assurance(step.assurance),
        assurance_reason=step.assurance_reason or None,
        evidence=[Evidence(step.event_id, step.event_name, milliseconds(step.event_time))],
        before=moment(step.before),
        after=moment(step.after),
    )


def moment(stamp: visit_pb2.Stamp) -> Moment:
    """Who a visitor was, as the API answers it."""
    return Moment(state(stamp.state), stamp.identity_id or None, stamp.session_id or None)


def state(number: visitor_pb2.VisitorState.ValueType) -> State:
    """A state by its name in the API."""
    return _STATE_NAMES.get(number, "ANONYMOUS")
