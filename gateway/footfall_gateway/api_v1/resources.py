"""The resources of `/api/v1`. Times are milliseconds since the epoch."""

from typing import Annotated, Final, Literal

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1 import history_service_pb2, visit_pb2
from footfall.identity.v1 import contact_pb2, visitor_pb2
from msgspec import UNSET, Meta, UnsetType

from footfall_gateway.fields import (
    ContactId,
    EventId,
    GlobalVisitId,
    IdentityId,
    NextPageToken,
    PageTitle,
    PageUrl,
    SiteName,
    Time,
    Uuid,
    VisitId,
)
from footfall_gateway.history_api import Identity, milliseconds

State = Literal["ANONYMOUS", "RECOGNIZED", "AUTHENTICATED"]
Assurance = Literal["claimed", "proven"]
LinkStatus = Literal["linked", "ambiguous", "unlinked"]
_ASSURANCE: Final = Meta(
    description="`proven`: a token of the website's server proves it. `claimed`: the page says it. null: a SignOut."
)
LinkRule = Literal["EmailAddress", "PhoneNumber", "FirstName+LastName", "manual"]

STATES: dict[State, visitor_pb2.VisitorState.ValueType] = {
    "ANONYMOUS": visitor_pb2.VISITOR_STATE_ANONYMOUS,
    "RECOGNIZED": visitor_pb2.VISITOR_STATE_RECOGNIZED,
    "AUTHENTICATED": visitor_pb2.VISITOR_STATE_AUTHENTICATED,
}
_STATE_NAMES = {number: name for name, number in STATES.items()}
_ASSURANCES: dict[int, Assurance] = {event_pb2.ASSURANCE_CLAIMED: "claimed", event_pb2.ASSURANCE_PROVEN: "proven"}


VisitorState = Annotated[
    State,
    Meta(
        description="`AUTHENTICATED`: signed in. `RECOGNIZED`: named by the website, but not or no longer signed in. "
        "`ANONYMOUS`: not named."
    ),
]
OwnIdentityId = Annotated[IdentityId | None, Meta(description="The identity; null: the visitor is anonymous.")]
OpenSessionId = Annotated[Uuid | None, Meta(description="The open session; null unless `AUTHENTICATED`.")]
AssuranceReason = Annotated[
    str, Meta(description="Why the assurance is what it is, for instance `token_valid` or `no_key`.")
]
Name = Annotated[str, Meta(extra_json_schema={"maxLength": 256})]
EmailAddresses = Annotated[
    list[str],
    Meta(description="E-mail addresses. Compared regardless of case.", extra_json_schema={"maxItems": 32}),
]
PhoneNumbers = Annotated[
    list[str],
    Meta(
        description="Telephone numbers, with `+` and country code unless `IDENTITY_PHONE_REGION` is set.",
        extra_json_schema={"maxItems": 32},
    ),
]
FirstName = Annotated[Name, Meta(description="The first name; empty: not known.")]
LastName = Annotated[Name, Meta(description="The last name; empty: not known.")]
Title = Annotated[Name, Meta(description="The title, for instance `Dr.`; empty: none.")]


class Visitor(msgspec.Struct, rename="camel"):
    """The live state of a visitor."""

    visit_id: VisitId
    global_visit_id: GlobalVisitId | None
    site: SiteName
    state: VisitorState
    identity_id: OwnIdentityId
    session_id: OpenSessionId
    contact_id: Annotated[
        ContactId | None, Meta(description="The contact that the identity is linked to; null: none, or not known now.")
    ]
    last_event_time: Annotated[Time, Meta(description="When the last event of the visit happened (ms).")]
    url: Annotated[PageUrl | None, Meta(description="The address of the visitor's last page; null: not known.")]
    title: Annotated[PageTitle | None, Meta(description="The title of that page; null: not known.")]


class Visitors(msgspec.Struct, rename="camel"):
    """The visitors on the site now, latest activity first."""

    visitors: Annotated[list[Visitor], Meta(description="One page of visitors. May be empty although more follow.")]
    next_page_token: NextPageToken | None


class VisitorSnapshot(msgspec.Struct, rename="camel"):
    """The state and identity of a visitor at one time."""

    state: VisitorState
    identity_id: OwnIdentityId
    session_id: OpenSessionId


class Evidence(msgspec.Struct, rename="camel"):
    """The event of a transition."""

    event_id: EventId
    event_name: Annotated[
        str, Meta(description="`SignIn`, `UserInfo` or `SignOut`; empty: not stored yet, or no longer.")
    ]
    event_time: Annotated[Time, Meta(description="When the event happened, with the clock corrected (ms).")]


class Transition(msgspec.Struct, rename="camel"):
    """One transition of a visit, the rule that applied, and its effect."""

    rule: Annotated[str, Meta(description="The rule that applied, for instance `sign_in.opens_session`.")]
    effect: Annotated[str, Meta(description="What changed, or why nothing changed, in English. For people.")]
    assurance: Annotated[Assurance | None, _ASSURANCE]
    assurance_reason: Annotated[AssuranceReason | None, Meta(description="Why; null for a SignOut.")]
    evidence: Annotated[list[Evidence], Meta(description="The event that is the evidence.", min_length=1, max_length=1)]
    before: Annotated[VisitorSnapshot, Meta(description="The visitor before the transition.")]
    after: Annotated[VisitorSnapshot, Meta(description="The visitor after the transition.")]


class Explanation(msgspec.Struct, rename="camel"):
    """The evidence for a visit's identity: its timeline, in order."""

    visit_id: VisitId
    site: SiteName
    state: VisitorState
    identity_id: OwnIdentityId
    transitions: Annotated[list[Transition], Meta(description="The transitions, in order. Empty: none.")]
    truncated: Annotated[
        bool,
        Meta(
            description="Whether the visit has had more than `MAX_TRANSITIONS_PER_VISIT` transitions. Only the "
            "earliest count."
        ),
    ]
    next_page_token: (
        Annotated[str, Meta(description="Where the next page begins, for `page_token`; absent on the last one.")]
        | UnsetType
    ) = UNSET


class ContactBody(msgspec.Struct, rename="camel"):
    """The new values of a contact. A key that is left out becomes empty."""

    email_addresses: EmailAddresses = []
    phone_numbers: PhoneNumbers = []
    first_name: FirstName = ""
    last_name: LastName = ""
    title: Title = ""


class Contact(msgspec.Struct, rename="camel"):
    """A person in the contact center's directory."""

    contact_id: ContactId
    email_addresses: EmailAddresses
    phone_numbers: PhoneNumbers
    first_name: FirstName
    last_name: LastName
    title: Title


class Person(msgspec.Struct, rename="camel"):
    """A contact with the identities linked to it, in the order of their ids, each with its visits."""

    contact: Annotated[Contact, Meta(description="The contact.")]
    identities: Annotated[list[Identity], Meta(description="The identities linked to the contact, with `visits`.")]
    next_page_token: NextPageToken | None


class LinkBody(msgspec.Struct, rename="camel"):
    """A link to make."""

    contact_id: ContactId
    actor: Annotated[
        str, Meta(description="The person who decides, when several share the key. Stored after the name of the key.")
    ] = ""


class LinkEvidence(msgspec.Struct, rename="camel"):
    """An event whose data matched a rule."""

    visit_id: VisitId
    event_id: EventId
    attribute: Annotated[
        str, Meta(description="What matched: `EmailAddress`, `PhoneNumber`, `FirstName` or `LastName`.")
    ]
    assurance: Annotated[Assurance | None, _ASSURANCE]


class Link(msgspec.Struct, rename="camel"):
    """One decision about the contact of an identity."""

    identity_id: IdentityId
    contact_id: Annotated[ContactId | None, Meta(description="The contact; null unless `linked`.")]
    status: Annotated[
        LinkStatus,
        Meta(
            description="`linked`: to one contact. `ambiguous`: a rule matches several contacts. `unlinked`: no rule "
            "matches, or a person has undone the link."
        ),
    ]
    rule: Annotated[
        LinkRule | None, Meta(description="What decided; `manual`: a person. null: no rule matches any contact.")
    ]
    candidate_contact_ids: Annotated[
        list[str],
        Meta(description="The contacts that match, when `ambiguous`; else empty.", extra_json_schema={"maxItems": 100}),
    ]
    actor: Annotated[Name, Meta(description="Who decided: `rule`, or the name of the key, and the person after `/`.")]
    create_time: Annotated[Time, Meta(description="When it was decided (ms).")]
    end_time: Annotated[Time | None, Meta(description="When the next decision replaced it (ms); null: it is in force.")]
    evidence: Annotated[
        list[LinkEvidence], Meta(description="The events whose data matched. Empty for `manual` and `unlinked`.")
    ]
    assurance: Annotated[
        Assurance | None, Meta(description="The weakest assurance in the evidence; null without evidence.")
    ]


class Links(msgspec.Struct, rename="camel"):
    """The link decisions of an identity, newest first. The one whose `endTime` is null is in force."""

    links: Annotated[list[Link], Meta(description="One page of decisions.")]
    next_page_token: NextPageToken | None


class Erased(msgspec.Struct, rename="camel"):
    """The extent of an erasure."""

    history: Annotated[
        Literal["done", "pending"],
        Meta(description="`pending`: history did not answer in time, and erases its data later."),
    ]
    identity_erased: Annotated[bool, Meta(description="Whether the identity was stored.")]
    live_visits: Annotated[int, Meta(description="The number of live visits that named the identity.", ge=0)]
    links: Annotated[int, Meta(description="The number of link decisions erased.", ge=0)]
    visits: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="The number of visits in history that named the identity; null while history is pending."),
    ]
    events: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="The number of events in history whose identity and content were erased, and of dead letters "
            "that were removed; null while history is pending."
        ),
    ]
    log_clean_time: Annotated[
        Time,
        Meta(description="When the event log no longer contains the person's events, if history has read it (ms)."),
    ]


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
