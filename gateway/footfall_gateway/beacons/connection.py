"""HTTP connections that refuse malformed, ambiguous, oversized and slow requests.

llhttp, the parser below uvicorn's protocol, refuses ambiguous requests: Content-Length twice or beside
Transfer-Encoding, folded lines, lines that end in LF alone. This module refuses the rest.
"""

import asyncio
from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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
LOOK_EVERY_S = 1.0


class _RefusedError(Exception):
    """The head of a request is refused. uvicorn then calls `send_400_response`."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with limits for malformed, oversized and slow requests."""

    # The state of a new connection.
    _is_in_head = True
    _is_between_requests = False  # a new connection without a request counts as slow
    _chunk_bytes = _request_bytes = 0
    _refusal = 400
    _waits_since: float | None = None

    def data_received(self, data: bytes) -> None:
        """Parse more of the request; refuse it when it is too long."""
        if self._is_between_requests:
            self._is_between_requests, self._request_bytes = False, 0
        self._chunk_bytes = len(data)
        self._request_bytes += self._chunk_bytes
        super().data_received(data)
        is_too_long = self._request_bytes > (_MAX_HEAD_BYTES if self._is_in_head else _MAX_REQUEST_BYTES)
        if (is_too_long or len(self.headers or ()) > MAX_FIELDS) and not self.transport.is_closing():
            self._refusal = 431
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """The head of a request begins."""
        super().on_message_begin()
        self._is_in_head, self._is_between_requests = True, False

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse its head."""
        self._is_in_head = False
        self._check_head()
        # Space after a value is not part of it (RFC 9110, 5.5). In place, because the scope has this list.
        self.headers[:] = [(name, value.strip()) for name, value in self.headers]
        super().on_headers_complete()
        self.headers = []  # trailer fields are ignored
        if self.parser.should_upgrade():  # llhttp parses no further request
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is complete; this chunk may contain a part of the next one."""
        super().on_message_complete()
        self._is_between_requests, self._request_bytes = True, self._chunk_bytes
        self._waits_since = None

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

    def cut_off_when_slow(self, now_s: float, limit_s: float) -> None:
        """Close the connection when it has waited for its client for `limit_s`. To be called periodically."""
        if not self._is_waiting_for_client():
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now_s
        elif now_s - self._waits_since >= limit_s:
            self.transport.abort()  # close() would wait for a client that does not read

    def _check_head(self) -> None:
        names = [name for name, _ in self.headers]
        if len(names) > MAX_FIELDS or (
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
        if (names.count(b"host") != 1 or b"transfer-encoding" in names) and not self._has_one_meaning(names):
            raise _RefusedError

    def _fields_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers)

    def _has_one_meaning(self, names: list[bytes]) -> bool:
        """RFC 9112: 3.2, one Host; 6.1, no Transfer-Encoding in HTTP/1.0. Compressed bodies are not supported."""
        is_old = self.parser.get_http_version() == "1.0"
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        hosts = names.count(b"host")
        return hosts <= 1 and (is_old or hosts == 1) and (not encodings or (encodings == [b"chunked"] and not is_old))

    def _is_waiting_for_client(self) -> bool:
        """Whether the client must act. While a request is served, its handler has a time limit for the body."""
        if self.flow.write_paused or self.transport.is_closing():
            return True
        is_serving = self.cycle is not None and not self.cycle.response_complete
        return not (is_serving or self._is_between_requests)


async def cut_off_slow_clients(connections: Iterable[BoundedConnection], limit_s: float) -> None:
    """Close slow connections. uvicorn itself closes connections that are idle between requests."""
    now_s = asyncio.get_running_loop().time()
    for connection in [*connections]:
        connection.cut_off_when_slow(now_s, limit_s)
