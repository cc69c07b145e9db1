"""Settings of the gateway."""

import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from footfall_eventlog.settings import (
    AttentionFile,
    IdentityTarget,
    RedisUrl,
    SecretKeys,
    SitesFile,
    VisitIdleMinutes,
)
from footfall_eventlog.sites import load_sites
from footfall_servicekit.settings import OldName, Port, ProcessSettings, pair_problems, shared
from footfall_servicekit.values import Accepts, Target, readable_by
from pydantic import AfterValidator, Field, FilePath, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_gateway.auth import check_keys_file
from footfall_gateway.browser import check_dsl_file

_PATH = "(/[A-Za-z0-9._~-]+)+"


def _check_paths(text: str) -> str:
    if not re.fullmatch(f"({_PATH}(, *{_PATH})*)?", text):
        raise ValueError("must be paths like /onlinechat, separated by commas")
    return text


def _check_origins(origins: str) -> str:
    for origin in filter(None, map(str.strip, origins.split(","))):
        if not re.fullmatch(r"https?://(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?", origin):
            raise ValueError("must be origins like https://desk.example.com, separated by commas")
    return origins


def _check_proxies(proxies: str) -> str:
    for proxy in filter(None, map(str.strip, proxies.split(","))):
        try:
            ip_network(proxy)
        except ValueError:
            rule = "must be addresses or networks such as 10.0.0.0/8, without bits behind the prefix"
            raise ValueError(rule) from None
    return proxies


class GatewaySettings(ProcessSettings):
    """Settings of the gateway."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: Port = 8080
    tls_cert_file: FilePath | None = None
    """Certificate chain (PEM) for HTTPS. A changed file is used for new connections. Unset: HTTP."""
    tls_key_file: FilePath | None = None
    """Private key (PEM, not encrypted) of that certificate."""
    collector_target: Target = shared("COLLECTOR_TARGET", "127.0.0.1:50051")
    """gRPC address of the collector."""
    identity_target: IdentityTarget
    history_target: Target = shared("HISTORY_TARGET", "127.0.0.1:50053")
    """gRPC address of history."""
    sites_file: Annotated[SitesFile, readable_by(load_sites)]
    attention_file: AttentionFile
    dsl_file: Annotated[Path | None, readable_by(check_dsl_file)] = shared("DSL_FILE", None)
    """File `domain-model.xml` (DSL) for the tracking script. A changed file is read. Unset: the built-in one, with the
    rule `Timeout-30`."""
    visit_idle_minutes: VisitIdleMinutes
    path_prefixes: Annotated[str, AfterValidator(_check_paths), Accepts("paths, separated by commas")] = ""
    """Paths below which pages and clients are served as well. `/onlinechat` is for a proxy that passes
    `/onlinechat/server/...` on unchanged."""
    rate_limit_events_per_minute_per_address: Annotated[int, OldName("RATE_LIMIT_PER_ADDRESS")] = shared(
        "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS", 30_000, ge=0, le=1_000_000_000
    )
    """Events in beacons of one address, rejected ones included. At the limit beacons are answered 429. 0: no limit."""
    rate_limit_bytes_per_minute_per_address: Annotated[int, OldName("RATE_LIMIT_BYTES_PER_ADDRESS")] = shared(
        "RATE_LIMIT_BYTES_PER_MINUTE_PER_ADDRESS", 32 * 1024 * 1024, ge=0, le=1024**4
    )
    """Bytes in beacons of one address. At the limit beacons are answered 429. 0: no limit."""
    rate_limit_events_per_minute_per_site: Annotated[int, OldName("RATE_LIMIT_PER_SITE")] = shared(
        "RATE_LIMIT_EVENTS_PER_MINUTE_PER_SITE", 0, ge=0, le=1_000_000_000
    )
    """Events in beacons of one site. At the limit beacons are answered 429. 0: no limit."""
    rate_limit_bytes_per_minute_per_site: Annotated[int, OldName("RATE_LIMIT_BYTES_PER_SITE")] = shared(
        "RATE_LIMIT_BYTES_PER_MINUTE_PER_SITE", 0, ge=0, le=1024**4
    )
    """Bytes in beacons of one site. At the limit beacons are answered 429. 0: no limit except
    `COLLECTOR_LOG_MAX_SITE_SHARE`."""
    rate_limit_loopback: bool = False
    """Apply the rate limits of addresses to the addresses of this machine as well."""
    used_link_retention_s: Annotated[int, OldName("*LINK_MEMORY_S")] = Field(default=600, ge=120, le=86_400)
    """How long the gateway remembers that a link from another domain has brought its visit; until then the link brings
    no second one. The tracking script takes no link older than two minutes by the visitor's clock."""
    redis_url: RedisUrl
    api_user: Annotated[str, Accepts("a name without `:`")] = shared("API_USER", "")
    """User with every scope, for the data routes and `/api/v1` (HTTP Basic). Unset: only API keys are accepted."""
    api_password: SecretStr = shared("API_PASSWORD", SecretStr(""))
    """Password of that user."""
    keys_file: Annotated[Path | None, readable_by(check_keys_file)] = None
    """File of API keys, written by `footfall-gateway keys`. A changed file is read. Unset: no API keys."""
    max_failed_logins_per_minute: Annotated[int, OldName("*FAILED_LOGINS_PER_MINUTE")] = Field(
        default=20, ge=1, le=100_000
    )
    """Failed logins from one address, or from one /64 network of IPv6. At the limit requests with credentials are
    answered 429."""
    max_queued_hashes: Annotated[int, OldName("*SLOW_HASHES_WAITING")] = Field(default=20, ge=1, le=1_000)
    """Credentials of API keys in an old format that are compared or wait for it; one comparison takes up to 0.1 s. At
    the limit requests are answered 503."""
    session_idle_minutes: int = Field(default=30, ge=1, le=1_440)
    """Time without activity of its user after which a session of the console ends."""
    max_session_hours: int = Field(default=12, ge=1, le=168)
    """Time after which a session of the console ends in any case."""
    max_sessions: int = Field(default=1_000, ge=1, le=100_000)
    """Sessions of the console at the same time, at all gateways together. At the limit a new session ends the one that
    has been without activity for the longest time."""
    session_link_seconds: int = Field(default=60, ge=5, le=3_600)
    """Time in which a link of `createSessionLink` begins a session."""
    console_frame_ancestors: Annotated[str, AfterValidator(_check_origins), Accepts("origins, separated by commas")] = (
        ""
    )
    """Origins of pages that may show the compact view of a visit in a frame, such as `https://desk.example.com`. Unset:
    no page may. Other views of the console cannot be embedded."""
    audit_key: SecretKeys = None
    """Secret of the keyed hashes (`subject_hashes`) that name persons and visits in log lines. All gateways need the
    same one. After a change also the former ones: log lines get hashes under the first, and `footfall-gateway
    audit-hash` prints those under each. Unset: a log line names the caller, and not the person."""
    allow_anonymous: Annotated[bool, OldName("*OPEN_API")] = False
    """Serve the data routes and `/api/v1` to everyone, without authentication."""
    trusted_proxies: Annotated[
        str, AfterValidator(_check_proxies), Accepts("addresses or networks, separated by commas")
    ] = ""
    """Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` headers are believed. Unset: the headers are ignored."""
    batch_max_events: Annotated[int, OldName("*GROUP_EVENTS")] = Field(default=1_000, ge=1, le=1_000)
    """Events of one batch (`Collect` call). A full batch is sent, and further beacons start the next one."""
    batch_max_bytes: Annotated[int, OldName("*GROUP_BYTES")] = Field(default=1024 * 1024, ge=1024, le=1024 * 1024)
    """Bytes of one batch. A full batch is sent, and further beacons start the next one."""
    large_body_bytes: Annotated[int, OldName("*LARGE_BYTES")] = Field(default=32 * 1024, ge=0, le=1024 * 1024)
    """Size above which a body is sent in separate batches, one at a time, so that other beacons do not wait for it.
    Fifty usual events are smaller."""
    large_body_share: float = Field(default=0.25, ge=0.01, le=1)
    """Part of the time in which batches of such bodies may be sent, if one of them has 256 KiB or more: no other batch
    is sent then for three times as long as it took, at most 2 seconds. After smaller bodies it is less. 1: always."""
    batch_max_wait_ms: Annotated[float, OldName("*LINGER_MS")] = Field(default=4.0, ge=0, le=1_000)
    """Time that a beacon waits for further beacons while other batches are being sent. If none is, the beacon waits
    only half as long as the last batch took, if that is shorter."""
    max_batches_in_flight: Annotated[int, OldName("*GROUPS_IN_FLIGHT")] = Field(default=4, ge=1, le=256)
    """Batches that are being sent at the same time, without those of large bodies. As many more have the beacons with a
    SignIn, UserInfo or SignOut, so that the others do not wait for identity. Further batches wait."""
    max_queued_events: Annotated[int, OldName("*WAITING_EVENTS")] = Field(default=25_000, ge=1_000, le=10_000_000)
    """Events that wait for their batch: so many in large bodies (of one address at most half), as many in beacons with
    a SignIn, UserInfo or SignOut, and as many in all others. At the limit beacons are answered 503."""
    max_queued_bytes: Annotated[int, OldName("*WAITING_BYTES")] = Field(
        default=32 * 1024 * 1024, ge=1024 * 1024, le=1024**4
    )
    """Bytes that wait for their batch: so many in large bodies (of one address at most half), as many in beacons with a
    SignIn, UserInfo or SignOut, and as many in all others. At the limit beacons are answered 503."""
    max_body_bytes_in_flight: Annotated[int, OldName("*READING_BYTES")] = Field(
        default=64 * 1024 * 1024, ge=1024 * 1024, le=1024**4
    )
    """Bytes of the bodies that are arriving at the same time. At the limit requests are answered 503."""
    max_gzip_ratio: int = Field(default=100, ge=1, le=1_000)
    """Bytes of a beacon for each byte of its body with `Content-Encoding: gzip`. A beacon of more is answered 413."""
    max_connections: Annotated[int, OldName("*CONNECTIONS")] = Field(default=10_000, ge=1, le=1_000_000)
    """Connections that are open at the same time, at most as many as the system's limit of open files allows. When few
    are left, connections without a complete request are closed. Requests on further connections are answered 503."""
    max_connections_per_address: int = Field(default=1_000, ge=0, le=1_000_000)
    """Connections of one address, or of one /64 network of IPv6, at the same time. Requests on further connections are
    answered 503. Not for `GATEWAY_TRUSTED_PROXIES`. 0: no limit."""
    max_live_streams: Annotated[int, OldName("*LIVE_STREAMS")] = Field(default=50, ge=1, le=10_000)
    """Streams of `/api/v1/live` that are open at the same time. Further requests are answered 503."""
    live_heartbeat_ms: Annotated[int, OldName("*HEARTBEAT_MS")] = Field(default=15_000, ge=100, le=300_000)
    """Time without a message after which such a stream sends a comment, so that proxies keep it open."""
    collect_timeout_ms: int = Field(default=5_000, ge=1, le=60_000)
    """Time that a beacon waits for the collector. Then it is answered 503, although its events may be stored."""
    query_timeout_ms: int = Field(default=10_000, ge=1, le=60_000)
    """Time that a query may take. Then it is answered 504."""
    live_query_timeout_ms: int = Field(default=2_000, ge=1, le=60_000)
    """Time that a query of live visitors may take, and the start of a live stream. Then it is answered 503 or 504."""
    body_timeout_ms: int = Field(default=10_000, ge=1, le=300_000)
    """Time in which the body of a request must arrive. Then the request is answered 408."""
    client_timeout_ms: int = Field(default=10_000, ge=100, le=300_000)
    """Time in which a client must complete its TLS handshake, send the head of a request, or read on in an answer. Then
    its connection is closed."""

    @property
    def audit_secrets(self) -> list[str]:
        """The audit key, and after it the former ones. Empty when there is none."""
        return self.audit_key.get_secret_value().split(",") if self.audit_key else []

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the gateway."""
        yield from super().problems()
        yield from pair_problems(self, "tls_cert_file", "tls_key_file")
        if bool(self.api_user) != bool(self.api_password.get_secret_value()):
            yield "API_USER and API_PASSWORD: must be set both, or neither"
        if ":" in self.api_user:
            yield "API_USER: must not hold a colon"
