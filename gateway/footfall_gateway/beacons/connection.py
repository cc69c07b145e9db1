"""HTTP connections that refuse malformed, ambiguous, oversized and slow requests.

llhttp, the parser below uvicorn's protocol, refuses ambiguous requests: Content-Length twice or beside
Transfer-Encoding, folded lines, lines that end in LF alone. This module refuses the rest.
"""

import math
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from footfall_gateway.beacons.open_connections import OpenConnections
from footfall_gateway.http import MAX_BODY, MAX_DISCARDED

MAX_FIELDS = 100
MAX_FIELDS_BYTES = 64 * 1024
"""Names and values of all header fields of one request, cookies included."""

MAX_URL_BYTES = 16 * 1024

MAX_PIXEL_BYTES = 65_535
"""The longest URL that llhttp parses. A longer URL of the pixel is cut off here, and its endpoint answers 414."""

MAX_PIXEL_QUERY = 65_000

MAX_PIPELINED = 100
"""Requests that wait for the responses to earlier ones. uvicorn has no limit for them."""

_MAX_HEAD_BYTES = MAX_BODY + MAX_FIELDS_BYTES
_MAX_REQUEST_BYTES = 2 * MAX_DISCARDED
"""On the wire, where chunked encoding makes a body larger."""

_PIXEL = b"/beacon.gif?"
_STALLED_S = 1.0
"""A client that has read nothing for so long may lose the rest of its response when room is needed."""


class _RefusedError(Exception):
    """The head of a request is refused. uvicorn then calls `send_400_response`."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with limits for malformed, oversized and slow requests."""

    fields: dict[bytes, bytes]
    """The fields of the newest request; the last one of those with the same name."""

    # The state of a new connection.
    _is_in_head = True
    _is_between_requests = False  # a new connection without a request counts as slow
    _chunk_bytes = _request_bytes = 0
    _refusal = 400
    _waits_since: float | None = None
    _served: RequestResponseCycle | None = None

    def __init__(self, open_connections: OpenConnections, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._open_connections = open_connections
        self.is_one_too_many = False
        """Whether its address had too many connections when it was opened: then its requests are refused."""

    def connection_made(self, transport: Any) -> None:
        """Add the connection to the open ones."""
        super().connection_made(transport)
        if not self._open_connections.add(self, self.client[0] if self.client else ""):
            self.is_one_too_many = True
            self.limit_concurrency = 0  # uvicorn refuses requests from this number of connections on

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the open ones."""
        super().connection_lost(exc)
        if self._served:  # uvicorn notifies only the newest request, which may wait behind this one
            self._served.disconnected = True
            self._served.message_event.set()
        self._open_connections.remove(self)

    def data_received(self, data: bytes) -> None:
        """Parse more of the request; refuse it when it is too long."""
        if self._is_between_requests:
            self._is_between_requests, self._request_bytes, self._waits_since = False, 0, None
        self._chunk_bytes = len(data)
        self._request_bytes += self._chunk_bytes
        super().data_received(data)
        is_too_long = self._request_bytes > (_MAX_HEAD_BYTES if self._is_in_head else _MAX_REQUEST_BYTES)
        if (is_too_long or len(self.headers or ()) > MAX_FIELDS) and not self.transport.is_closing():
            self._refusal = 431
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """The head of a request begins."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._is_in_head, self._is_between_requests = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field. Space after a value is not part of it (RFC 9110, 5.5)."""
        self.headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse its head."""
        self._is_in_head = False
        self._check_head()
        self._serve()
        self.headers = []  # trailer fields are ignored
        if self.parser.should_upgrade():  # llhttp parses no further request
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is complete."""
        super().on_message_complete()
        self._end_request()

    def _end_request(self) -> None:
        # This chunk may contain a part of the next request.
        self._is_between_requests, self._request_bytes = True, self._chunk_bytes
        self._waits_since = None

    def on_response_complete(self) -> None:
        """Go on with the next request. uvicorn would start a timer for an idle connection, and stop it later."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        """The client has read a part of the response."""
        super().resume_writing()
        self._waits_since = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message is not sent
        """Refuse the request being read, and close. No response when it could be taken for an earlier request's."""
        cycle = self.cycle
        is_being_read = cycle and cycle.more_body and not cycle.response_started and not self.pipeline
        if not cycle or cycle.response_complete or is_being_read:
            self.transport.write(STATUS_LINE[self._refusal] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def may_be_closed(self, now_s: float) -> bool:
        """Whether no complete request waits for its answer, and no client reads one."""
        if self.transport.get_write_buffer_size():
            return self._waits_since is not None and now_s - self._waits_since >= _STALLED_S
        if self.transport.is_closing():
            return False
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not self.pipeline)

    def cut_off_when_slow(self, now_s: float, limit_s: float) -> None:
        """Close the connection when it has waited too long for its client. To be called periodically."""
        may_wait_s = self._may_wait_s(limit_s)
        if may_wait_s == math.inf:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now_s
        elif now_s - self._waits_since >= may_wait_s:
            self.transport.abort()  # close() would wait for a client that does not read

    def _serve(self) -> None:
        """Let uvicorn serve the request whose head is complete."""
        url, fields, expects_100 = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope
        self.url, self.expect_100_continue = url, expects_100
        self.headers += fields  # the list that the scope has
        super().on_headers_complete()

    def _check_head(self) -> None:
        fields = self.fields = dict(self.headers)
        if len(self.headers) > MAX_FIELDS or (
            self._request_bytes > MAX_FIELDS_BYTES and self._fields_bytes() > MAX_FIELDS_BYTES
        ):
            self._refusal = 431
            raise _RefusedError
        if self.url.startswith(_PIXEL):
            self.url = self.url[:MAX_PIXEL_BYTES]
        elif len(self.url) > MAX_URL_BYTES:
            self._refusal = 414
            raise _RefusedError
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _RefusedError
        if b"expect" in fields:
            values = {value.lower() for name, value in self.headers if name == b"expect"}
            self.expect_100_continue = b"100-continue" in values
        is_plain = b"host" in fields and b"transfer-encoding" not in fields and len(fields) == len(self.headers)
        if not is_plain and not self._has_one_meaning():
            raise _RefusedError

    def _fields_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers)

    def _has_one_meaning(self) -> bool:
        """RFC 9112: 3.2, one Host; 6.1, no Transfer-Encoding in HTTP/1.0. Compressed bodies are not supported."""
        is_old = self.parser.get_http_version() == "1.0"
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = [name for name, _ in self.headers].count(b"host")
        return hosts <= 1 and (is_old or hosts == 1) and (not encodings or (encodings == [b"chunked"] and not is_old))

    def _may_wait_s(self, limit_s: float) -> float:
        """How long the client may take. While a request is served, its handler has a time limit for the body."""
        if self.flow.write_paused or self.transport.is_closing():
            return limit_s
        if self.cycle is not None and not self.cycle.response_complete:
            return math.inf
        return self.timeout_keep_alive if self._is_between_requests else limit_s
