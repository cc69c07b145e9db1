"""Turns identity's transitions and history's events into one live stream of both, which can be resumed."""

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
from footfall_gateway.history_api import Event, event, milliseconds
from footfall_gateway.http import (
    ID_SEPARATOR,
    STREAM_HEADERS,
    STREAM_RETRY,
    Call,
    Operation,
    Source,
    Stream,
    StreamAnswer,
)
from footfall_gateway.problem import Problem
from footfall_gateway.settings import GatewaySettings

_ID_HEADER: Final = "Last-Event-ID"
_ID = re.compile(rf"([!-}}]+){ID_SEPARATOR}([!-}}]+)")
_FULL_RETRY_S: Final = 10
_EXPIRED: Final = "RESUME_TOKEN_EXPIRED"
"""What both services call a place in their stream that is no longer kept."""
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
"""A page's `data` is verbatim. In JSON line ends stand between tokens only; here they would end the message."""


class LiveQuery(msgspec.Struct):
    """Which part of what happens."""

    site: Annotated[str, Meta(description="Only what happens on this website.")] = ""


class LiveTransition(msgspec.Struct, rename="camel"):
    """A visitor whose state or identity has changed, and what they were before."""

    visitor: resources.Visitor
    previous_state: resources.State
    previous_identity_id: str | None
    change_time: int


class LiveEvent(msgspec.Struct, rename="camel"):
    """An event that has arrived, and who the visitor was when it happened, by what is known so far."""

    site: str
    event: Event
    visitor: resources.Moment


class LiveMessage(msgspec.Struct):
    """What the data of a message is, by the name of its event."""

    transition: LiveTransition
    event: LiveEvent


class LiveApi:
    """What happens, as it happens. All streams end when `stopping` is set."""

    def __init__(
        self, backends: Backends, authenticator: Authenticator, settings: GatewaySettings, stopping: asyncio.Event
    ) -> None:
        self._backends = backends
        self._authenticator = authenticator
        self._stopping = stopping
        self._beat_s = settings.live_heartbeat_ms / 1000
        self._begin_s = settings.query_timeout_ms / 1000
        self._most = settings.max_live_streams
        self._open = 0

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        headers = {_ID_HEADER: "The `id` of the last message received: go on behind it."}
        media_type = STREAM_HEADERS["content-type"]
        return [
            Operation(
                "watchLive", "GET", "/live", self.live, LiveQuery, LiveMessage, headers=headers, media_type=media_type
            )
        ]

    async def live(self, call: Call[LiveQuery, None]) -> Response:
        """Transitions of visitors and events as they happen, as server-sent events.

        The data of a message with `event: transition` or `event: event` is what stands below under that name. The
        stream ends from time to time; come again with the last `id` as `Last-Event-ID`, and it goes on: each transition
        comes once, each event once or, when the stream was cut within a beacon, again. 409 (RESUME_TOKEN_EXPIRED) when
        what followed that id is no longer kept: list the visitors, and begin without it.
        """
        site = call.principal.filter(call.query.site)
        positions = _positions(call.headers.get(_ID_HEADER.lower(), ""))
        if self._open >= self._most:
            raise Problem(503, "as many live streams as may be are open", retry_s=_FULL_RETRY_S)
        self._open += 1
        metrics.LIVE_STREAMS.inc()
        stream = Stream(
            self._sources(call.principal, site, *positions),
            is_allowed=self._authenticator.standing(call.principal),
            stopping=self._stopping,
            beat_s=self._beat_s,
        )
        try:
            await stream.begin(self._begin_s)
        except BaseException as error:
            await self._close(stream)
            if isinstance(error, Problem):
                return _without_stream(error, is_resumed=any(positions))
            raise
        return StreamAnswer(stream, partial(self._close, stream))

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
    """Where both streams are to go on; empty for the present."""
    if not last_id:
        return "", ""
    found = _ID.fullmatch(last_id)
    if found is None:
        raise Problem.parameter(_ID_HEADER, "must be the id of a message of this stream")
    return found[1], found[2]


def _without_stream(problem: Problem, *, is_resumed: bool) -> Response:
    """The answer instead of a stream. EventSource comes again after a stream that ends, and never after an error."""
    if problem.status == 409:
        text = f"{_ID_HEADER}: what followed it is no longer kept; list the visitors, and begin without it ({_EXPIRED})"
        raise Problem(409, text)
    if is_resumed and problem.status in {503, 504}:
        return Response(STREAM_RETRY + b"\n", headers=STREAM_HEADERS)
    raise problem


def _transition(answer: identity.WatchVisitorsResponse) -> bytes:
    if not answer.HasField("visitor"):
        return b""
    return _message(
        b"transition",
        LiveTransition(
            visitor=resources.visitor(answer.visitor),
            previous_state=resources.state(answer.previous_state),
            previous_identity_id=answer.previous_identity_id or None,
            change_time=milliseconds(answer.change_time),
        ),
    )


def _event(answer: history.StreamEventsResponse) -> bytes:
    if not answer.HasField("event"):
        return b""
    stored = answer.event
    return _message(b"event", LiveEvent(stored.event.site, event(stored), resources.moment(stored.stamp)))


def _message(name: bytes, data: msgspec.Struct) -> bytes:
    return b"event: %b\ndata: %b\n" % (name, msgspec.json.encode(data).translate(_ONE_LINE))
