"""The endpoint for trackers of other makers: an ASGI application in front of the one for beacons."""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from starlette.types import Receive, Scope, Send

from footfall_gateway import metrics
from footfall_gateway.beacons import (
    PIXEL,
    BeaconEndpoint,
    BeaconError,
    Envelope,
    Headers,
    Outcome,
    Response,
    Sender,
    now_ms,
    send_response,
    sender_of,
)
from footfall_gateway.http import ClientGoneError
from footfall_gateway.problem import Problem
from footfall_gateway.trackers import matomo, posthog, segment, snowplow
from footfall_gateway.trackers.translation import Request

_FIELD_NAMES: Final = re.compile(rb"[A-Za-z0-9-]+( ?, ?[A-Za-z0-9-]+){0,19}")
"""Which fields a page may ask to send. SDKs have many of their own, and other ones with each version."""
_NO_STORE: Final = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_CREDENTIALS: Final = [(b"access-control-allow-credentials", b"true")]
"""Some SDKs send cookies, which nothing here reads."""
_MAX_ASKED: Final = 1_024
_RETRY_S: Final = 2
_GZIP: Final = b"\x1f\x8b"


class _Answer(NamedTuple):
    media_type: bytes
    body: bytes


class _Protocol(NamedTuple):
    """`paths`: what the translator must know of each path. `settings`: what SDKs load from a path before they send."""

    name: str
    paths: Mapping[str, str]
    translate: Callable[[Request, bytes], Envelope]
    success: _Answer
    settings: Callable[[str], bytes | None] = lambda _: None


_JSON: Final = b"application/json"
_PICTURE: Final = _Answer(b"image/gif", PIXEL)
_PROTOCOLS: Final = (
    _Protocol("segment", segment.PATHS, segment.translate, _Answer(_JSON, b'{"success":true}'), segment.settings),
    _Protocol("posthog", posthog.PATHS, posthog.translate, _Answer(_JSON, b'{"status":1}'), posthog.settings),
    _Protocol("snowplow", snowplow.PATHS, snowplow.translate, _PICTURE),
    _Protocol("matomo", matomo.PATHS, matomo.translate, _PICTURE),
)
_BY_PATH: Final = {path: protocol for protocol in _PROTOCOLS for path in protocol.paths}


class TrackerEndpoint:
    """The paths of other trackers, without authentication. A 2xx confirms only events that are on disk."""

    def __init__(self, beacons: BeaconEndpoint) -> None:
        self._beacons = beacons

    def __contains__(self, path: str) -> bool:
        """Whether it serves a path, which may end with a slash."""
        path = path.removesuffix("/")
        return path in _BY_PATH or _settings(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path that `in` has found."""
        headers: Headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"")
        path = scope["path"].removesuffix("/")
        if scope["method"] == "OPTIONS":
            asked = headers.get(b"access-control-request-headers", b"")[:_MAX_ASKED]
            allowed = asked if _FIELD_NAMES.fullmatch(asked) else b"content-type"
            response = Response(204, self._beacons.cors.preflight(origin, allowed))
        elif settings := _settings(path):
            response = self._success(_Answer(_JSON, settings), origin)
        else:
            try:
                response = await self._store(_BY_PATH[path], scope, headers, receive)
            except ClientGoneError:
                return
        with_credentials = [*response.headers, *_CREDENTIALS]
        await send_response(send, Response(response.status, with_credentials, response.body))

    async def _store(self, protocol: _Protocol, scope: Scope, headers: Headers, receive: Receive) -> Response:
        """Store the events of a request. Raises ClientGoneError."""
        origin = headers.get(b"origin", b"")
        request = Request(protocol.paths[scope["path"].removesuffix("/")], scope["query_string"], headers, now_ms())
        sender = sender_of(scope["client"], headers, request.received_ms)
        try:
            self._beacons.admit_request(sender)
            body = await self._body(sender, scope, headers, receive)
            pending = self._beacons.store(sender, origin, body, partial(protocol.translate, request))
            await asyncio.wait([pending.findings])
            response = self._response(protocol, self._beacons.outcome(pending), origin)
        except (BeaconError, Problem) as error:
            response = self._beacons.refusal(origin, error)
        metrics.TRACKER_REQUESTS.labels(protocol.name, str(response.status)).inc()
        return response

    def _response(self, protocol: _Protocol, outcome: Outcome, origin: bytes) -> Response:
        """The response to a request whose events are stored or rejected. Raises Problem 503."""
        if outcome.rejections and not outcome.accepted:
            return self._beacons.response_to(outcome, origin)
        if any(rejection.is_retryable for rejection in outcome.rejections):
            # An SDK sends all or nothing again, and what was stored is not stored twice.
            raise Problem(503, "not every event is stored; send them again", retry_s=_RETRY_S)
        return self._success(protocol.success, origin)

    async def _body(self, sender: Sender, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """What a request says: its body, or the query of a GET. Raises Problem and ClientGoneError."""
        if scope["method"] == "GET":
            query: bytes = scope["query_string"]
            return query
        if scope["method"] != "POST":
            raise Problem(405, "this path accepts only GET and POST", allow="GET, POST, OPTIONS")
        body = await self._beacons.body(sender, headers, receive)
        # posthog-js compresses without a Content-Encoding.
        return self._beacons.unpacked({b"content-encoding": b"gzip"}, body) if body.startswith(_GZIP) else body

    def _success(self, answer: _Answer, origin: bytes) -> Response:
        fields = [(b"content-type", answer.media_type), *_NO_STORE, *self._beacons.cors.headers(origin)]
        return Response(200, fields, answer.body)


def _settings(path: str) -> bytes | None:
    return next(filter(None, (protocol.settings(path) for protocol in _PROTOCOLS)), None)
