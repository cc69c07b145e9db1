"""The resources of the History API, with the keys, order and spelling of Genesys Web Engagement (GWE) 8.5.

Absent lists and values are `null`, times are milliseconds, durations are whole seconds. An end of 0 means still open.
"""

from typing import Annotated

import msgspec
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from footfall_eventlog.events import SYSTEM_EVENTS
from google.protobuf.timestamp_pb2 import Timestamp

NO_SESSION = "00000000-0000-1000-8000-000000000000"
"""`activeSessionId` of a visit without an open session."""


class Event(msgspec.Struct):
    """An event of a visit."""

    event_id: str = msgspec.field(name="eventID")
    category: str
    """Separated by semicolons; may be empty."""
    event_type: str = msgspec.field(name="eventType")
    event_name: str = msgspec.field(name="eventName")
    """Empty for an event of an erased person, unless it is one of the six system events."""
    server_timestamp: int = msgspec.field(name="serverTimestamp")
    """When the server received the event."""
    browser_page_id: str | None = msgspec.field(name="browserPageID")
    global_visit_id: str | None = msgspec.field(name="globalVisitID")
    url: str | None
    timestamp: int
    """When the event happened, by the browser's clock."""
    visit_id: str = msgspec.field(name="visitID")
    page_id: str | None = msgspec.field(name="pageID")
    data: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
    language_code: str | None = msgspec.field(name="languageCode")


class Page(msgspec.Struct, rename="camel"):
    """A page entry: the time from entering a page to leaving it."""

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
    """A session: the part of a visit in which the visitor was authenticated."""

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
    """A visit to one website."""

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
    """The parsed user agent of a visit. Unknown parts are empty. GWE does not have this resource."""

    user_agent_id: str
    user_agent: str
    family: str
    version: str
    os: str
    os_version: str
    device: str
    bot: bool


class Identity(msgspec.Struct, rename="camel"):
    """An identity: the user id of a website."""

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
    """The resource of an event, with its `data` verbatim."""
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
    """`SYSTEM` or `BUSINESS`, by the name of the event."""
    return "SYSTEM" if event_name in SYSTEM_EVENTS else "BUSINESS"


def page(stored: visit_pb2.Page) -> Page:
    """The resource of a page entry."""
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
    """The resource of a session."""
    start, end = milliseconds(stored.start_time), milliseconds(stored.end_time)
    return Session(
        session_id=stored.session_id,
        start_date=start,
        end_date=end,
        duration=_seconds(start, end),
        identity_id=stored.identity_id,
    )


def visit(stored: visit_pb2.Visit) -> Visit:
    """The resource of a visit. The end of a visit is the time of its last event."""
    return Visit(
        visit_id=stored.visit_id,
        start_date=milliseconds(stored.start_time),
        end_date=milliseconds(stored.last_event_time) if stored.ended else 0,
        active_session_id=stored.active_session_id or NO_SESSION,
        global_visit_id=stored.global_visit_id or None,
        user_agent_id=stored.user_agent_id or None,
    )


def user_agent(stored: visit_pb2.Visit) -> UserAgent:
    """The resource of a visit's user agent."""
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
    """The resource of an identity, with the `visitScope` of its newest visit."""
    return Identity(
        identity_id=stored.identity_id,
        name=stored.name or None,
        location=stored.location or None,
        entity_in_cs=stored.contact_id or None,
        visit_scope=association_name(stored.visit_scope),
    )


def visit_identity(association: visit_pb2.Association) -> Identity:
    """The resource of an identity, with its `visitScope` in one visit."""
    found = identity(association.identity)
    found.visit_scope = association_name(association.scope)
    return found


def association_name(state: visitor_pb2.VisitorState.ValueType) -> str:
    """The `visitScope` of a state: `Authenticated` or `Recognized`."""
    return "Authenticated" if state == visitor_pb2.VISITOR_STATE_AUTHENTICATED else "Recognized"


def milliseconds(timestamp: Timestamp) -> int:
    """Milliseconds since the epoch; 0 when not set."""
    return timestamp.seconds * 1000 + timestamp.nanos // 1_000_000


def _seconds(start_ms: int, end_ms: int) -> int:
    return (end_ms - start_ms) // 1000 if end_ms else 0
