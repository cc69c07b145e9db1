"""The live stream: identity's transitions and history's events in one stream that can be resumed."""

import asyncio
import re
from functools import partial
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall_timeline import normalize_uuid
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway import metrics
from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import Authenticator, Principal
from footfall_gateway.backends import Backends
from footfall_gateway.fields import ContactId, IdentityId, SiteName, Time
from footfall_gateway.history_api import Event, event, milliseconds
from footfall_gateway.http import (
    ID_SEPARATOR,
    STREAM_HEADERS,
    STREAM_RETRY,
    Call,
    EventStreamResponse,
    Operation,
    Source,
    Stream,
)
from footfall_gateway.problem import Problem
from footfall_gateway.settings import GatewaySettings

_ID_HEADER: Final = "Last-Event-ID"
_ID = re.compile(rf"([!-}}]+){ID_SEPARATOR}([!-}}]+)")
_EXPIRED: Final = "RESUME_TOKEN_EXPIRED"
"""The reason of both services for a position that is no longer available."""
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
"""A page's `data` is verbatim JSON, which may have line ends between tokens. They would end the message."""


VisitorChange = Literal["ARRIVED", "STATE", "IDENTITY", "CONTACT", "PAGE", "LEFT", "RETURNED", "ENDED", "STAFF"]
_CHANGE_NAMES: Final[dict[int, VisitorChange]] = {
    identity.VisitorChange.Value(f"VISITOR_CHANGE_{name}"): name for name in get_args(VisitorChange)
}


class LiveQuery(msgspec.Struct):
    """Filters of the live stream. A message has to match all that are given."""

    site: Annotated[
        list[str], Meta(description="Only messages of this website. Repeat it for several websites.", max_length=100)
    ] = []
    visit_id: Annotated[
        list[str], Meta(description="Only messages of this visit. Repeat it for several visits.", max_length=100)
    ] = msgspec.field(name="visitId", default_factory=list)
    identity_id: Annotated[
        list[str],
        Meta(
            description="Only messages of this identity, before or after the change. Repeat it for several identities.",
            max_length=100,
        ),
    ] = msgspec.field(name="identityId", default_factory=list)
    contact_id: Annotated[
        list[str],
        Meta(
            description="Only changes of visitors who are this contact, before or after the change, and no events. "
            "Repeat it for several contacts.",
            max_length=100,
        ),
    ] = msgspec.field(name="contactId", default_factory=list)
    state: Annotated[
        list[resources.State],
        Meta(
            description="Only messages of visitors in this state, before or after the change. Repeat it for several "
            "states.",
            max_length=10,
        ),
    ] = []
    pages: Annotated[bool, Meta(description="Also send changes of pages (`PAGE`).")] = False
    staff: (
        Annotated[
            resources.StaffFilter,
            Meta(
                description="`exclude`: no messages of visits and events of staff, but the change `STAFF`. `include`: "
                "those too. `only`: no others. Default: `exclude`; with `visitId` `include`."
            ),
        ]
        | UnsetType
    ) = UNSET


class LiveTransition(msgspec.Struct, rename="camel"):
    """A change of a visitor."""

    changes: Annotated[
        list[VisitorChange],
        Meta(
            description="What has changed. `ARRIVED`: the first event of a visit, or the first one after its end. "
            "`STATE`. `IDENTITY`: the identity, the session, or how far the identity can be trusted. `CONTACT`: the "
            "contact, its status, or the number of candidates. `PAGE`: the current page or the number of open pages. "
            "`LEFT`: the visitor has left all pages. `RETURNED`: the visitor has come back to a page. `ENDED`: the "
            "visit has ended. `STAFF`: the visit has become one of staff."
        ),
    ]
    visitor: Annotated[resources.Visitor, Meta(description="The visitor after the change.")]
    previous_state: Annotated[resources.State, Meta(description="The state before the change.")]
    previous_identity_id: Annotated[
        IdentityId | None, Meta(description="The identity before the change; null: the visitor was anonymous.")
    ]
    previous_contact_id: Annotated[ContactId | None, Meta(description="The contact before the change; null: none.")]
    change_time: Annotated[Time, Meta(description="When the change became known (ms).")]


class LiveEvent(msgspec.Struct, rename="camel"):
    """An event that has arrived, and the visitor at the time of the event as known so far."""

    site: SiteName
    event: Annotated[Event, Meta(description="The event.")]
    visitor: Annotated[
        resources.VisitorSnapshot, Meta(description="The visitor at the time of the event, as known so far.")
    ]


class LiveMessage(msgspec.Struct):
    """The data of a message, by the name of its event."""

    transition: Annotated[LiveTransition, Meta(description="The data of a message with `event: transition`.")]
    event: Annotated[LiveEvent, Meta(description="The data of a message with `event: event`.")]


class LiveApi:
    """The live stream. All streams end when `stopping` is set."""

    def __init__(
        self, backends: Backends, authenticator: Authenticator, settings: GatewaySettings, stopping: asyncio.Event
    ) -> None:
        self._backends = backends
        self._authenticator = authenticator
        self._stopping = stopping
        self._heartbeat_s = settings.live_heartbeat_ms / 1000
        self._start_s = settings.live_query_timeout_ms / 1000
        self._max_open = settings.max_live_streams
        self._open = 0

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        headers = {_ID_HEADER: "The `id` of the last message received: the stream continues after it."}
        media_type = STREAM_HEADERS["content-type"]
        return [
            Operation(
                "watchLive",
                "GET",
                "/live",
                self.live,
                LiveQuery,
                LiveMessage,
                headers=headers,
                media_type=media_type,
                errors={409: f"`{_ID_HEADER}` is too old: messages after it are no longer available ({_EXPIRED})."},
            )
        ]

    async def live(self, call: Call[LiveQuery, None]) -> Response:
        """Changes of visitors, and events, as they happen, as server-sent events.

        A message has `event: transition` or `event: event`; the property of that name in the schema describes its
        data. The stream ends from time to time. Connect again with the last `id` as `Last-Event-ID` to continue it.
        After a reconnect an event can arrive twice: drop duplicates by `eventID`. 409 (RESUME_TOKEN_EXPIRED): the
        messages after that id are no longer available. List the visitors, then connect without `Last-Event-ID`.
        """
        sites = [call.principal.site_filter(one) for one in call.query.site or [""]]
        query = msgspec.structs.replace(call.query, site=[one for one in sites if one])
        query.visit_id[:] = [_uuid(one) for one in query.visit_id]
        positions = _positions(call.headers.get(_ID_HEADER.lower(), ""))
        if self._open >= self._max_open:
            raise Problem(503, "too many live streams are open; try again later", retry_s=10)
        self._open += 1
        metrics.LIVE_STREAMS.inc()
        stream = Stream(
            self._sources(call.principal, query, *positions),
            is_allowed=self._authenticator.validity(call.principal),
            stopping=self._stopping,
            heartbeat_s=self._heartbeat_s,
        )
        try:
            await stream.start(self._start_s)
        except BaseException as error:
            await self._close(stream)
            if isinstance(error, Problem):
                return _without_stream(error, is_resumed=any(positions))
            raise
        return EventStreamResponse(stream, partial(self._close, stream))

    async def _close(self, stream: Stream) -> None:
        self._open -= 1
        metrics.LIVE_STREAMS.dec()
        await stream.close()

    def _sources(self, principal: Principal, query: LiveQuery, visitors_token: str, events_token: str) -> list[Source]:
        visitors = identity.WatchVisitorsRequest(
            in_sites=query.site,
            visit_ids=query.visit_id,
            identity_ids=query.identity_id,
            contact_ids=query.contact_id,
            states=[resources.STATES[one] for one in query.state],
            include_pages=query.pages,
            staff=resources.STAFF_FILTERS[query.staff or None],
            resume_token=visitors_token,
            announce_progress=True,
        )
        events = history.StreamEventsRequest(
            site=_only(query.site), visit_id=_only(query.visit_id), resume_token=events_token, announce_progress=True
        )
        stream = partial(
            self._backends.stream, principal=principal, parameters={"resume_token": _ID_HEADER}, is_endless=True
        )
        return [
            Source(stream(self._backends.identity.WatchVisitors, visitors), _transition),
            Source(stream(self._backends.history.StreamEvents, events), partial(_event, query)),
        ]


def _uuid(text: str) -> str:
    try:
        return normalize_uuid(text)
    except ValueError:
        raise Problem.parameter("visitId", "must be a UUID") from None


def _only(values: list[str]) -> str:
    """The value by which history filters; of several values history sends all, and `_event` filters."""
    return values[0] if len(values) == 1 else ""


def _positions(last_id: str) -> tuple[str, str]:
    """The positions at which the two streams continue; empty: now."""
    if not last_id:
        return "", ""
    found = _ID.fullmatch(last_id)
    if found is None:
        raise Problem.parameter(_ID_HEADER, "must be the id of a message of this stream")
    return found[1], found[2]


def _without_stream(problem: Problem, *, is_resumed: bool) -> Response:
    """The response instead of a stream. EventSource reconnects after a stream that ends, but never after an error."""
    if problem.status == 409:
        text = f"{_ID_HEADER}: messages after it are not kept; list the visitors, and connect without it ({_EXPIRED})"
        raise Problem(409, text)
    if is_resumed and problem.status in {503, 504}:
        return Response(STREAM_RETRY + b"\n", headers=STREAM_HEADERS)
    raise problem


def _transition(response: identity.WatchVisitorsResponse) -> bytes:
    if not response.HasField("visitor"):
        return b""
    return _message(
        b"transition",
        LiveTransition(
            changes=[_CHANGE_NAMES[one] for one in response.changes if one in _CHANGE_NAMES],
            visitor=resources.visitor(response.visitor),
            previous_state=resources.state(response.previous_state),
            previous_identity_id=response.previous_identity_id or None,
            previous_contact_id=response.previous_contact_id or None,
            change_time=milliseconds(response.change_time),
        ),
    )


def _event(query: LiveQuery, response: history.StreamEventsResponse) -> bytes:
    if not response.HasField("event") or not _is_wanted(query, response.event):
        return b""
    stored = response.event
    return _message(b"event", LiveEvent(stored.event.site, event(stored), resources.visitor_snapshot(stored.stamp)))


def _is_wanted(query: LiveQuery, stored: visit_pb2.StoredEvent) -> bool:
    """Whether an event matches the filters, by the visitor at its time. By contact it is not known."""
    return (
        not query.contact_id
        and (not query.site or stored.event.site in query.site)
        and (not query.visit_id or (stored.event.browser_visit_id or stored.event.visit_id) in query.visit_id)
        and (not query.identity_id or stored.stamp.identity_id in query.identity_id)
        and (not query.state or resources.state(stored.stamp.state) in query.state)
        and _matches_staff(query, is_of_staff=bool(stored.event.staff_reason))
    )


def _matches_staff(query: LiveQuery, *, is_of_staff: bool) -> bool:
    wanted = query.staff or ("include" if query.visit_id else "exclude")
    return wanted == "include" or is_of_staff == (wanted == "only")


def _message(name: bytes, data: msgspec.Struct) -> bytes:
    return b"event: %b\ndata: %b\n" % (name, msgspec.json.encode(data).translate(_ONE_LINE))
