"""The endpoint for beacons: an ASGI application that is called before any framework."""

import asyncio
import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, NamedTuple

import msgspec
from footfall_eventlog.events import MAX_EVENTS
from footfall_eventlog.sites import Site, Sites
from msgspec import Meta
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from footfall_gateway import metrics
from footfall_gateway.beacons.connection import MAX_PIXEL_QUERY
from footfall_gateway.beacons.cors import MAX_ORIGIN_LENGTH, Cors, RawHeaders
from footfall_gateway.beacons.envelope import BeaconError, Envelope, TooManyEventsError, decode_beacon
from footfall_gateway.beacons.intake import IGNORED_REASONS, REASONS, Finding, Intake, Outcome, Sender, now_ms
from footfall_gateway.beacons.rate_limit import RateLimiter
from footfall_gateway.http import MAX_BODY, BodyReader, ClientGoneError, unpack
from footfall_gateway.problem import Problem

PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")

# A parser of queries would make two strings of each parameter, and a query may have thousands.
_PIXEL_VALUE = re.compile(rb"(?:^|&)e=([^&]+)")
_ESCAPED_BASE64 = {b"%%%02X" % code: b"%c" % code for code in b"=-_+/"} | {
    b"%%%02x" % code: b"%c" % code for code in b"=-_+/"
}
_MAX_USER_AGENT_LENGTH = 1_024
_MAX_TRACEPARENT_LENGTH = 256
_MAX_CONFIRMATIONS = 1_024
_RETRY_S = b"2"
_EXPOSE_RETRY_AFTER = (b"access-control-expose-headers", b"retry-after")
"""Lets pages of other origins read Retry-After."""
_CONTENT_TYPES = {b"application/json", b"text/plain"}
_NO_STORE: RawHeaders = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_JSON: RawHeaders = [(b"content-type", b"application/json"), *_NO_STORE]
_GIF: RawHeaders = [(b"content-type", b"image/gif"), *_NO_STORE]
_encode = msgspec.json.Encoder().encode

Client = tuple[str, int] | None
"""Address and port of the sender of a request."""
Headers = dict[bytes, bytes]
"""The fields of a request; the last one of those with the same name."""


EventIndex = Annotated[int, Meta(description="The position of the event in the beacon, from 0.", ge=0)]
SentEventId = Annotated[str | None, Meta(description="`eventID` as sent, cut to 64 characters; null: not given.")]


class RejectedEvent(msgspec.Struct, omit_defaults=True):
    """An event that was not stored."""

    index: EventIndex
    event_id: SentEventId = msgspec.field(name="eventID")
    reason: Annotated[
        str,
        Meta(
            description="Why. Later versions may have more reasons.",
            extra_json_schema={"examples": [*sorted(REASONS.values()), "unavailable"]},
        ),
    ]
    message: Annotated[str, Meta(description="The field and its rule, in English.")]
    retry: Annotated[bool, Meta(description="Whether to send the event again. Only for the reason `unavailable`.")] = (
        False
    )


class IgnoredEvent(msgspec.Struct):
    """A stored event whose user id names no person. It changes nothing about who the visitor is."""

    index: EventIndex
    event_id: SentEventId = msgspec.field(name="eventID")
    reason: Annotated[
        str,
        Meta(
            description="Why. Later versions may have more reasons.",
            extra_json_schema={"examples": sorted(IGNORED_REASONS.values())},
        ),
    ]
    message: Annotated[str, Meta(description="What is wrong, in English.")]


class BeaconResponse(msgspec.Struct, omit_defaults=True):
    """The outcome of a beacon that was not stored completely, or has user ids that name no person."""

    accepted: Annotated[
        int, Meta(description="The number of events that are on disk, or left out for Global Privacy Control.", ge=0)
    ]
    rejected: Annotated[list[RejectedEvent], Meta(description="The events that are not stored.", max_length=MAX_EVENTS)]
    message: Annotated[str, Meta(description="What is wrong with the request as a whole. Left out: nothing.")] = ""
    ignored: Annotated[
        list[IgnoredEvent],
        Meta(
            description="Stored SignIn and UserInfo events whose user ids name no person. Left out: none.",
            max_length=MAX_EVENTS,
        ),
    ] = []


@dataclass(slots=True)
class Response:
    """A response to a beacon, without the headers of the server."""

    status: int
    headers: RawHeaders
    body: bytes = b""
    _head: bytes = field(default=b"", init=False)

    def all_headers(self) -> RawHeaders:
        """The headers, with `content-length` unless the status has no body."""
        return self.headers if self.status == 204 else [*self.headers, (b"content-length", b"%d" % len(self.body))]

    def head(self) -> bytes:
        """The status line and the lines of all headers, made once."""
        if not self._head:
            self._head = STATUS_LINE[self.status] + header_lines(self.all_headers())
        return self._head


class PendingBeacon(NamedTuple):
    """A beacon that is being stored. `findings` completes with what the collector reports of its events."""

    origin: bytes
    envelope: Envelope
    findings: asyncio.Future[list[Finding]]


def header_lines(headers: RawHeaders) -> bytes:
    """The lines of headers in HTTP/1.1."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class BeaconEndpoint:
    """`POST /beacon` and `GET /beacon.gif`, without authentication.

    A 2xx confirms only events that are on disk. `begin` and `response` serve a POST without ASGI (fast_path.py).
    """

    paths = frozenset(("/beacon", "/beacon.gif"))

    def __init__(
        self, intake: Intake, sites: Sites[Site], limiter: RateLimiter, bodies: BodyReader, max_gzip_ratio: int
    ) -> None:
        self._intake = intake
        self._sites = sites
        self.cors = Cors(sites)
        self._limiter = limiter
        self._has_site_limits = bool(limiter.sites)
        self._bodies = bodies
        self._confirmations: dict[bytes, Response] = {}
        self._max_gzip_ratio = max_gzip_ratio
        self._status_counters = {status: metrics.BEACONS.labels(str(status)) for status in (200, 204, 400, 503)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        received_ms = now_ms()
        headers: Headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"")
        is_pixel = scope["path"] == "/beacon.gif"
        if scope["method"] == "OPTIONS":
            await send_response(send, Response(204, [(b"allow", b"GET")] if is_pixel else self.cors.preflight(origin)))
            return
        sender = sender_of(scope["client"], headers, received_ms)
        try:
            self.admit_request(sender)
            body = _pixel_body(scope) if is_pixel else await self._posted(sender, scope, headers, receive)
            pending = self.store(sender, origin, body)
            await asyncio.wait([pending.findings])
            response = self.response(pending, is_pixel=is_pixel)
        except ClientGoneError:
            return
        except (BeaconError, Problem) as error:
            response = self.refusal(origin, error)
        if is_pixel and response.status == 204:
            response = Response(200, [*_GIF, *response.headers], PIXEL)
        await send_response(send, response)

    def begin(self, client: Client, headers: Headers, body: bytes) -> PendingBeacon | Response:
        """Begin to store a POST whose body is complete. A response: it is refused, and nothing was begun."""
        origin = headers.get(b"origin", b"")
        sender = sender_of(client, headers, now_ms())
        try:
            if b"content-encoding" in headers:
                self.admit_request(sender)
                _require_json(headers)
                return self.store(sender, origin, self.unpacked(headers, body))
            self._limiter.admit(sender.address, 1, len(body))
            _require_json(headers)
            return self._store(sender, origin, body, decode_beacon)
        except (BeaconError, Problem) as error:
            return self.refusal(origin, error)

    def response(self, pending: PendingBeacon, *, is_pixel: bool = False) -> Response:
        """The response to a beacon whose outcome is known. Raises what storing it has raised, but Problem."""
        try:
            outcome = self.outcome(pending)
        except Problem as problem:
            return self.refusal(pending.origin, problem)
        if is_pixel:  # a browser shows the answer only if it is a picture
            outcome.ignored.clear()
        return self.response_to(outcome, pending.origin)

    def response_to(self, outcome: Outcome, origin: bytes) -> Response:
        """The response to a beacon with this outcome."""
        if not outcome.rejections and not outcome.ignored:
            self._count(204)
            return self._confirmation(origin)
        status, answer, extra = _response_to(outcome)
        self._count(status)
        return Response(status, [*_JSON, *self.cors.headers(origin), *extra], _encode(answer))

    def _confirmation(self, origin: bytes) -> Response:
        """The response to a beacon of this origin that is stored completely."""
        response, headers = self._confirmations.get(origin), self.cors.headers(origin)
        if response is None or response.headers is not headers:
            response = Response(204, headers)
            if len(origin) <= MAX_ORIGIN_LENGTH:
                if len(self._confirmations) >= _MAX_CONFIRMATIONS:
                    self._confirmations.clear()
                self._confirmations[origin] = response
        return response

    def admit_request(self, sender: Sender) -> None:
        """Count a request as one event, before its body is read. Raises Problem 429."""
        self._limiter.admit(sender.address, 1, 0)

    async def body(self, sender: Sender, headers: Headers, receive: Receive) -> bytes:
        """The body of a request, without its Content-Encoding. Raises Problem and ClientGoneError.

        A body beyond the limit of its address is refused as soon as that is known. The rest of it is not kept.
        """
        check_size = partial(self._limiter.check, sender.address, 0)
        check_size(min(int(headers.get(b"content-length", 0)), MAX_BODY))
        return self.unpacked(headers, await self._bodies.read(receive, check_size))

    def outcome(self, pending: PendingBeacon) -> Outcome:
        """The outcome of a beacon, once it is known. Raises what storing it has raised."""
        return self._intake.outcome(pending.envelope, pending.findings.result())

    def store(
        self, sender: Sender, origin: bytes, body: bytes, decode: Callable[[bytes], Envelope] = decode_beacon
    ) -> PendingBeacon:
        """Begin to store a body that was already counted as one event. Raises BeaconError, and Problem 429 or 503."""
        self._limiter.admit(sender.address, 0, len(body))
        return self._store(sender, origin, body, decode)

    def _store(self, sender: Sender, origin: bytes, body: bytes, decode: Callable[[bytes], Envelope]) -> PendingBeacon:
        """Begin to store a body whose bytes were counted as well."""
        envelope = self._read(sender.address, body, decode)
        self._admit_to_sites(envelope, sender, len(body))
        return PendingBeacon(origin, envelope, self._intake.begin(sender, envelope, len(body)))

    def refusal(self, origin: bytes, error: BeaconError | Problem) -> Response:
        """The response to a request that is refused as a whole."""
        if isinstance(error, Problem):
            status, message = error.status, error.message
            extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
            extra += [_EXPOSE_RETRY_AFTER] * ("retry-after" in error.headers)
        else:
            status, message, extra = (413 if isinstance(error, TooManyEventsError) else 400), str(error), []
        self._count(status)
        return Response(status, [*_JSON, *self.cors.headers(origin), *extra], _encode(BeaconResponse(0, [], message)))

    def _count(self, status: int) -> None:
        (self._status_counters.get(status) or metrics.BEACONS.labels(str(status))).inc()

    def unpacked(self, headers: Headers, body: bytes) -> bytes:
        """A body without its Content-Encoding. Raises Problem 400, 413 or 415."""
        encoding = headers.get(b"content-encoding")
        return unpack(encoding.decode("latin-1"), body, self._max_gzip_ratio) if encoding else body

    def _read(self, address: str, body: bytes, decode: Callable[[bytes], Envelope]) -> Envelope:
        """Decode a body, and count its further events. Raises BeaconError, and Problem 429."""
        try:
            envelope = decode(body)
        except BeaconError as error:
            self._limiter.add(address, error.events - 1, 0)
            raise
        if (further := len(envelope.events) + len(envelope.rejections) - 1) > 0:
            self._limiter.admit(address, further, 0)
        return envelope

    def _admit_to_sites(self, envelope: Envelope, sender: Sender, size: int) -> None:
        """Count events for their sites. Raises Problem 429, and counts nothing, when one site is beyond its limit."""
        if not self._has_site_limits:
            return
        limits = self._limiter.sites
        find, origin = self._sites.find, sender.origin
        found = (find(event.site or envelope.site or "", origin) for event in envelope.events)
        counts = Counter(site.name for site in found if site)  # the collector rejects events without a site
        parts = {site: (events, size * events // len(envelope.events)) for site, events in counts.items()}
        if wait_s := max((limits.wait_s(site, *part) for site, part in parts.items()), default=0):
            raise Problem(429, "too many events or bytes for this site; try again later", retry_s=wait_s)
        for site, part in parts.items():
            limits.add(site, *part)

    async def _posted(self, sender: Sender, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise Problem(405, "this path accepts only POST", allow="POST, OPTIONS")
        _require_json(headers)
        return await self.body(sender, headers, receive)


def _require_json(headers: Headers) -> None:
    """Raises Problem 415 for a body that is not declared as JSON or text."""
    media_type = headers.get(b"content-type", b"").partition(b";")[0].rstrip().lower()
    if media_type not in _CONTENT_TYPES:
        raise Problem(415, "Content-Type: must be application/json or text/plain")


def _pixel_body(scope: Scope) -> bytes:
    if scope["method"] != "GET":
        raise Problem(405, "this path accepts only GET", allow="GET, OPTIONS")
    query = scope["query_string"]
    if len(query) > MAX_PIXEL_QUERY:
        raise Problem(414, f"the query has more than {MAX_PIXEL_QUERY} bytes")
    value = _PIXEL_VALUE.search(query)
    if not value:
        raise BeaconError("e: must be given")
    text: bytes = value[1]
    for escaped, character in _ESCAPED_BASE64.items():
        text = text.replace(escaped, character)
    text = text.rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BeaconError("e: is not base64url") from None


def sender_of(client: Client, headers: Headers, received_ms: int) -> Sender:
    """The sender of a request."""
    get, traceparent, sec_gpc = headers.get, headers.get(b"traceparent"), headers.get(b"sec-gpc")
    return Sender(
        received_ms,
        # One character more than any origin of a site, so that a cut origin never matches one.
        get(b"origin", b"")[: MAX_ORIGIN_LENGTH + 1].decode("latin-1"),
        get(b"user-agent", b"")[:_MAX_USER_AGENT_LENGTH].decode("latin-1"),
        client[0] if client else "",
        traceparent[:_MAX_TRACEPARENT_LENGTH].decode("latin-1") if traceparent else "",
        sec_gpc is not None and _has_opted_out(sec_gpc),
    )


def _has_opted_out(sec_gpc: bytes) -> bool:
    """Whether the header is `1`. It may be there twice, from a browser and from a proxy."""
    return sec_gpc == b"1" or b"1" in map(bytes.strip, sec_gpc.split(b","))


def _response_to(outcome: Outcome) -> tuple[int, BeaconResponse, RawHeaders]:
    """Status, body and extra headers for an outcome that a sender has to know of."""
    rejected = [RejectedEvent(*rejection) for rejection in outcome.rejections]
    ignored = [IgnoredEvent(*found) for found in outcome.ignored]
    answer = BeaconResponse(outcome.accepted, rejected, ignored=ignored)
    if outcome.accepted:
        return 200, answer, []
    if any(rejection.is_retryable for rejection in outcome.rejections):
        return 503, answer, [(b"retry-after", _RETRY_S), _EXPOSE_RETRY_AFTER]
    return 400, answer, []


async def send_response(send: Send, response: Response) -> None:
    """Send a response by ASGI."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.all_headers()})
    await send({"type": "http.response.body", "body": response.body})
