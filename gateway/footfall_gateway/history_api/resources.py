"""The resources of the History API, with the keys, order and spelling of Genesys Web Engagement (GWE) 8.5.

Absent lists and values are `null`, times are milliseconds, durations are whole seconds. An end of 0 means still open.
"""

from typing import Annotated, Final, Literal

import msgspec
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from footfall_eventlog.events import SYSTEM_EVENTS
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import UNSET, Meta, UnsetType

from footfall_gateway.fields import (
    BrowserPageId,
    Category,
    ContactId,
    EventId,
    GlobalVisitId,
    IdentityId,
    JsonObject,
    PageId,
    PageTitle,
    PageUrl,
    SessionId,
    Time,
    Uuid,
    VisitId,
)

NO_SESSION = "00000000-0000-1000-8000-000000000000"
"""`activeSessionId` of a visit without an open session."""

_EVENTS: Final = Meta(description="Its events; null without `include_events_detail`.")
_PAGES: Final = Meta(description="Its page entries; null without `include_pages_detail`.")
_SESSIONS: Final = Meta(description="Its sessions; null without `include_sessions_detail`.")
_VISITS: Final = Meta(description="Its visits; null without `include_visits_detail`.")


EventIds = Annotated[list[Uuid] | None, Meta(description="Ids of its events; null without `include_events`.")]
PageIds = Annotated[list[Uuid] | None, Meta(description="Ids of its page entries; null without `include_pages`.")]
SessionIds = Annotated[list[Uuid] | None, Meta(description="Ids of its sessions; null without `include_sessions`.")]
VisitIds = Annotated[list[Uuid] | None, Meta(description="Ids of its visits; null without `include_visits`.")]
StartDate = Annotated[Time, Meta(description="When it began (ms).")]
EndDate = Annotated[Time, Meta(description="When it ended (ms); 0: it is still open.")]
Duration = Annotated[int, Meta(description="From its start to its end, in whole seconds; 0 while it is open.")]
VisitScope = Annotated[
    str,
    Meta(
        description="`Authenticated` while a session of the identity is open in its newest visit, else `Recognized`. "
        "In the identities of a visit: in this visit.",
        extra_json_schema={"enum": ["Authenticated", "Recognized"]},
    ),
]


class Event(msgspec.Struct):
    """An event of a visit."""

    event_id: EventId = msgspec.field(name="eventID")
    category: Category
    event_type: Annotated[Literal["SYSTEM", "BUSINESS"], Meta(description="`SYSTEM` for the six system events.")] = (
        msgspec.field(name="eventType")
    )
    event_name: Annotated[
        str,
        Meta(
            description="The name. Empty for an event of an erased person, unless it is one of the six system events.",
            extra_json_schema={"maxLength": 256},
        ),
    ] = msgspec.field(name="eventName")
    server_timestamp: Annotated[Time, Meta(description="When the server received the event (ms).")] = msgspec.field(
        name="serverTimestamp"
    )
    browser_page_id: BrowserPageId | None = msgspec.field(name="browserPageID")
    global_visit_id: GlobalVisitId | None = msgspec.field(name="globalVisitID")
    url: PageUrl | None
    timestamp: Annotated[Time, Meta(description="When the event happened, by the browser's clock, as sent (ms).")]
    visit_id: VisitId = msgspec.field(name="visitID")
    page_id: Annotated[Uuid | None, Meta(description="The page entry; null without `browserPageID`.")] = msgspec.field(
        name="pageID"
    )
    data: Annotated[
        JsonObject,
        Meta(description="The event's data as sent, with secrets masked. `{}`: it had none, or its person is erased."),
    ]
    language_code: Annotated[
        str | None, Meta(description="The language of the page, for instance `en-US`; null: not known.")
    ] = msgspec.field(name="languageCode")


class Page(msgspec.Struct, rename="camel"):
    """A page entry: the time from entering a page to leaving it."""

    event_ids: EventIds = None
    events: Annotated[list[Event] | None, _EVENTS] = None
    page_id: PageId = ""
    browser_page_id: BrowserPageId | None = msgspec.field(name="browserPageID", default=None)
    visit_id: VisitId = ""
    identity_id: Annotated[
        IdentityId | None, Meta(description="The identity of the visitor on entering; null: the visitor was anonymous.")
    ] = None
    url: PageUrl | None = None
    title: PageTitle | None = None
    category: Category = ""
    start_date: StartDate = 0
    end_date: EndDate = 0
    duration: Duration = 0


class Session(msgspec.Struct, rename="camel"):
    """A session: the part of a visit in which the visitor was authenticated."""

    event_ids: EventIds = None
    events: Annotated[list[Event] | None, _EVENTS] = None
    page_ids: PageIds = None
    pages: Annotated[list[Page] | None, _PAGES] = None
    session_id: SessionId = ""
    start_date: StartDate = 0
    end_date: EndDate = 0
    duration: Duration = 0
    identity_id: IdentityId = ""


class Visit(msgspec.Struct, rename="camel"):
    """A visit to one website."""

    event_ids: EventIds = None
    events: Annotated[list[Event] | None, _EVENTS] = None
    page_ids: PageIds = None
    pages: Annotated[list[Page] | None, _PAGES] = None
    session_ids: SessionIds = None
    sessions: Annotated[list[Session] | None, _SESSIONS] = None
    visit_id: VisitId = ""
    start_date: StartDate = 0
    end_date: Annotated[
        Time,
        Meta(
            description="The time of its last event (ms), once `VISIT_IDLE_MINUTES` (30) have passed without another "
            "one; 0: the visit is still open."
        ),
    ] = 0
    active_session_id: Annotated[Uuid, Meta(description=f"The open session; `{NO_SESSION}`: no session is open.")] = (
        NO_SESSION
    )
    global_visit_id: GlobalVisitId | None = msgspec.field(name="globalVisitID", default=None)
    user_agent_id: Annotated[Uuid | None, Meta(description="The user agent of the visit; null: not known.")] = None


class UserAgent(msgspec.Struct, rename="camel"):
    """The parsed user agent of a visit. GWE does not have this resource."""

    user_agent_id: Annotated[Uuid, Meta(description="The record; every visit has its own.")]
    user_agent: Annotated[
        str, Meta(description="The `User-Agent` header of the browser.", extra_json_schema={"maxLength": 1_024})
    ]
    family: Annotated[str, Meta(description="The browser, for instance `Chrome`; empty: not known.")]
    version: Annotated[str, Meta(description="The version of the browser; empty: not known.")]
    os: Annotated[str, Meta(description="The operating system, for instance `Windows`; empty: not known.")]
    os_version: Annotated[str, Meta(description="The version of the operating system; empty: not known.")]
    device: Annotated[str, Meta(description="The device, for instance `iPhone`; empty: not known.")]
    bot: Annotated[bool, Meta(description="Whether it is a known robot.")]


class Identity(msgspec.Struct, rename="camel"):
    """An identity: the user id of a website."""

    event_ids: EventIds = None
    events: Annotated[list[Event] | None, _EVENTS] = None
    page_ids: PageIds = None
    pages: Annotated[list[Page] | None, _PAGES] = None
    session_ids: SessionIds = None
    sessions: Annotated[list[Session] | None, _SESSIONS] = None
    identity_id: IdentityId = ""
    name: Annotated[
        str | None, Meta(description="`name` in its sign-in data, if `IDENTITY_COPY_NAME` is set; null: not known.")
    ] = None
    location: Annotated[str | None, Meta(description="`location` in its sign-in data; null: not known.")] = None
    entity_in_cs: Annotated[ContactId | None, Meta(description="The contact that it is linked to; null: none.")] = (
        msgspec.field(name="entityInCS", default=None)
    )
    visit_scope: VisitScope = "Recognized"
    visit_ids: VisitIds = None
    visits: Annotated[list[Visit] | None, _VISITS] = None
    current_identity_id: Annotated[
        IdentityId | UnsetType, Meta(description="The name that this one leads to; absent: it was not renamed.")
    ] = UNSET
    redirected_from: Annotated[
        IdentityId | UnsetType,
        Meta(description="The identity of the request, if it was renamed to this one; absent: it is `identityId`."),
    ] = UNSET


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


def event_type(event_name: str) -> Literal["SYSTEM", "BUSINESS"]:
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
        current_identity_id=stored.current_identity_id or UNSET,
        redirected_from=stored.redirected_from or UNSET,
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
