"""Channels to other services, deadlines and metadata of calls, and the gRPC options of both ends.

Options of clients and servers are in one place, because both ends must agree on keepalive.
"""

import json
import resource
import time
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
from grpc.aio import Channel, ServicerContext

from footfall_servicekit import logs
from footfall_servicekit.reloading import ReloadingFile
from footfall_servicekit.tls import ClientTls, channel_credentials
from footfall_servicekit.tracing import TRACEPARENT_KEY

Options = list[tuple[str, int | str]]

REQUEST_ID_KEY = "x-request-id"
ANSWER_ENCODING_KEY = "x-answer-encoding"
"""Metadata of a call: with `gzip`, answers are compressed. gRPC hides its own headers for that from Python."""
caller_waits_until: ContextVar[float | None] = ContextVar("caller_waits_until", default=None)
"""When the caller of the call being served stops waiting, by `time.monotonic`. None: no deadline, or no call."""
_NONE_AND_GZIP = 0b101
DEFAULT_MESSAGE_BYTES = 4 * 1024 * 1024

_CLIENT_PING_MS = 30_000
# Below the client's interval: a server closes the connection after two pings that come too early.
_SERVER_MIN_PING_MS = 10_000
_PING_TIMEOUT_MS = 5_000
# Connections are closed at this age, so that callers resolve the name again and find new replicas.
_CONNECTION_AGE_MS = 600_000
_CONNECTION_AGE_GRACE_MS = 60_000
# How often a client checks whether its certificate files have changed.
_FILES_CHECK_S = 1.0
_MAX_INT32 = 2**31 - 1

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # A failure takes one token of ten, a success returns a tenth, and below five tokens nothing is retried. So a
        # service that is down is not flooded with retries.
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)


def open_channel(target: str, tls: ClientTls | None = None, max_message_bytes: int = DEFAULT_MESSAGE_BYTES) -> Channel:
    """Open the channel to a service, e.g. `dns:///name:50051`. Open one for each target, and close it at the end.

    It connects by itself, also to a service that starts later. Calls that fail with UNAVAILABLE before an answer are
    tried up to three times within their deadline; no other layer retries. With `tls`, the server's certificate must
    contain the target's name. Raises OSError when the files cannot be used.
    """
    options: Options = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.keepalive_time_ms", _CLIENT_PING_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return cast("Channel", _ReloadingChannel(target, options, tls))


class _ReloadingChannel:
    """A channel that is replaced when its certificate files have changed. It has the methods that stubs use.

    Calls in flight end on their connection: gRPC keeps it while they last, also when its channel is no longer used.
    """

    def __init__(self, target: str, options: Options, tls: ClientTls) -> None:
        self._credentials = channel_credentials(tls)
        self._open = partial(grpc.aio.secure_channel, target, options=options)
        self._channel = self._open(self._credentials.latest)
        self._methods: dict[str, Any] = {}
        self._check_at = time.monotonic() + _FILES_CHECK_S

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return partial(self._call, "unary_unary", method, arguments, options)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return partial(self._call, "unary_stream", method, arguments, options)

    def _call(
        self, kind: str, method: str, arguments: tuple[Any, ...], options: dict[str, Any], request: Any, **about: Any
    ) -> Any:
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + _FILES_CHECK_S
            if credentials := self._credentials.renewed():
                self._methods.clear()
                self._channel = self._open(credentials)
        call = self._methods.get(method)
        if call is None:
            call = self._methods[method] = getattr(self._channel, kind)(method, *arguments, **options)
        return call(request, **about)

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> "_ReloadingChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def server_options(max_message_bytes: int) -> Options:
    """The options of a server whose clients use `open_channel`."""
    return [
        ("grpc.so_reuseport", 0),  # on by default: two processes would share a port without an error
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _SERVER_MIN_PING_MS),
        ("grpc.max_allowed_incoming_connections", _max_connections()),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_AGE_GRACE_MS),
        # gRPC refuses a message without details. Up to this size, which takes no more memory than a message that is
        # parsed, the interceptor refuses it with them.
        ("grpc.max_receive_message_length", min(2 * max_message_bytes, _MAX_INT32)),
        ("grpc.max_send_message_length", max_message_bytes),
        # gRPC would decompress a message of any length before it refuses it. The interceptor stops at the limit.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _NONE_AND_GZIP),
    ]


def _max_connections() -> int:
    """Half of the files that the process may open. The other half is for its stores and its log."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_INT32 if files == resource.RLIM_INFINITY else min(max(1, files // 2), _MAX_INT32)


def remaining(context: "ServicerContext[object, object]", ceiling_s: float, margin_s: float = 0.05) -> float:
    """The timeout, in seconds, of a call that is made to serve the call in `context`.

    It is the rest of that call's own deadline, less `margin_s` for its answer, and at most `ceiling_s`.
    """
    left: float | None = context.time_remaining()  # None without a deadline, which the type stub lacks
    return ceiling_s if left is None else max(0.0, min(ceiling_s, left - margin_s))


def time_left(margin_s: float = 0.2) -> float | None:
    """Seconds that work for the call that is being served may still take, so that its answer arrives in time.

    None without a deadline, and outside a call: in background work. `margin_s` is kept for the answer.
    """
    until = caller_waits_until.get()
    return None if until is None else max(0.0, until - margin_s - time.monotonic())


class _Own:
    """What this process shows to the services that it calls."""

    token: ClassVar[ReloadingFile[str] | None] = None


def show_token(file: Path | None) -> None:
    """Show the token in a file to the services that are called. Raises OSError when it cannot be read."""
    _Own.token = ReloadingFile(lambda: file.read_bytes().decode("ascii", "ignore").strip(), [file]) if file else None


def forwarded() -> tuple[tuple[str, str], ...]:
    """Metadata of a call: id and trace of the request that is being served, and the token of this process."""
    metadata: tuple[tuple[str, str], ...] = ()
    if current := logs.request_id.get():
        metadata = ((REQUEST_ID_KEY, current),)
    if trace := logs.traceparent.get():
        metadata = (*metadata, (TRACEPARENT_KEY, trace))
    if _Own.token:
        metadata = (*metadata, ("authorization", f"Bearer {_Own.token.current()}"))
    return metadata
