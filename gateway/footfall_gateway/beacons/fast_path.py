"""Turns a beacon that arrives in one piece into its answer, without a task and without ASGI messages.

Only the usual case is here: a POST that is all there when its head has been read, has no fault, and is stored whole.
All else goes to the same endpoint the way of every request. Why: docs/adr/0008-beacons-before-asgi.md.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from footfall_gateway.beacons.connection import BoundedConnection
from footfall_gateway.beacons.endpoint import BeaconEndpoint, Stored

_ALIVE: Final = "/healthz"  # whoever does not get an answer there restarts this process
_REFUSAL: Final = [(b"content-length", b"0"), (b"connection", b"close"), (b"retry-after", b"1")]


def beacon_protocol(endpoint: BeaconEndpoint, trusted_proxies: str, path_prefixes: str) -> Any:
    """What uvicorn takes for the class of its connections' protocol. `trusted_proxies` as uvicorn has it."""
    proxies = ProxyHeadersMiddleware(_nothing, trusted_proxies) if trusted_proxies else None  # type: ignore[arg-type]  # its types name TypedDicts
    prefixes = filter(None, path_prefixes.encode().replace(b" ", b"").split(b","))
    return partial(_BeaconProtocol, endpoint, _InFront(proxies, sorted(prefixes, key=len, reverse=True)))


@dataclass(frozen=True, slots=True)
class _InFront:
    """What stands between clients and this process, and what it leaves in a request."""

    proxies: ProxyHeadersMiddleware | None
    path_prefixes: Sequence[bytes]
    """The longest first."""

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
    def __init__(
        self,
        endpoint: BeaconEndpoint,
        in_front: _InFront,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._endpoint = endpoint
        self._in_front = in_front
        self._is_reading_head = False
        self._held: tuple[RequestResponseCycle, Any] | None = None

    def on_headers_complete(self) -> None:
        self._is_reading_head = True
        self.url = self._in_front.without_prefix(self.url)  # before anything looks at the path
        super().on_headers_complete()
        self._is_reading_head = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Hold a beacon back until all of it has been read that is there already."""
        scope = cycle.scope
        if app is service_unavailable:  # uvicorn's answer to too many connections, without the time to wait
            super()._start_asgi_task(cycle, self.app if scope["path"] == _ALIVE else _refuse)
        elif (
            self._is_reading_head  # else it has waited for the answer to an earlier request
            and scope["path"] == "/beacon"
            and scope["method"] == "POST"
            and not cycle.waiting_for_100_continue
        ):
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is None or self._held[0] is not self.cycle:
            return
        cycle, app = self._held
        self._held = None
        if self._in_front.proxies:
            _run_through(self._in_front.proxies, cycle.scope)
        stored = self._endpoint.begin(cast("Scope", cycle.scope), bytes(cycle.body))
        if stored is None:
            super()._start_asgi_task(cycle, app)
        else:
            stored.refused.add_done_callback(partial(self._answer, cycle, stored))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held:  # part of it is still to come
            super()._start_asgi_task(*self._held)
            self._held = None

    def _answer(self, cycle: RequestResponseCycle, stored: Stored, _refused: object) -> None:
        if cycle.disconnected:
            return
        default_headers = self.server_state.default_headers
        answer = None if self.flow.write_paused else self._endpoint.success(stored, default_headers)
        if answer is None:
            super()._start_asgi_task(cycle, partial(self._endpoint.answer, stored))
            return
        self.transport.write(answer if cycle.keep_alive else answer[:-2] + b"connection: close\r\n\r\n")
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _run_through(proxies: ProxyHeadersMiddleware, scope: Any) -> None:
    """Put the client's own address into the scope. Nothing in there waits, so one step is all."""
    try:
        proxies(scope, None, None).send(None)  # type: ignore[arg-type]  # nothing receives or sends
    except StopIteration:
        return
