"""Turns documents into resources of the contract: visits, sessions, associations, pages and explanations."""

from collections.abc import Mapping
from typing import Any, Final

from footfall.event.v1.event_pb2 import Assurance as AssuranceValue
from footfall.event.v1.event_pb2 import EventBatch, IgnoredReason
from footfall.history.v1 import visit_pb2 as pb
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.visitor_pb2 import VisitorState
from footfall_eventlog.events import TRANSITION_KINDS
from footfall_eventlog.placeholders import folded
from footfall_timeline import EFFECTS, Association, Attribution, Kind, Rule, Session, Step, order_key
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_history.dead_letters import DeadLetter
from footfall_history.storage import Document, Visit, assurance_reason_code, event_time_ms

PAGE_FIELDS: Final = (
    "order_key",
    "page_id",
    "browser_page_id",
    "visit_id",
    "browser_visit_id",
    "identity_id",
    "session_id",
    "url",
    "title",
    "category",
)
"""The fields of a PageEntered event that a page needs. `data_json`, which may be large, is not among them."""
EVIDENCE_FIELDS: Final = ("event_id", "event_name", "assurance_reason", "ignored_reason", "policy_version")
"""The fields of an event that an explanation needs."""
SIMILAR: Final = (
    "Another identity of this visit differs from this one only in case, white space or invisible characters. They are "
    "two identities: the page should always send the same spelling."
)
RULE_CODES: Final = {rule: pb.TransitionRule.Value(f"TRANSITION_RULE_{rule.name}") for rule in Rule}
"""The contract's enum values of the rules."""


def visit_message(document: Mapping[str, Any], last_key: str | None, now_ms: int, idle_ms: int) -> pb.Visit:
    """A visit. `last_key`: order key of its last event (None: all have expired). `idle_ms` without events end it."""
    visit = Visit.from_document(document)
    start_ms = event_time_ms(document["start_key"])
    last_ms = event_time_ms(last_key) if last_key else start_ms
    message = pb.Visit(
        visit_id=shown_id(document),
        scoped_visit_id=visit.visit_id if "browser_visit_id" in document else "",
        global_visit_id=document.get("global_visit_id", ""),
        site=document.get("site", ""),
        start_time=timestamp(start_ms),
        last_event_time=timestamp(last_ms),
        user_agent_id=document.get("user_agent_id", ""),
        user_agent=document.get("user_agent", ""),
        revision=visit.rev,
        ended=now_ms - last_ms > idle_ms,
        timeline_truncated=visit.is_truncated,
        staff=visit.is_staff,
    )
    set_attribution(message, visit.visit_state.attribution)
    return message


def set_attribution(message: pb.Visit, attribution: Attribution) -> None:
    """Say in a visit who the visitor is."""
    message.state = VisitorState.ValueType(attribution.state)
    message.identity_id = attribution.identity
    message.active_session_id = attribution.session_id
    message.assurance = AssuranceValue.ValueType(attribution.assurance)


def shown_id(document: Mapping[str, Any]) -> str:
    """The id of a visit in the browser, from its document."""
    visit_id: str = document.get("browser_visit_id") or document["_id"]
    return visit_id


def session_message(visit: Document, session: Session) -> pb.Session:
    """A session of the visit in a document."""
    return pb.Session(
        session_id=session.session_id,
        identity_id=session.identity,
        visit_id=shown_id(visit),
        start_time=timestamp(session.start_ms),
        assurance=AssuranceValue.ValueType(session.assurance),
        start_event_id=session.start_event_id,
        end_event_id=session.end_event_id,
        end_time=None if session.end_ms is None else timestamp(session.end_ms),
    )


def association_message(visit_id: str, association: Association, known: Identity | None) -> pb.Association:
    """The association of a visit with an identity. `known`: its record, None if the identity service did not answer."""
    scope = VisitorState.ValueType(association.scope)
    message = pb.Association(
        identity=known or Identity(identity_id=association.identity),
        visit_id=visit_id,
        scope=scope,
        create_time=timestamp(association.first.event_time_ms),
    )
    message.identity.visit_scope = scope
    return message


def page_message(entered: Mapping[str, Any], exited: str) -> pb.Page:
    """A page entry, from PAGE_FIELDS of its PageEntered and the order key of its last PageExited (empty: none)."""
    return pb.Page(
        page_id=entered["page_id"],
        browser_page_id=entered["browser_page_id"],
        visit_id=entered.get("browser_visit_id") or entered["visit_id"],
        identity_id=entered.get("identity_id", ""),
        session_id=entered.get("session_id", ""),
        url=entered.get("url", ""),
        title=entered.get("title", ""),
        category=entered.get("category", ""),
        start_time=timestamp(event_time_ms(entered["order_key"])),
        end_time=timestamp(event_time_ms(exited)) if exited else None,
    )


def event_key(event: pb.StoredEvent) -> str:
    """The key of an event in lists."""
    return order_key(event.event.event_time_ms, event.event.event_id)


def page_key(page: pb.Page) -> str:
    """The key of a page entry in lists."""
    return order_key(page.start_time.ToMilliseconds(), page.page_id)


def explanation(step: Step, event: Document, rev: int, *, has_similar: bool) -> pb.Explanation:
    """A transition of a timeline of this revision. `event`: its event as EVIDENCE_FIELDS; empty if it has expired.

    `has_similar`: the visit names another identity that looks the same.
    """
    transition, reason = step.transition, event.get("assurance_reason", "")
    return pb.Explanation(
        event_id=transition.event_id,
        event_name=event.get("event_name", ""),
        event_time=timestamp(transition.event_time_ms),
        rule=step.rule.value,
        rule_code=RULE_CODES[step.rule],
        assurance=AssuranceValue.ValueType(transition.assurance),
        assurance_reason=reason,
        assurance_reason_code=assurance_reason_code(reason),
        before=attribution_message(step.before, rev),
        after=attribution_message(step.after, rev),
        effect=EFFECTS[step.rule],
        ignored_reason=IgnoredReason.ValueType(event.get("ignored_reason", 0) if step.rule is Rule.IGNORED else 0),
        policy_version=event.get("policy_version", ""),
        warning=SIMILAR if has_similar else "",
    )


def explanation_key(explanation: pb.Explanation) -> str:
    """The key of a transition in its timeline."""
    return order_key(explanation.event_time.ToMilliseconds(), explanation.event_id)


def ignored_step(visit: Visit, event: Document) -> Step:
    """What an event whose user id was ignored did: nothing."""
    kind = Kind(TRANSITION_KINDS[event["event_name"]])
    return visit.visit_state.ignored_step(event_time_ms(event["order_key"]), event["event_id"], kind)


def similar_identities(visit: Visit) -> set[str]:
    """The identities of a visit that differ from another one of it only in what `folded` ignores, such as case.

    They stay different identities, as in GWE 8.5.
    """
    by_look: dict[str, list[str]] = {}
    for association in visit.visit_state.associations:
        by_look.setdefault(folded(association.identity), []).append(association.identity)
    return {identity for alike in by_look.values() if len(alike) > 1 for identity in alike}


def attribution_message(attribution: Attribution, rev: int) -> pb.Stamp:
    """An attribution by the timeline of this revision."""
    return pb.Stamp(
        state=VisitorState.ValueType(attribution.state),
        identity_id=attribution.identity,
        session_id=attribution.session_id,
        revision=rev,
    )


def unstored_event(letter: DeadLetter, batch: EventBatch) -> pb.UnstoredEvent:
    """The event of a dead letter, with why and when it became one. Changes the batch."""
    [event], [context] = batch.events, batch.contexts
    event.visit_id = event.browser_visit_id or event.visit_id
    event.ClearField("browser_visit_id")
    event.assurance_reason_code = assurance_reason_code(event.assurance_reason)
    received_time = timestamp(context.received_time_ms)
    return pb.UnstoredEvent(
        event=pb.StoredEvent(event=event, address=context.address, bot=context.bot, received_time=received_time),
        dead_letter=pb.DeadLetter(reason=letter.reason, create_time=timestamp(letter.created_ms)),
    )


def timestamp(at_ms: int) -> Timestamp:
    """A time in milliseconds since the epoch."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
