"""The live stream: identity's transitions and history's events in one stream that can be resumed."""

import asyncio
import re
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway import metrics
from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import Authenticator, Principal
from footfall_gateway.backends import Backends
from footfall_gateway.fields import IdentityId, SiteName, Time
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


class LiveQuery(msgspec.Struct):
    """Filters of the live stream."""

    site: Annotated[str, Meta(description="Only transitions and events of this website.")] = ""


class LiveTransition(msgspec.Struct, rename="camel"):
    """A change of a visitor's state or identity."""

    visitor: Annotated[resources.Visitor, Meta(description="The visitor after the change.")]
    previous_state: Annotated[resources.State, Meta(description="The state before the change.")]
    previous_identity_id: Annotated[
        IdentityId | None, Meta(description="The identity before the change; null: the visitor was anonymous.")
    ]
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
        self._start_s = settings.query_timeout_ms / 1000
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
        """Transitions and events as they happen, as server-sent events.

        A message has `event: transition` or `event: event`; the property of that name in the schema describes its
        data. The stream ends from time to time. Connect again with the last `id` as `Last-Event-ID` to continue it.
        After a reconnect an event can arrive twice: drop duplicates by `eventID`. 409 (RESUME_TOKEN_EXPIRED): the
        messages after that id are no longer available. List the visitors, then connect without `Last-Event-ID`.
        """
        site = call.principal.site_filter(call.query.site)
        positions = _positions(call.headers.get(_ID_HEADER.lower(), ""))
        if self._open >= self._max_open:
            raise Problem(503, "too many live streams are open; try again later", retry_s=10)
        self._open += 1
        metrics.LIVE_STREAMS.inc()
        stream = Stream(
            self._sources(call.principal, site, *positions),
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

    def _sources(self, principal: Principal, site: str, visitors_token: str, events_token: str) -> list[Source]:
        visitors = identity.WatchVisitorsRequest(site=site, resume_token=visitors_token, announce_progress=True)
        events = history.StreamEventsRequest(site=site, resume_token=events_token, announce_progress=True)
        stream = partial(
            self._backends.stream, principal=principal, parameters={"resume_token": _ID_HEADER}, is_endless=True
        )
        return [
            Source(stream(self._backends.identity.WatchVisitors, visitors), _transition),
            Source(stream(self._backends.history.StreamEvents, events), _event),
        ]


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
            visitor=resources.visitor(response.visitor),
            previous_state=resources.state(response.previous_state),
            previous_identity_id=response.previous_identity_id or None,
            change_time=milliseconds(response.change_time),
        ),
    )


def _event(response: history.StreamEventsResponse) -> bytes:
    if not response.HasField("event"):
        return b""
    stored = response.event
    return _message(b"event", LiveEvent(stored.event.site, event(stored), resources.visitor_snapshot(stored.stamp)))


def _message(name: bytes, data: msgspec.Struct) -> bytes:
    return b"event: %b\ndata: %b\n" % (name, msgspec.json.encode(data).translate(_ONE_LINE))
