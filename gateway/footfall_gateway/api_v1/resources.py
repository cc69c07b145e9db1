"""The resources of `/api/v1`. Times are milliseconds since the epoch."""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from footfall.event.v1 import event_pb2, interaction_pb2
from footfall.history.v1 import history_service_pb2, visit_pb2
from footfall.history.v1.interaction_pb2 import Interaction as StoredInteraction
from footfall.identity.v1 import contact_pb2, identity_pb2, redirect_pb2, visitor_pb2
from msgspec import UNSET, Meta, UnsetType

from footfall_gateway.backends import http_name
from footfall_gateway.fields import (
    ContactId,
    EventId,
    GlobalVisitId,
    IdentityId,
    JsonObject,
    NextPageToken,
    PageUrl,
    SiteName,
    Time,
    Uuid,
    VisitId,
)
from footfall_gateway.history_api import Identity, milliseconds

State = Literal["ANONYMOUS", "RECOGNIZED", "AUTHENTICATED"]
Presence = Literal["PRESENT", "LEFT", "ENDED"]
StaffFilter = Literal["exclude", "include", "only"]
ContactStatus = Literal["NONE", "LINKED", "AMBIGUOUS", "UNKNOWN", "RECOGNIZED_ONLY"]
Assurance = Literal["claimed", "proven"]
LinkStatus = Literal["linked", "ambiguous", "unlinked"]
ContactResult = Literal["created", "changed", "unchanged", "deleted", "invalid", "etag_mismatch", "not_found"]
_MAX_ACTOR_LENGTH: Final = 256
_ASSURANCE: Final = Meta(
    description="`proven`: a token of the website's server proves it. `claimed`: the page says it. null: a SignOut."
)
Channel = Literal["VOICE", "CHAT", "EMAIL", "CALLBACK", "MESSAGE", "COBROWSE", "OTHER"]
LinkRule = Literal["EmailAddress", "PhoneNumber", "FirstName+LastName", "manual"]
UnusedReason = Literal["generic_value", "shared_identity"]

STATES: dict[State, visitor_pb2.VisitorState.ValueType] = {
    "ANONYMOUS": visitor_pb2.VISITOR_STATE_ANONYMOUS,
    "RECOGNIZED": visitor_pb2.VISITOR_STATE_RECOGNIZED,
    "AUTHENTICATED": visitor_pb2.VISITOR_STATE_AUTHENTICATED,
}
_CONTACT_STATUS_NAMES: dict[int, ContactStatus] = {
    visitor_pb2.CONTACT_STATUS_NONE: "NONE",
    visitor_pb2.CONTACT_STATUS_LINKED: "LINKED",
    visitor_pb2.CONTACT_STATUS_AMBIGUOUS: "AMBIGUOUS",
    visitor_pb2.CONTACT_STATUS_UNKNOWN: "UNKNOWN",
    visitor_pb2.CONTACT_STATUS_RECOGNIZED_ONLY: "RECOGNIZED_ONLY",
}
_STATE_NAMES = {number: name for name, number in STATES.items()}
PRESENCES: dict[Presence, visitor_pb2.VisitorPresence.ValueType] = {
    "PRESENT": visitor_pb2.VISITOR_PRESENCE_PRESENT,
    "LEFT": visitor_pb2.VISITOR_PRESENCE_LEFT,
    "ENDED": visitor_pb2.VISITOR_PRESENCE_ENDED,
}
STAFF_FILTERS: dict[StaffFilter | None, visitor_pb2.StaffFilter.ValueType] = {
    None: visitor_pb2.STAFF_FILTER_UNSPECIFIED,
    "exclude": visitor_pb2.STAFF_FILTER_EXCLUDE,
    "include": visitor_pb2.STAFF_FILTER_INCLUDE,
    "only": visitor_pb2.STAFF_FILTER_ONLY,
}
_PRESENCE_NAMES = {number: name for name, number in PRESENCES.items()}
CHANNELS: dict[Channel, interaction_pb2.InteractionChannel.ValueType] = {
    "VOICE": interaction_pb2.INTERACTION_CHANNEL_VOICE,
    "CHAT": interaction_pb2.INTERACTION_CHANNEL_CHAT,
    "EMAIL": interaction_pb2.INTERACTION_CHANNEL_EMAIL,
    "CALLBACK": interaction_pb2.INTERACTION_CHANNEL_CALLBACK,
    "MESSAGE": interaction_pb2.INTERACTION_CHANNEL_MESSAGE,
    "COBROWSE": interaction_pb2.INTERACTION_CHANNEL_COBROWSE,
    "OTHER": interaction_pb2.INTERACTION_CHANNEL_OTHER,
}
_CHANNEL_NAMES = {number: name for name, number in CHANNELS.items()}
_ASSURANCES: dict[int, Assurance] = {event_pb2.ASSURANCE_CLAIMED: "claimed", event_pb2.ASSURANCE_PROVEN: "proven"}
_IGNORED_REASONS = {
    number: name.removeprefix("IGNORED_REASON_").lower() for name, number in event_pb2.IgnoredReason.items() if number
}


VisitorState = Annotated[
    State,
    Meta(
        description="`AUTHENTICATED`: signed in. `RECOGNIZED`: named by the website, but not or no longer signed in. "
        "`ANONYMOUS`: not named."
    ),
]
OwnIdentityId = Annotated[IdentityId | None, Meta(description="The identity; null: the visitor is anonymous.")]
Staff = Annotated[
    bool, Meta(description="Whether the visit is one of staff: by its website, its network, or a key of the API.")
]
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


class NotableEvent(msgspec.Struct, rename="camel"):
    """An event that a rule of `ATTENTION_FILE` counts."""

    event_id: EventId
    event_name: Annotated[str, Meta(description="The name of the event, at most 64 characters of it.")]
    event_time: Annotated[Time, Meta(description="When it happened, with the clock corrected (ms).")]


class Visitor(msgspec.Struct, rename="camel"):
    """The live state of a visitor."""

    visit_id: VisitId
    global_visit_id: GlobalVisitId | None
    site: SiteName
    state: VisitorState
    identity_id: OwnIdentityId
    session_id: OpenSessionId
    contact_id: Annotated[
        ContactId | None, Meta(description="The contact that the identity is linked to; null unless `LINKED`.")
    ]
    contact_status: Annotated[
        ContactStatus,
        Meta(
            description="`LINKED`: to one contact. `AMBIGUOUS`: several contacts match. `RECOGNIZED_ONLY`: a UserInfo "
            "names the e-mail address of a contact, which is a candidate and no link. `NONE`: there is no contact. "
            "`UNKNOWN`: the store of contacts does not answer."
        ),
    ]
    contact_candidates: Annotated[
        int,
        Meta(
            description="How many contacts match (`AMBIGUOUS`, `RECOGNIZED_ONLY`), at most 10,000; else 0, and for "
            "keys of sites.",
            ge=0,
        ),
    ]
    last_event_time: Annotated[Time, Meta(description="When the last event of the visit happened (ms).")]
    presence: Annotated[
        Presence | None,
        Meta(
            description="`PRESENT`: a page is open, or none is known to have been closed. `LEFT`: all known pages have "
            "been closed for `IDENTITY_LEAVE_AFTER_MS`. `ENDED`: the last event is more than `VISIT_IDLE_MINUTES` ago. "
            "null: with `asOf` or `knownAt`."
        ),
    ]
    leave_time: Annotated[
        Time | None,
        Meta(
            description="When the last page was closed (`LEFT`) or the last event happened (`ENDED`) (ms); else null."
        ),
    ]
    open_page_count: Annotated[int, Meta(description="The number of open pages, as far as known.", ge=0)]
    url: Annotated[
        PageUrl | None,
        Meta(description="The address of the page that the visitor is on, or was on last; null: not known."),
    ]
    title: Annotated[
        Annotated[str, Meta(extra_json_schema={"maxLength": 256})] | None,
        Meta(description="The title of that page, truncated; null: not known, or no longer."),
    ]
    page_enter_time: Annotated[
        Time | None, Meta(description="When the visitor entered that page (ms); null: not known, or it is closed.")
    ]
    assurance: Annotated[
        Assurance | None,
        Meta(
            description="How far the identification can be trusted. `proven`: a token of the website's server proves "
            "it. `claimed`: the page says it. null: the visitor is anonymous."
        ),
    ]
    staff: Staff
    bot: Annotated[bool, Meta(description="Whether at least one event has the user agent of a known robot.")]
    notable_events: Annotated[
        list[NotableEvent],
        Meta(description="The latest events that a rule of `ATTENTION_FILE` counts, in order.", max_length=20),
    ]


class Visitors(msgspec.Struct, rename="camel"):
    """Visitors, latest start of the visit first."""

    visitors: Annotated[list[Visitor], Meta(description="One page of visitors. May be empty although more follow.")]
    next_page_token: NextPageToken | None


InteractionId = Annotated[
    str,
    Meta(
        description="The interaction, by the contact center's id. No control characters.",
        extra_json_schema={"minLength": 1, "maxLength": 128},
    ),
]


class Interaction(msgspec.Struct, rename="camel"):
    """An interaction, as the contact center has reported it: about a visit, an identity, a contact or a number."""

    interaction_id: InteractionId
    visit_id: Annotated[VisitId | None, Meta(description="The visit that it is about, or null.")]
    identity_id: Annotated[
        IdentityId | None,
        Meta(
            description="The identity that it is about. With `visitId`: the identity that the visit belonged to when "
            "the interaction began, or else the first that it named afterwards; null: the visit is anonymous."
        ),
    ]
    contact_id: Annotated[ContactId | None, Meta(description="The contact that it is about, or null.")]
    phone: Annotated[str | None, Meta(description="The telephone number that it is about, in E.164 form, or null.")]
    site: Annotated[SiteName | None, Meta(description="The website of the visit; null without a visit.")]
    channel: Annotated[Channel | None, Meta(description="The channel; null: not reported.")]
    agent: Annotated[Name, Meta(description="The agent; empty: not reported.")]
    queue: Annotated[Name, Meta(description="The queue; empty: not reported.")]
    start_time: Annotated[
        Time, Meta(description="When it began: as reported, or else the time of the first report (ms).")
    ]
    end_time: Annotated[Time | None, Meta(description="When it ended (ms); null: not reported.")]
    disposition: Annotated[Name, Meta(description="The result; empty: not reported.")]
    note: Annotated[str, Meta(description="The agent's note; empty: none.")]
    data: Annotated[JsonObject, Meta(description="Further data.")]
    update_time: Annotated[Time, Meta(description="The time of the latest report (ms).")]


class Interactions(msgspec.Struct, rename="camel"):
    """Interactions, newest first."""

    interactions: Annotated[
        list[Interaction], Meta(description="One page of interactions. May be empty although more follow.")
    ]
    next_page_token: NextPageToken | None
    other_names_unavailable: Annotated[
        bool | UnsetType,
        Meta(
            description="true: identity does not answer, so the interactions of other names of the person are missing. "
            "Else absent."
        ),
    ] = UNSET


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
    """One transition of a visit, or an event whose user id was ignored: the rule that applied, and its effect."""

    rule: Annotated[str, Meta(description="The rule that applied, for instance `sign_in.opens_session`.")]
    effect: Annotated[str, Meta(description="What changed, or why nothing changed, in English. For people.")]
    assurance: Annotated[Assurance | None, _ASSURANCE]
    assurance_reason: Annotated[
        AssuranceReason | None, Meta(description="Why; null for a SignOut and under the rule `ignored`.")
    ]
    ignored_reason: Annotated[
        str | None,
        Meta(
            description="Why the user id names no person: `blank`, `placeholder`, `template` or `empty_hash`. null "
            "unless the rule is `ignored`."
        ),
    ]
    policy_version: Annotated[
        str | None,
        Meta(
            description="The version of the identity policy that judged the event; null for a SignOut, for events from "
            "before policies, and if the event is not stored."
        ),
    ]
    warning: Annotated[
        str | None, Meta(description="What is suspicious about the identity, in English. For people. null: nothing.")
    ]
    evidence: Annotated[list[Evidence], Meta(description="The event that is the evidence.", min_length=1, max_length=1)]
    before: Annotated[VisitorSnapshot, Meta(description="The visitor before the transition.")]
    after: Annotated[VisitorSnapshot, Meta(description="The visitor after the transition.")]


class Explanation(msgspec.Struct, rename="camel"):
    """The evidence for a visit's identity: its timeline, in order."""

    visit_id: VisitId
    site: SiteName
    state: VisitorState
    identity_id: OwnIdentityId
    staff: Staff
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


class ContactPatch(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The values of a contact to change. A key that is left out stays, null empties it. A list is replaced whole."""

    email_addresses: EmailAddresses | UnsetType | None = UNSET
    phone_numbers: PhoneNumbers | UnsetType | None = UNSET
    first_name: FirstName | UnsetType | None = UNSET
    last_name: LastName | UnsetType | None = UNSET
    title: Title | UnsetType | None = UNSET


class Contact(msgspec.Struct, rename="camel"):
    """A person in the contact center's directory."""

    contact_id: ContactId
    email_addresses: EmailAddresses
    phone_numbers: PhoneNumbers
    first_name: FirstName
    last_name: LastName
    title: Title
    etag: Annotated[
        str, Meta(description="Changes with the contact. Send it in quotes as `If-Match` to write it safely.")
    ]
    redirected_from: Annotated[
        ContactId | UnsetType,
        Meta(description="The contact of the request, if it was merged into this one; absent: it is `contactId`."),
    ] = UNSET
    pending_identity_count: Annotated[
        int | UnsetType,
        Meta(
            description="How many identities have still to be linked again because contacts have changed; 1 until they "
            "are counted. 0: all links are as the contacts are now. Only in answers about one contact.",
            extra_json_schema={"minimum": 0},
        ),
    ] = UNSET


class BatchContact(ContactBody, kw_only=True, rename="camel"):
    """A contact to create or replace. A key that is left out becomes empty."""

    contact_id: ContactId
    etag: Annotated[
        str, Meta(description="The `etag` that was read: the contact is written only if it has not changed since.")
    ] = ""


class ContactsBatch(msgspec.Struct, rename="camel"):
    """Contacts to create or replace."""

    contacts: Annotated[list[BatchContact], Meta(description="The contacts.", extra_json_schema={"maxItems": 1000})]
    generation: Annotated[
        int,
        Meta(
            description="The synchronization that the batch is part of: a number greater than that of every earlier "
            "one, such as the time in seconds at which it began. 0: none.",
            ge=0,
            le=2**63 - 1,
        ),
    ] = 0


class ContactsToDelete(msgspec.Struct, rename="camel"):
    """Contacts to delete."""

    contact_ids: Annotated[list[str], Meta(description="The contacts.", extra_json_schema={"maxItems": 1000})]


class ContactViolation(msgspec.Struct):
    """A field of a contact that breaks a rule."""

    field: Annotated[str, Meta(description="The field, such as `phoneNumbers[1]`.")]
    rule: Annotated[str, Meta(description="The rule, in English.")]


class ContactOutcome(msgspec.Struct, rename="camel"):
    """What became of a contact of a batch."""

    result: Annotated[
        ContactResult,
        Meta(
            description="`invalid`: not written, because fields break rules. `etag_mismatch`: not written, because it "
            "has changed or does not exist. `not_found`: there is no such contact to delete."
        ),
    ]
    violations: Annotated[list[ContactViolation], Meta(description="The fields that break rules, when `invalid`.")]
    etag: Annotated[str | None, Meta(description="The `etag` of the contact now; null: not written, or deleted.")]


class ContactOutcomes(msgspec.Struct, rename="camel"):
    """What became of the contacts of a batch."""

    outcomes: Annotated[
        list[ContactOutcome], Meta(description="An outcome for each contact, in the order of the body.")
    ]


class SyncEnd(msgspec.Struct, rename="camel"):
    """The synchronization to end."""

    generation: Annotated[int, Meta(description="Its number, as in its batches.", ge=1, le=2**63 - 1)]
    max_deleted_percent: Annotated[
        int,
        Meta(
            description="Percentage of all contacts that may be deleted, instead of "
            "`IDENTITY_SYNC_MAX_DELETED_PERCENT`. 0: that setting.",
            ge=0,
            le=100,
        ),
    ] = 0
    validate_only: Annotated[bool, Meta(description="Only count what would be deleted.")] = False


class SyncEnded(msgspec.Struct, rename="camel"):
    """What the end of a synchronization has deleted."""

    deleted_count: Annotated[int, Meta(description="Contacts that this request has deleted.")]
    remaining_count: Annotated[
        int, Meta(description="Contacts that are still to be deleted: repeat the request until it is 0.")
    ]
    kept_count: Annotated[int, Meta(description="Contacts that stay.")]


class Contacts(msgspec.Struct, rename="camel"):
    """Contacts, in the order of their ids."""

    contacts: Annotated[list[Contact], Meta(description="One page of contacts. May be empty although more follow.")]
    next_page_token: NextPageToken | None


class Person(msgspec.Struct, rename="camel"):
    """A contact with the identities linked to it, in the order of their ids, each with its visits."""

    contact: Annotated[Contact, Meta(description="The contact.")]
    identities: Annotated[list[Identity], Meta(description="The identities linked to the contact, with `visits`.")]
    next_page_token: NextPageToken | None
    interactions: Annotated[
        list[Interaction] | None,
        Meta(
            description="The newest interactions of the person; null on pages after the first, when the contact has "
            "more than 1,000 identities, and when they cannot be read now.",
            extra_json_schema={"maxItems": 20},
        ),
    ]


Actor = Annotated[
    str, Meta(description="The person who decides, when several share the key. Stored after the name of the key.")
]


class LinkBody(msgspec.Struct, rename="camel"):
    """A link to make."""

    contact_id: ContactId
    actor: Actor = ""


class LinkEvidence(msgspec.Struct, rename="camel"):
    """An event whose data matched a rule."""

    visit_id: VisitId
    event_id: EventId
    attribute: Annotated[
        str, Meta(description="What matched: `EmailAddress`, `PhoneNumber`, `FirstName` or `LastName`.")
    ]
    assurance: Annotated[Assurance | None, _ASSURANCE]


class UnusedEvidence(LinkEvidence, rename="camel"):
    """An event whose data matched a rule that did not use it."""

    reason: Annotated[
        UnusedReason,
        Meta(
            description="`generic_value`: too many identities give the value. `shared_identity`: the identity was used "
            "on too many devices, and no token proves the value."
        ),
    ]


class DeviceDay(msgspec.Struct, rename="camel"):
    """On how many devices an identity was used on a day."""

    date: Annotated[str, Meta(description="The day in UTC.", extra_json_schema={"format": "date"})]
    device_count: Annotated[int, Meta(description="The number of devices, at most 101.", ge=0)]


DeviceDays = Annotated[
    list[DeviceDay],
    Meta(
        description="The latest days on which events have named the identity, oldest first.",
        extra_json_schema={"maxItems": 8},
    ),
]


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
    derived: Annotated[
        bool,
        Meta(
            description="With `manual`: it follows from an earlier decision, made under another name of the person, or "
            "about a contact that leads to this one or exists again."
        ),
    ]
    candidate_contact_ids: Annotated[
        list[str],
        Meta(
            description="The first contacts that match by their ids, when `ambiguous`: 50, and up to 100 in decisions "
            "of early versions. When `unlinked`, the first 50 whose e-mail address a UserInfo has named, which are "
            "only candidates. Else empty.",
            extra_json_schema={"maxItems": 100},
        ),
    ]
    candidate_count: Annotated[
        int,
        Meta(description="How many contacts match, also as candidates when `unlinked`, at most 10,000; else 0.", ge=0),
    ]
    count: Annotated[
        int,
        Meta(
            description="How often the rules came to this decision in succession, each time with other candidates; 1 "
            "without candidates.",
            ge=1,
        ),
    ]
    last_time: Annotated[Time, Meta(description="When they last did (ms).")]
    actor: Annotated[Name, Meta(description="Who decided: `rule`, or the name of the key, and the person after `/`.")]
    create_time: Annotated[Time, Meta(description="When it was decided (ms).")]
    end_time: Annotated[Time | None, Meta(description="When the next decision replaced it (ms); null: it is in force.")]
    evidence: Annotated[
        list[LinkEvidence],
        Meta(description="The events whose data matched. Empty for `manual`, and for `unlinked` without candidates."),
    ]
    assurance: Annotated[
        Assurance | None, Meta(description="The weakest assurance in the evidence; null without evidence.")
    ]
    unused_evidence: Annotated[
        list[UnusedEvidence],
        Meta(
            description="The events whose data matched too, and that rules did not use because too many share them. "
            "Empty for keys of sites."
        ),
    ]
    policy_version: Annotated[
        str | None,
        Meta(
            description="The version of the identity policy by which a rule decided so first; null for `manual`, and "
            "for decisions of early versions."
        ),
    ]


class Links(msgspec.Struct, rename="camel"):
    """The link decisions of an identity, newest first. The one whose `endTime` is null is in force."""

    links: Annotated[list[Link], Meta(description="One page of decisions.")]
    next_page_token: NextPageToken | None


class RenameBody(msgspec.Struct, rename="camel"):
    """The new name of an identity."""

    identity_id: IdentityId
    actor: Actor = ""


class MergeBody(msgspec.Struct, rename="camel"):
    """The contact that stays."""

    contact_id: ContactId
    actor: Actor = ""


class RedirectDecision(msgspec.Struct, rename="camel"):
    """A decision that one name leads to another."""

    to_id: Annotated[str, Meta(description="The name that the old name leads to.")]
    actor: Annotated[Name, Meta(description="Who decided: the name of the key, and the person after `/`.")]
    create_time: Annotated[Time, Meta(description="When it was decided (ms).")]
    undo_actor: Annotated[Name | None, Meta(description="Who undid it; null: it is in force.")]
    undo_time: Annotated[Time | None, Meta(description="When it was undone (ms); null: it is in force.")]


class Redirect(msgspec.Struct, rename="camel"):
    """Where a name leads: that of an identity that was renamed, or of a contact that was merged into another."""

    from_id: Annotated[str, Meta(description="The old name: an identity or a contact.")]
    to_id: Annotated[str | None, Meta(description="The name that it leads to; null: the last decision was undone.")]
    decisions: Annotated[
        list[RedirectDecision],
        Meta(description="The decisions about the old name, newest first.", extra_json_schema={"maxItems": 50}),
    ]


class Redirects(msgspec.Struct, rename="camel"):
    """Names about which was decided that they lead to others, in their order."""

    redirects: Annotated[list[Redirect], Meta(description="One page of names. May be empty although more follow.")]
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
    other_names: Annotated[
        list[str],
        Meta(
            description="Other names of the person, which are erased too. All counts are of all names together.",
            extra_json_schema={"maxItems": 199},
        ),
    ]
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
    interactions: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="The number of interactions removed from history; null while history is pending."),
    ]
    log_clean_time: Annotated[
        Time,
        Meta(description="When the event log no longer contains the person's events, if history has read it (ms)."),
    ]


_LINK_STATUS: dict[int, LinkStatus] = {
    contact_pb2.LINK_STATUS_LINKED: "linked",
    contact_pb2.LINK_STATUS_AMBIGUOUS: "ambiguous",
}
_CONTACT_RESULT: dict[int, ContactResult] = {
    contact_pb2.CONTACT_RESULT_CREATED: "created",
    contact_pb2.CONTACT_RESULT_CHANGED: "changed",
    contact_pb2.CONTACT_RESULT_UNCHANGED: "unchanged",
    contact_pb2.CONTACT_RESULT_DELETED: "deleted",
    contact_pb2.CONTACT_RESULT_ETAG_MISMATCH: "etag_mismatch",
    contact_pb2.CONTACT_RESULT_NOT_FOUND: "not_found",
}
_UNUSED_REASONS: dict[int, UnusedReason] = {
    contact_pb2.UNUSED_REASON_GENERIC_VALUE: "generic_value",
    contact_pb2.UNUSED_REASON_SHARED_IDENTITY: "shared_identity",
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
        contact_status=_CONTACT_STATUS_NAMES.get(live.contact_status, "UNKNOWN"),
        contact_candidates=live.contact_candidate_count,
        last_event_time=milliseconds(live.last_event_time),
        presence=_PRESENCE_NAMES.get(live.presence),
        leave_time=milliseconds(live.leave_time) if live.HasField("leave_time") else None,
        open_page_count=live.open_page_count,
        url=live.url or None,
        title=live.title or None,
        page_enter_time=milliseconds(live.page_enter_time) if live.HasField("page_enter_time") else None,
        assurance=assurance(live.assurance),
        staff=live.staff,
        bot=live.bot,
        notable_events=[
            NotableEvent(one.event_id, one.event_name, milliseconds(one.event_time)) for one in live.notable_events
        ],
    )


def explanation(visit: visit_pb2.Visit, transitions: list[Transition], next_page_token: str) -> Explanation:
    """The resource of an explained visit, or of one page of it."""
    return Explanation(
        visit_id=visit.visit_id,
        site=visit.site,
        state=state(visit.state),
        identity_id=visit.identity_id or None,
        staff=visit.staff,
        transitions=transitions,
        truncated=visit.timeline_truncated,
        next_page_token=next_page_token or UNSET,
    )


def transitions(response: history_service_pb2.ExplainVisitResponse) -> list[Transition]:
    """The transitions of one page of an explained visit."""
    return [_transition(step) for step in response.explanations]


def contact(
    stored: contact_pb2.Contact, pending_identity_count: int | UnsetType = UNSET, redirected_from: str = ""
) -> Contact:
    """The resource of a contact."""
    return Contact(
        contact_id=stored.contact_id,
        email_addresses=list(stored.email_addresses),
        phone_numbers=list(stored.phone_numbers),
        first_name=stored.first_name,
        last_name=stored.last_name,
        title=stored.title,
        etag=stored.etag,
        redirected_from=redirected_from or UNSET,
        pending_identity_count=pending_identity_count,
    )


def contact_outcomes(outcomes: Iterable[contact_pb2.ContactOutcome]) -> ContactOutcomes:
    """The resources of what became of contacts."""
    return ContactOutcomes(
        [
            ContactOutcome(
                result=_CONTACT_RESULT.get(outcome.result, "invalid"),
                violations=[ContactViolation(http_name(one.field), one.rule) for one in outcome.violations],
                etag=outcome.etag or None,
            )
            for outcome in outcomes
        ]
    )


def link(made: contact_pb2.ContactLink) -> Link:
    """The resource of a link."""
    return Link(
        identity_id=made.identity_id,
        contact_id=made.contact_id or None,
        status=_LINK_STATUS.get(made.status, "unlinked"),
        rule=link_rule(made.rule),
        derived=made.is_derived,
        candidate_contact_ids=list(made.candidate_contact_ids),
        candidate_count=made.candidate_count,
        count=made.count,
        last_time=milliseconds(made.last_time),
        actor=made.actor,
        create_time=milliseconds(made.create_time),
        end_time=milliseconds(made.end_time) if made.HasField("end_time") else None,
        evidence=[
            LinkEvidence(found.visit_id, found.event_id, found.attribute, assurance(found.assurance))
            for found in made.evidence
        ],
        assurance=assurance(made.assurance),
        unused_evidence=[
            UnusedEvidence(
                found.visit_id,
                found.event_id,
                found.attribute,
                assurance(found.assurance),
                _UNUSED_REASONS[found.unused_reason],
            )
            for found in made.unused_evidence
            if found.unused_reason in _UNUSED_REASONS
        ],
        policy_version=made.policy_version or None,
    )


def redirect(decided: redirect_pb2.Redirect) -> Redirect:
    """The resource of what was decided about a name."""
    return Redirect(
        decided.from_id,
        decided.to_id or None,
        [
            RedirectDecision(
                one.to_id,
                one.actor,
                milliseconds(one.create_time),
                one.undo_actor or None,
                milliseconds(one.undo_time) if one.HasField("undo_time") else None,
            )
            for one in decided.decisions
        ],
    )


def device_days(stored: identity_pb2.Identity) -> list[DeviceDay]:
    """The days on which an identity was used."""
    return [DeviceDay(one.date, one.device_count) for one in stored.device_days]


def actor(name: str, given: str) -> str:
    """The actor of a decision: the name of the key, which is authenticated, and the person that the client names."""
    return (f"{name}/{given}" if given else name)[:_MAX_ACTOR_LENGTH]


def interaction(stored: StoredInteraction) -> Interaction:
    """The resource of an interaction."""
    return Interaction(
        interaction_id=stored.interaction_id,
        visit_id=stored.visit_id or None,
        identity_id=stored.identity_id or stored.visit_identity_id or None,
        contact_id=stored.contact_id or None,
        phone=stored.phone or None,
        site=stored.site or None,
        channel=_CHANNEL_NAMES.get(stored.channel),
        agent=stored.agent,
        queue=stored.queue,
        start_time=milliseconds(stored.start_time),
        end_time=milliseconds(stored.end_time) if stored.HasField("end_time") else None,
        disposition=stored.disposition,
        note=stored.note,
        data=msgspec.Raw(stored.data_json or b"{}"),
        update_time=milliseconds(stored.update_time),
    )


def interactions(response: history_service_pb2.ListInteractionsResponse) -> Interactions:
    """The resource of a page of interactions."""
    return Interactions(
        [interaction(one) for one in response.interactions],
        response.next_page_token or None,
        other_names_unavailable=response.other_names_unavailable or UNSET,
    )


def link_rule(number: contact_pb2.LinkRule.ValueType) -> LinkRule | None:
    """The name of a rule in the API; None when no rule has decided."""
    return _LINK_RULE.get(number)


def assurance(number: event_pb2.Assurance.ValueType) -> Assurance | None:
    """The name of an assurance in the API; None for an event that is not a transition."""
    return _ASSURANCES.get(number)


def _transition(step: visit_pb2.Explanation) -> Transition:
    return Transition(
        rule=step.rule,
        effect=step.effect,
        assurance=assurance(step.assurance),
        assurance_reason=step.assurance_reason or None,
        ignored_reason=_IGNORED_REASONS.get(step.ignored_reason),
        policy_version=step.policy_version or None,
        warning=step.warning or None,
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
