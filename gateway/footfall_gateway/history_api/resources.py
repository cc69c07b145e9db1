"""Turns what the services answer into the resources of the History API: keys, order and spelling of the original.

Absent lists and values are `null`, times are milliseconds, durations whole seconds, an end of 0 is still open
(gwe-facts 2.2 and 4.6 to 4.9).
"""

from typing import Annotated

import msgspec
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from footfall_eventlog.events import SYSTEM_EVENTS
from google.protobuf.timestamp_pb2 import Timestamp

NO_SESSION = "00000000-0000-1000-8000-000000000000"
"""`activeSessionId` of a visit without one."""


class Event(msgspec.Struct):
    """Something a visitor did."""

    event_id: str = msgspec.field(name="eventID")
    category: str
    """Separated by semicolons; empty when none."""
    event_type: str = msgspec.field(name="eventType")
    event_name: str = msgspec.field(name="eventName")
    """Empty when the event was of a person who has been erased, but for the six system events."""
    server_timestamp: int = msgspec.field(name="serverTimestamp")
    """When the server received it."""
    browser_page_id: str | None = msgspec.field(name="browserPageID")
    global_visit_id: str | None = msgspec.field(name="globalVisitID")
    url: str | None
    timestamp: int
    """When it happened by the browser's clock."""
    visit_id: str = msgspec.field(name="visitID")
    page_id: str | None = msgspec.field(name="pageID")
    data: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
    language_code: str | None = msgspec.field(name="languageCode")


class Page(msgspec.Struct, rename="camel"):
    """One time a page was entered."""

    event_ids: list[str] | None = None
    events: list[Event] | None = None
    page_id: str = ""
    browser_page_id: str | None = msgspec.field(name="browserPageID", default=None)
    visit_id: str = ""
    identity_id: str | None = None
    url: str | None = None
    title: str | None = None
    category: str = ""
    start_date: int = 0
    end_date: int = 0
    duration: int = 0


class Session(msgspec.Struct, rename="camel"):
    """One authentication within a visit."""

    event_ids: list[str] | None = None
    events: list[Event] | None = None
    page_ids: list[str] | None = None
    pages: list[Page] | None = None
    session_id: str = ""
    start_date: int = 0
    end_date: int = 0
    duration: int = 0
    identity_id: str = ""


class Visit(msgspec.Struct, rename="camel"):
    """One visit to one website."""

    event_ids: list[str] | None = None
    events: list[Event] | None = None
    page_ids: list[str] | None = None
    pages: list[Page] | None = None
    session_ids: list[str] | None = None
    sessions: list[Session] | None = None
    visit_id: str = ""
    start_date: int = 0
    end_date: int = 0
    active_session_id: str = NO_SESSION
    global_visit_id: str | None = msgspec.field(name="globalVisitID", default=None)
    user_agent_id: str | None = None


class UserAgent(msgspec.Struct, rename="camel"):
    """What the browser of a visit says of itself; empty where it says nothing that is known. Not of the original."""

    user_agent_id: str
    user_agent: str
    family: str
    version: str
    os: str
    os_version: str
    device: str
    bot: bool


class Identity(msgspec.Struct, rename="camel"):
    """A person under one identifier of a website."""

    event_ids: list[str] | None = None
    events: list[Event] | None = None
    page_ids: list[str] | None = None
    pages: list[Page] | None = None
    session_ids: list[str] | None = None
    sessions: list[Session] | None = None
    identity_id: str = ""
    name: str | None = None
    location: str | None = None
    entity_in_cs: str | None = msgspec.field(name="entityInCS", default=None)
    visit_scope: str = "Recognized"
    visit_ids: list[str] | None = None
    visits: list[Visit] | None = None


def event(stored: visit_pb2.StoredEvent) -> Event:
    """An event as the API answers it; `data` verbatim."""
    admitted = stored.event
    return Event(
        event_id=admitted.event_id,
        category=admitted.category,
        event_type=event_type(admitted.event_name),
        event_name=admitted.event_name,
        server_timestamp=milliseconds(stored.received_time),
        browser_page_id=admitted.browser_page_id or None,
        global_visit_id=admitted.global_visit_id or None,
        url=admitted.url or None,
        timestamp=admitted.timestamp_ms,
        visit_id=admitted.visit_id,
        page_id=admitted.page_id or None,
        data=msgspec.Raw(admitted.data_json or b"{}"),
        language_code=admitted.language_code or None,
    )


def event_type(event_name: str) -> str:
    """`SYSTEM` or `BUSINESS`: the type follows from the name."""
    return "SYSTEM" if event_name in SYSTEM_EVENTS else "BUSINESS"


def page(stored: visit_pb2.Page) -> Page:
    """A page entry as the API answers it."""
    start, end = milliseconds(stored.start_time), milliseconds(stored.end_time)
    return Page(
        page_id=stored.page_id,
        browser_page_id=stored.browser_page_id or None,
        visit_id=stored.visit_id,
        identity_id=stored.identity_id or None,
        url=stored.url or None,
        title=stored.title or None,
        category=stored.category,
        start_date=start,
        end_date=end,
        duration=_seconds(start, end),
    )


def session(stored: visit_pb2.Session) -> Session:
    """A session as the API answers it."""
    start, end = milliseconds(stored.start_time), milliseconds(stored.end_time)
    return Session(
        session_id=stored.session_id,
        start_date=start,
        end_date=end,
        duration=_seconds(start, end),
        identity_id=stored.identity_id,
    )


def visit(stored: visit_pb2.Visit) -> Visit:
    """A visit as the API answers it. One that is over ends with its last event."""
    return Visit(
        visit_id=stored.visit_id,
        start_date=milliseconds(stored.start_time),
        end_date=milliseconds(stored.last_event_time) if stored.ended else 0,
        active_session_id=stored.active_session_id or NO_SESSION,
        global_visit_id=stored.global_visit_id or None,
        user_agent_id=stored.user_agent_id or None,
    )


def user_agent(stored: visit_pb2.Visit) -> UserAgent:
    """The record that a visit's `userAgentId` names."""
    details = stored.user_agent_details
    return UserAgent(
        user_agent_id=stored.user_agent_id,
        user_agent=stored.user_agent,
        family=details.family,
        version=details.version,
        os=details.os,
        os_version=details.os_version,
        device=details.device,
        bot=details.bot,
    )


def identity(stored: identity_pb2.Identity) -> Identity:
    """An identity as the API answers it, with the scope of its newest association."""
    return Identity(
        identity_id=stored.identity_id,
        name=stored.name or None,
        location=stored.location or None,
        entity_in_cs=stored.contact_id or None,
        visit_scope=scope_name(stored.visit_scope),
    )


def visit_identity(association: visit_pb2.Association) -> Identity:
    """An identity as the API answers it, with the scope it has in the visit asked for."""
    found = identity(association.identity)
    found.visit_scope = scope_name(association.scope)
    return found


def scope_name(state: visitor_pb2.VisitorState.ValueType) -> str:
    """`Authenticated` or `Recognized`: an identity has no third relation to a visit."""
    return "Authenticated" if state == visitor_pb2.VISITOR_STATE_AUTHENTICATED else "Recognized"


def milliseconds(timestamp: Timestamp) -> int:
    """Milliseconds since the epoch; 0 when not set."""
    return timestamp.seconds * 1000 + timestamp.nanos // 1_000_000


def _seconds(start_ms: int, end_ms: int) -> int:
    return (end_ms - start_ms) // 1000 if end_ms else 0
