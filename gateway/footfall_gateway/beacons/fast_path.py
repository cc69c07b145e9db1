"""The fast path for beacons: a response without a task and without ASGI messages.

It serves the usual case: a POST whose head and body arrive together, without a fault, and whose events are all stored.
Every other request reaches the same endpoint by ASGI. Why: docs/adr/0008-beacons-before-asgi.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from footfall_gateway.beacons.connection import BoundedConnection
from footfall_gateway.beacons.endpoint import BeaconEndpoint, PendingBeacon

_HEALTH_PATH: Final = "/healthz"  # an orchestrator restarts a process that does not answer there
_REFUSAL: Final = [(b"content-length", b"0"), (b"connection", b"close"), (b"retry-after", b"1")]


def beacon_protocol(endpoint: BeaconEndpoint, trusted_proxies: str, path_prefixes: str) -> Any:
    """The protocol factory for uvicorn. `trusted_proxies` has uvicorn's format."""
    proxies = ProxyHeadersMiddleware(_nothing, trusted_proxies) if trusted_proxies else None  # type: ignore[arg-type]  # its types name TypedDicts
    prefixes = filter(None, path_prefixes.encode().replace(b" ", b"").split(b","))
    return partial(_BeaconProtocol, endpoint, _FrontProxy(proxies, sorted(prefixes, key=len, reverse=True)))


@dataclass(frozen=True, slots=True)
class _FrontProxy:
    """The proxies in front of this process, and the path prefixes that they leave in a request."""

    proxies: ProxyHeadersMiddleware | None
    path_prefixes: Sequence[bytes]
    """Longest first."""

    def without_prefix(self, url: bytes) -> bytes:
        for prefix in self.path_prefixes:
            if url.startswith(prefix + b"/"):
                return url.removeprefix(prefix)
        return url


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    pass


async def _refuse(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 503, "headers": _REFUSAL})
    await send({"type": "http.response.body", "body": b""})


class _BeaconProtocol(BoundedConnection):
    def __init__(self, endpoint: BeaconEndpoint, front: _FrontProxy, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._endpoint = endpoint
        self._front = front
        self._is_reading_head = False
        self._held_back: tuple[RequestResponseCycle, Any] | None = None

    def on_headers_complete(self) -> None:
        self._is_reading_head = True
        self.url = self._front.without_prefix(self.url)  # before the path is used
        super().on_headers_complete()
        self._is_reading_head = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Hold a beacon back until the bytes that have arrived are parsed."""
        scope = cycle.scope
        if app is service_unavailable:  # uvicorn's response to too many connections, which has no Retry-After
            super()._start_asgi_task(cycle, self.app if scope["path"] == _HEALTH_PATH else _refuse)
        elif (
            self._is_reading_head  # else the request has waited for the response to an earlier one
            and scope["path"] == "/beacon"
            and scope["method"] == "POST"
            and not cycle.waiting_for_100_continue
        ):
            self._held_back = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held_back is None or self._held_back[0] is not self.cycle:
            return
        cycle, app = self._held_back
        self._held_back = None
        if self._front.proxies:
            _apply_proxy_headers(self._front.proxies, cycle.scope)
        pending = self._endpoint.begin(cast("Scope", cycle.scope), bytes(cycle.body))
        if pending is None:
            super()._start_asgi_task(cycle, app)
        else:
            pending.refused.add_done_callback(partial(self._respond, cycle, pending))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held_back:  # a part of the body has not arrived
            super()._start_asgi_task(*self._held_back)
            self._held_back = None

    def _respond(self, cycle: RequestResponseCycle, pending: PendingBeacon, _refused: object) -> None:
        if cycle.disconnected:
            return
        default_headers = self.server_state.default_headers
        response = None if self.flow.write_paused else self._endpoint.success_response(pending, default_headers)
        if response is None:
            super()._start_asgi_task(cycle, partial(self._endpoint.respond, pending))
            return
        self.transport.write(response if cycle.keep_alive else response[:-2] + b"connection: close\r\n\r\n")
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _apply_proxy_headers(proxies: ProxyHeadersMiddleware, scope: Any) -> None:
    """Put the client's address into the scope. The middleware awaits nothing, so one step completes it."""
    try:
        proxies(scope, None, None).send(None)  # type: ignore[arg-type]  # nothing receives or sends
    except StopIteration:
        return
