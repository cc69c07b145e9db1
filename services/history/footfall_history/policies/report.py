"""What trying a policy found: the JSON form of the report, and its summary in words."""

import textwrap
from typing import Annotated, Any, Final

import msgspec
from footfall_timeline import State
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Moment = Annotated[str, Meta(description="Time in UTC, in the form of ISO 8601.")]
LinkStatus = Annotated[str, Meta(pattern="^(linked|ambiguous|unlinked)$")]
LinkReason = Annotated[str, Meta(pattern="^(evidence|sharing|rules)$")]
StateName = Annotated[str, Meta(pattern="^(ANONYMOUS|RECOGNIZED|AUTHENTICATED)$")]

MAX_LISTED: Final = 1_000
"""Largest number of examples, and of identities, of each kind of change: memory holds them."""
MAX_JUDGED: Final = 100_000
"""Identities whose links are compared, by default: each costs identity two lookups."""
MOST_JUDGED: Final = 1_000_000
NOT_SIMULATED: Final = (
    "Events that the collector rejected when they arrived, because they named no user: they are not stored.",
    "Who is staff under the policy.",
    "What visits that began before or after the time of this report say of identities. Links are compared by what the "
    "visits of this report say, on both sides.",
)


class VersionCount(msgspec.Struct):
    """How many events were judged by a version of the policy. Empty: before there were policies; `...`: others."""

    version: str
    events: Count


class StateCount(msgspec.Struct):
    """How many visits ended in a state by the stored decisions, and end in a state under the policy."""

    before: StateName
    after: StateName
    visits: Count


class ChangedVisits(msgspec.Struct):
    """How many visits change. Each is counted once, by the first that holds.

    - `state`: the state after the last event changes.
    - `identity`: the identity after the last event changes.
    - `course`: only state, identity or session at an earlier moment change.
    """

    state: Count = 0
    identity: Count = 0
    course: Count = 0


class DecisionCount(msgspec.Struct):
    """How many SignIn and UserInfo events are decided so before, and so under the policy.

    `named`: the event names an identity. `other_user`: it names another one. `rejected`: it gives no user id, so it
    would not be stored. `erased`: the person has been erased. Others are reasons why it names no person.
    """

    before: str
    after: str
    events: Count


class EvidenceCount(msgspec.Struct):
    """How many events have an attribute that becomes evidence for a link to a contact (`after`: true), or stops."""

    key: str
    after: bool
    events: Count


class IdentityPart(msgspec.Struct):
    """Events that name, or named, another identity (empty: none). `reason` is empty if the identity is the same."""

    identity_id: str
    reason: str
    events: Count
    visits: Count


class IdentityChange(msgspec.Struct):
    """An identity, the number of its events, of how many identities it consists, and the largest parts of these."""

    identity_id: str
    events: Count
    others: Count
    parts: list[IdentityPart]


class IdentityChanges(msgspec.Struct):
    """How many identities change in one way, and those with the most events."""

    total: Count
    largest: list[IdentityChange]


class Identities(msgspec.Struct):
    """The identities that events of these visits name, and how they change.

    - `merged`: under the policy, an identity consists of events that named several. Its parts are those.
    - `split`: events of an identity name several under the policy. Its parts are those.
    - `renamed`: an identity gets a name that no other had. Its part has the name.
    - `vanished`: the events of an identity name no person any more. Its parts have the reasons.
    - `new`: the events of an identity named no person before. Its parts have the reasons.
    """

    before: Count
    after: Count
    merged: IdentityChanges
    split: IdentityChanges
    renamed: IdentityChanges
    vanished: IdentityChanges
    new: IdentityChanges


class LinkSide(msgspec.Struct):
    """Whether an identity is linked to a contact, and by which rule.

    `rule`: `email_address`, `phone_number`, `name`, `manual`, or empty: no rule finds a contact. `candidates`: how many
    contacts match, if several do. `unused`: rules that would have decided, and why not (`phone_number: generic_value`).
    A report about some sites has neither of these two.
    """

    status: LinkStatus
    rule: str
    contact_id: str
    candidates: Count
    unused: list[str]


class LinkChange(msgspec.Struct):
    """An identity whose contact changes, and why.

    - `evidence`: other values are evidence for a link.
    - `sharing`: a value is given by too many identities, or the identity is used on too many devices, or no longer.
    - `rules`: the same evidence, but other rules.
    """

    identity_id: str
    reason: LinkReason
    before: LinkSide
    after: LinkSide


class LinkChanges(msgspec.Struct):
    """How many identities change in one way, and some of them, chosen evenly."""

    total: Count
    examples: list[LinkChange]


class LinkOutcome(msgspec.Struct):
    """How many identities are decided so before, and so under the policy, with the reason. Only those that change."""

    before_status: LinkStatus
    before_rule: str
    after_status: LinkStatus
    after_rule: str
    reason: LinkReason
    identities: Count


class Links(msgspec.Struct, kw_only=True):
    """The links of identities to contacts that the rules in force make of these visits, and those under the policy.

    - `made`: identities that are linked to a contact only under the policy.
    - `undone`: only before.
    - `moved`: to another contact.
    """

    version_in_force: Annotated[str, Meta(description="Version of the policy that identity has in force.")]
    rules_before: Annotated[list[str], Meta(description="The rules in force, in the order in which they are tried.")]
    rules_after: Annotated[list[str], Meta(description="Those of the policy.")]
    identities: Annotated[Count, Meta(description="Identities that events of these visits name, on either side.")]
    not_compared: Annotated[Count, Meta(description="Identities beyond the limit, which are not compared.")]
    made: LinkChanges
    undone: LinkChanges
    moved: LinkChanges
    outcomes: list[LinkOutcome]


class EventExplanation(msgspec.Struct):
    """What an event does, and who the visitor is after it.

    `rule` is that of `explain`, or `ignored` (with a `reason`), `rejected`, or `not_counted`: a transition beyond
    MAX_TRANSITIONS_PER_VISIT. `names`: the identity that it names.
    """

    rule: str
    reason: str
    names: str
    state: StateName
    identity_id: str


class ExplainedEvent(msgspec.Struct):
    """An event by the stored decision and under the policy. `event_name` is empty if the event has expired."""

    event_id: str
    event_name: str
    event_time: Moment
    before: EventExplanation
    after: EventExplanation


class VisitExample(msgspec.Struct):
    """A visit that changes, with its first events that identify. `more_events`: how many there are beside these."""

    visit_id: str
    site: str
    start_time: Moment
    change: Annotated[str, Meta(pattern="^(state|identity|course)$")]
    events: list[ExplainedEvent]
    more_events: Count


class Doubts(msgspec.Struct):
    """How many decisions are not certain.

    - `erased`: the content of the event has been erased. The decision is kept.
    - `expired`: the event has expired, while its visit has not. The decision is kept.
    - `malformed`: the data of the event are no JSON object. The decision is kept.
    - `masked`: the value that names the user was masked when it was stored. The decision is kept.
    - `token_not_kept`: a SignIn of a site with signing keys, which was ignored or had the token of another user, is
      decided otherwise. Tokens are not stored, so it counts as a UserInfo. If only the token may have named the user,
      the decision is kept.
    """

    erased: Count = 0
    expired: Count = 0
    malformed: Count = 0
    masked: Count = 0
    token_not_kept: Count = 0


class Report(msgspec.Struct, kw_only=True):
    """What a policy changes in the visits that began in a time."""

    policy_version: Annotated[str, Meta(description="Version of the policy that was tried.")]
    stored_versions: Annotated[
        list[VersionCount], Meta(description="Versions of the policies by which the stored events were judged.")
    ]
    create_time: Moment
    from_time: Annotated[Moment | None, Meta(description="Visits that began at or after it; null: all earlier ones.")]
    to_time: Annotated[Moment, Meta(description="Visits that began before it.")]
    sites: Annotated[list[str], Meta(description="Sites of the visits; empty: all.")]
    seconds: Annotated[float, Meta(description="How long it took.")]
    visits: Annotated[Count, Meta(description="Visits of customers.")]
    staff_visits: Annotated[Count, Meta(description="Visits of staff, which are left out.")]
    events: Annotated[Count, Meta(description="SignIn, UserInfo and SignOut events of these visits.")]
    states: list[StateCount]
    changed_visits: ChangedVisits
    sessions_before: Count
    sessions_after: Count
    decisions: list[DecisionCount]
    evidence: list[EvidenceCount]
    identities: Identities
    links: Annotated[Links | None, Meta(description="Links to contacts; null: identity did not answer.")]
    examples: Annotated[list[VisitExample], Meta(description="Changed visits, chosen evenly, of each kind of change.")]
    doubts: Doubts
    not_simulated: Annotated[list[str], Meta(description="What this report does not show.")]


def json_schema() -> dict[str, Any]:
    """The JSON schema of the report."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Report)}


def to_json(report: Report) -> bytes:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def summary(report: Report) -> str:
    """The report in a few lines, without personal data."""
    changed, identities, states = report.changed_visits, report.identities, report.states
    by_state = [
        f"{sum(one.visits for one in states if getattr(one, side) == state.name):,} {state.name.lower()}"
        for side in ("before", "after")
        for state in State
    ]
    lines = [
        f"Policy {report.policy_version}, tried on {report.visits:,} visits with {report.events:,} events that "
        "identify.",
        f"Visits before: {', '.join(by_state[:3])}. After: {', '.join(by_state[3:])}.",
        f"Visits that change: {changed.state:,} in state, {changed.identity:,} in identity, {changed.course:,} only in "
        "between.",
        f"Identities: {identities.before:,} before, {identities.after:,} after. "
        f"{identities.merged.total:,} merge others, {identities.split.total:,} split, "
        f"{identities.renamed.total:,} get another name, {identities.vanished.total:,} vanish, "
        f"{identities.new.total:,} are new.",
        _link_summary(report.links),
    ]
    lines += [
        f"{one.before} -> {one.after}: {one.events:,} events" for one in report.decisions if one.before != one.after
    ]
    if report.staff_visits:
        lines.append(f"Left out: {report.staff_visits:,} visits of staff.")
    if uncertain := sum(msgspec.structs.astuple(report.doubts)):
        lines.append(f"Not certain: {uncertain:,} decisions.")
    return "".join(f"{line}\n" for text in lines for line in textwrap.wrap(text, 110))


def _link_summary(links: Links | None) -> str:
    if links is None:
        return "Links to contacts: not compared, because identity does not answer at IDENTITY_TARGET."
    not_compared = f" {links.not_compared:,} identities are not compared." if links.not_compared else ""
    return (
        f"Links to contacts: {links.made.total:,} made, {links.undone.total:,} undone, {links.moved.total:,} to "
        f"another contact.{not_compared}"
    )
