"""What a channel to a service is opened with: options of gRPC, certificates and a token."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

SERVICE_CONFIG: Final = {
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
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
OPTIONS: Final = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),  # without these two up to 2 minutes pass before the next attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
"""The options of each channel."""

Token = str | Callable[[], str]
"""A bearer token, or a function that returns the current one before each call, in a thread of gRPC."""


@dataclass(frozen=True)
class Tls:
    """The PEM files of a connection with TLS; `cert_file` and `key_file` are for mutual TLS.

    `ca_file` is the authority that has signed the certificates of the services.
    """

    ca_file: str | Path
    cert_file: str | Path | None = None
    key_file: str | Path | None = None


def credentials(tls: Tls | None, token: Token | None) -> grpc.ChannelCredentials | None:
    """What a channel is opened with; None: without TLS.

    Raises:
        ValueError: a token without TLS, or a certificate without its key.
        OSError: a file cannot be read.

    """
    if tls is None:
        if token is not None:
            raise ValueError("token: needs tls, because others could read it on a connection without TLS")
        return None
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ValueError("tls: cert_file and key_file are needed together")
    ca, key, cert = (file and Path(file).read_bytes() for file in (tls.ca_file, tls.key_file, tls.cert_file))
    channel = grpc.ssl_channel_credentials(ca or None, key or None, cert or None)
    if token is None:
        return channel
    return grpc.composite_channel_credentials(channel, grpc.metadata_call_credentials(_Bearer(token)))


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the header `authorization` to each call."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(self, context: grpc.AuthMetadataContext, callback: Any) -> None:  # noqa: ARG002 - the form of gRPC
        token = self._token if isinstance(self._token, str) else self._token()
        callback((("authorization", f"Bearer {token}"),), None)
