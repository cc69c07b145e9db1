"""Turns documents into the resources of the contract: visits, sessions, associations, pages, explanations; pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from footfall.event.v1.event_pb2 import Assurance as AssuranceValue
from footfall.history.v1 import visit_pb2 as pb
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.visitor_pb2 import VisitorState
from footfall_timeline import EFFECTS, Association, Session, Stamp
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_history.storage import Document, Visit, event_time_ms

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
"""What a page says of its PageEntered, without the data that may be large."""
EVIDENCE_FIELDS: Final = ("event_id", "event_name", "assurance_reason")
"""What an explanation says of an event."""


def visit_message(document: Mapping[str, Any], last_key: str | None, now_ms: int, idle_ms: int) -> pb.Visit:
    """A visit, whose last event has the order key `last_key` (None: all its events have expired)."""
    visit = Visit.from_document(document)
    stamp = visit.fold.stamp
    start_ms = event_time_ms(document["start_key"])
    last_ms = event_time_ms(last_key) if last_key else start_ms
    return pb.Visit(
        visit_id=shown_id(document),
        scoped_visit_id=visit.visit_id if "browser_visit_id" in document else "",
        global_visit_id=document.get("global_visit_id", ""),
        site=document.get("site", ""),
        start_time=timestamp(start_ms),
        last_event_time=timestamp(last_ms),
        active_session_id=stamp.session_id,
        user_agent_id=document.get("user_agent_id", ""),
        user_agent=document.get("user_agent", ""),
        state=VisitorState.ValueType(stamp.state),
        identity_id=stamp.identity,
        revision=visit.rev,
        ended=now_ms - last_ms > idle_ms,
        timeline_truncated=visit.is_truncated,
    )


def shown_id(document: Mapping[str, Any]) -> str:
    """The id that the browser knows a visit by, given as stored."""
    browsers: str = document.get("browser_visit_id") or document["_id"]
    return browsers


def session_message(visit_id: str, session: Session) -> pb.Session:
    """A session of a visit."""
    message = pb.Session(
        session_id=session.session_id,
        identity_id=session.identity,
        visit_id=visit_id,
        start_time=timestamp(session.start_ms),
        assurance=AssuranceValue.ValueType(session.assurance),
        start_event_id=session.start_event_id,
        end_event_id=session.end_event_id,
    )
    if session.end_ms is not None:
        message.end_time.CopyFrom(timestamp(session.end_ms))
    return message


def association_message(visit_id: str, association: Association, known: Identity | None) -> pb.Association:
    """That a visit has to do with an identity; `known` is what identity says of it, if it answers."""
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
    """A page entry, from `PAGE_FIELDS` of its PageEntered and the order key of its last PageExited, if there is one."""
    message = pb.Page(
        page_id=entered["page_id"],
        browser_page_id=entered["browser_page_id"],
        visit_id=entered.get("browser_visit_id") or entered["visit_id"],
        identity_id=entered.get("identity_id", ""),
        session_id=entered.get("session_id", ""),
        url=entered.get("url", ""),
        title=entered.get("title", ""),
        category=entered.get("category", ""),
        start_time=timestamp(event_time_ms(entered["order_key"])),
    )
    if exited:
        message.end_time.CopyFrom(timestamp(event_time_ms(exited)))
    return message


def explanations(visit: Visit, evidence: Mapping[str, Document]) -> Iterable[pb.Explanation]:
    """The transitions of a visit in order; `evidence` are the stored events, by event id."""
    for step in visit.fold.steps:
        transition = step.transition
        event = evidence.get(transition.event_id, {})
        yield pb.Explanation(
            event_id=transition.event_id,
            event_name=event.get("event_name", ""),
            event_time=timestamp(transition.event_time_ms),
            rule=step.rule.value,
            assurance=AssuranceValue.ValueType(transition.assurance),
            assurance_reason=event.get("assurance_reason", ""),
            before=stamp_message(step.before, visit.rev),
            after=stamp_message(step.after, visit.rev),
            effect=EFFECTS[step.rule],
        )


def stamp_message(stamp: Stamp, rev: int) -> pb.Stamp:
    """A stamp made from the timeline of this revision."""
    return pb.Stamp(
        state=VisitorState.ValueType(stamp.state), identity_id=stamp.identity, session_id=stamp.session_id, revision=rev
    )


def timestamp(at_ms: int) -> Timestamp:
    """A moment given in milliseconds since the epoch."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)
