"""The connection of the gateway: it serves a beacon whose head and body arrive together without ASGI.

Nothing of uvicorn's request is made for it: no scope, cycle, task or message. uvicorn serves every other request, and
the same endpoint serves both kinds of beacons. Why: docs/adr/0008-beacons-before-asgi.md.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import structlog
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from footfall_gateway import metrics
from footfall_gateway.beacons.connection import BoundedConnection
from footfall_gateway.beacons.cors import RawHeaders
from footfall_gateway.beacons.endpoint import BeaconEndpoint, Client, PendingBeacon, Response, header_lines
from footfall_gateway.beacons.open_connections import OpenConnections

_HEALTH_PATHS: Final = {"/healthz", "/readyz", "/readyz/beacons", "/readyz/queries"}  # are always answered
_FAILURE: Final = Response(500, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error")
_REFUSAL: Final = [(b"content-length", b"0"), (b"connection", b"close"), (b"retry-after", b"1")]

_log = structlog.get_logger()


def beacon_protocol(
    endpoint: BeaconEndpoint, open_connections: OpenConnections, trusted_proxies: str, path_prefixes: str
) -> Any:
    """The protocol factory for uvicorn. `trusted_proxies` has uvicorn's format."""
    proxies = ProxyHeadersMiddleware(_nothing, trusted_proxies) if trusted_proxies else None  # type: ignore[arg-type]  # its types name TypedDicts
    prefixes = filter(None, path_prefixes.encode().replace(b" ", b"").split(b","))
    front = _FrontProxy(proxies, sorted(prefixes, key=len, reverse=True))
    return partial(_BeaconProtocol, endpoint, front, _ServerLines(), open_connections=open_connections)


@dataclass(frozen=True, slots=True)
class _FrontProxy:
    """The proxies in front of this process, and the path prefixes that they leave in a request."""

    proxies: ProxyHeadersMiddleware | None
    path_prefixes: Sequence[bytes]
    """Longest first."""

    def client(self, peer: Client, fields: RawHeaders) -> Client:
        """The client of a request: the peer, or the one that a trusted proxy names."""
        if self.proxies is None:
            return peer
        scope: Any = {"type": "http", "client": peer, "headers": fields}
        # The middleware awaits nothing, so one step completes it.
        with suppress(StopIteration):
            self.proxies(scope, None, None).send(None)  # type: ignore[arg-type]  # nothing receives or sends
        client: Client = scope["client"]
        return client

    def without_prefix(self, url: bytes) -> bytes:
        for prefix in self.path_prefixes:
            if url.startswith(prefix + b"/"):
                return url.removeprefix(prefix)
        return url


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    pass


class _ServerLines:
    """The lines of the headers that every response has. uvicorn makes a new list of them every second, for the date."""

    def __init__(self) -> None:
        self._headers: RawHeaders = []
        self._lines = b""

    def of(self, headers: RawHeaders) -> bytes:
        if headers is not self._headers:
            self._headers, self._lines = headers, header_lines(headers)
        return self._lines


class _Beacon:
    """A beacon that is served without ASGI, with what uvicorn's connection uses of the cycle of a request."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "response_complete")
    message_event = asyncio.Event()  # nothing waits for it
    response_started = False

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.disconnected = self.more_body = self.response_complete = False


class _BeaconProtocol(BoundedConnection):
    _held_fields: RawHeaders | None = None  # of a beacon whose body is not complete
    _held_body = b""
    _unsent: tuple[_Beacon, Response] | None = None

    def __init__(
        self, endpoint: BeaconEndpoint, front: _FrontProxy, server_lines: _ServerLines, **uvicorn_arguments: Any
    ) -> None:
        super().__init__(**uvicorn_arguments)
        self._endpoint = endpoint
        self._front = front
        self._server_lines = server_lines

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held_fields is not None and not self.transport.is_closing():
            self._release()

    def on_headers_complete(self) -> None:
        self.url = self._front.without_prefix(self.url)  # before the path is used
        super().on_headers_complete()

    def _serve(self) -> None:
        """Hold a beacon back until the bytes that have arrived are parsed."""
        if self.url == b"/beacon" and self.parser.get_method() == b"POST" and self._can_respond_directly():
            self._held_fields = self.headers
        else:
            super()._serve()

    def _can_respond_directly(self) -> bool:
        """Whether no earlier request waits for its response, and uvicorn need not refuse or interrupt this one."""
        is_idle = self.cycle is None or self.cycle.response_complete
        limit = self.limit_concurrency
        has_room = limit is None or (len(self.connections) < limit and len(self.tasks) < limit)
        return is_idle and has_room and not (self.expect_100_continue or self.parser.should_upgrade())

    def _release(self) -> None:
        """Let uvicorn serve the beacon that is held back."""
        self.headers, self._held_fields = self._held_fields or [], None
        super()._serve()
        self.headers = []
        body, self._held_body = self._held_body, b""
        if body:
            super().on_body(body)

    def on_body(self, body: bytes) -> None:
        if self._held_fields is None:
            super().on_body(body)
        elif self._held_body:  # a chunked body: uvicorn has a buffer for its parts
            self._release()
            super().on_body(body)
        else:
            self._held_body = body

    def on_message_complete(self) -> None:
        fields, body = self._held_fields, self._held_body
        self._held_fields, self._held_body = None, b""
        if fields is None:
            super().on_message_complete()
            return
        beacon = _Beacon(self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive())
        self.cycle = self._served = cast("RequestResponseCycle", beacon)
        self._end_request()
        begun = self._endpoint.begin(self._front.client(self.client, fields), self.fields, body)
        self.fields = {}  # an idle connection keeps nothing of its last request
        if isinstance(begun, Response):
            self.loop.call_soon(self._respond, beacon, begun)  # behind it there may be requests in the same chunk
        else:
            begun.findings.add_done_callback(partial(self._finish, beacon, begun))

    def _finish(self, beacon: _Beacon, pending: PendingBeacon, _refused: object) -> None:
        if beacon.disconnected:
            return
        try:
            response = self._endpoint.response(pending)
        except Exception:
            _log.exception("request failed")  # the event loop would log the events of the beacon with it
            beacon.keep_alive = False
            response = _FAILURE
        self._respond(beacon, response)

    def _respond(self, beacon: _Beacon, response: Response) -> None:
        if beacon.disconnected:
            return
        if self.flow.write_paused:
            self._unsent = beacon, response
            return
        server_lines = self._server_lines.of(self.server_state.default_headers)
        end = b"\r\n" if beacon.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join([response.head(), server_lines, end, response.body]))
        beacon.response_complete = True
        if not beacon.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unsent:
            unsent, self._unsent = self._unsent, None
            self._respond(*unsent)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if app is service_unavailable:  # uvicorn's response to too many connections, which has no Retry-After
            app = self.app if cycle.scope["path"] in _HEALTH_PATHS else self._refuse
        super()._start_asgi_task(cycle, app)

    async def _refuse(self, _scope: Any, _receive: Any, send: Any) -> None:
        metrics.REFUSED_REQUESTS.labels("address" if self.is_one_too_many else "all").inc()
        await send({"type": "http.response.start", "status": 503, "headers": _REFUSAL})
        await send({"type": "http.response.body", "body": b""})
