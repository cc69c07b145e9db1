"""Turns the environment into what the gateway is told."""

import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from footfall_eventlog.partitions import RedisUrl
from footfall_eventlog.sites import load_sites
from footfall_servicekit.settings import ProcessSettings, pair_problems, shared
from footfall_servicekit.values import Target, readable_by
from pydantic import AfterValidator, Field, FilePath, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_gateway.auth import check_keys_file
from footfall_gateway.browser import check_dsl_file

_PATH = "(/[A-Za-z0-9._~-]+)+"


def _check_paths(text: str) -> str:
    if not re.fullmatch(f"({_PATH}(, *{_PATH})*)?", text):
        raise ValueError("must be paths like /onlinechat, separated by commas")
    return text


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

    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    tls_cert_file: FilePath | None = Field(
        None, description="Certificate chain (PEM) to serve HTTPS with; a change is seen at once. Unset: HTTP."
    )
    tls_key_file: FilePath | None = Field(None, description="Its key (PEM, not encrypted).")
    collector_target: Target = shared("COLLECTOR_TARGET", "127.0.0.1:50051", "gRPC target of the collector.")
    identity_target: Target = shared("IDENTITY_TARGET", "127.0.0.1:50052", "gRPC target of identity.")
    history_target: Target = shared("HISTORY_TARGET", "127.0.0.1:50053", "gRPC target of history.")
    sites_file: Annotated[Path | None, readable_by(load_sites)] = shared(
        "SITES_FILE",
        None,
        "TOML file of the sites. Here only names, groups and `origins` count: pages that may read answers.",
    )
    dsl_file: Annotated[Path | None, readable_by(check_dsl_file)] = shared(
        "DSL_FILE", None, "The `domain-model.xml` to serve; a change is seen at once. Unset: the one with `Timeout-30`."
    )
    idle_minutes: int = shared(
        "IDLE_MINUTES", 30, "The tracking script begins a new visit after so long without an event.", ge=1, le=1_440
    )
    path_prefixes: Annotated[str, AfterValidator(_check_paths)] = Field(
        "",
        description="Paths, separated by commas, below which all that pages and clients call is served as well: "
        "`/onlinechat`, for a proxy that passes `/onlinechat/server/...` on as it is.",
    )

    rate_limit_per_address: int = shared(
        "RATE_LIMIT_PER_ADDRESS",
        30_000,
        "Events a minute that beacons of one address may bring, good or bad; more are answered 429. 0: no limit.",
        ge=0,
        le=1_000_000_000,
    )
    rate_limit_bytes_per_address: int = shared(
        "RATE_LIMIT_BYTES_PER_ADDRESS",
        32 * 1024 * 1024,
        "Bytes a minute that beacons of one address may have; more are answered 429. 0: no limit.",
        ge=0,
        le=1024**4,
    )
    rate_limit_per_site: int = shared(
        "RATE_LIMIT_PER_SITE",
        0,
        "Events a minute that beacons of one site may bring; more are answered 429. 0: no limit.",
        ge=0,
        le=1_000_000_000,
    )
    rate_limit_bytes_per_site: int = shared(
        "RATE_LIMIT_BYTES_PER_SITE",
        0,
        "Bytes a minute that beacons of one site may have; more are answered 429. 0: no limit but the site's share of "
        "the log (`COLLECTOR_LOG_SITE_SHARE`).",
        ge=0,
        le=1024**4,
    )
    rate_limit_loopback: bool = Field(False, description="Limit the addresses of this machine too.")
    link_memory_s: int = Field(
        600,
        ge=120,
        le=86_400,
        description="How long a link that has brought a visit from another domain counts as used, in seconds. The "
        "tracking script takes none that is older than two minutes by the visitor's clock.",
    )
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "The Redis or Valkey through which gateways share what addresses and sites have used; of a cluster any node, "
        "or a name of several. Without it each counts for itself.",
        repr=False,
    )

    api_user: str = shared("API_USER", "", "User of the data and `/api/v1` routes (HTTP Basic). Holds every scope.")
    api_password: SecretStr = shared("API_PASSWORD", SecretStr(""), "That user's password.")
    keys_file: Annotated[Path | None, readable_by(check_keys_file)] = Field(
        None, description="File of API keys, written by `footfall-gateway keys`. Unset: no keys but API_USER."
    )
    failed_logins_per_minute: int = Field(
        20,
        ge=1,
        le=100_000,
        description="Failed attempts from one address (of IPv6: from one /64) before further ones are answered 429.",
    )
    slow_hashes_waiting: int = Field(
        20,
        ge=1,
        le=1_000,
        description="Tokens of keys of earlier versions, each of which takes up to 0.1 s to compare once, that may be "
        "compared or wait for it; further ones are answered 503.",
    )
    audit_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret that log lines name people and visits under, as a keyed hash: `whose`. All gateways must "
        "have the same. Unset: the lines say who asked, but not about whom.",
    )
    open_api: bool = Field(
        False,
        description="Serve the data and `/api/v1` routes to everybody, without authentication.",
    )
    trusted_proxies: Annotated[str, AfterValidator(_check_proxies)] = Field(
        "",
        description="Addresses or networks, separated by commas, whose `X-Forwarded-For` and `X-Forwarded-Proto` "
        "are believed. Empty: nobody's.",
    )

    group_events: int = Field(1_000, ge=1, le=1_000, description="Events that leave in one `Collect` at most.")
    group_bytes: int = Field(
        1024 * 1024, ge=1024, le=1024 * 1024, description="Bytes that leave in one `Collect` at most."
    )
    large_bytes: int = Field(
        16 * 1024,
        ge=0,
        le=1024 * 1024,
        description="Bodies of more bytes leave apart from the others, in one `Collect` at a time, so that nobody else "
        "waits until theirs are looked through.",
    )
    linger_ms: float = Field(
        2.0, ge=0, le=1_000, description="How long a beacon waits for company while others are under way, in ms."
    )
    groups_in_flight: int = Field(
        4, ge=1, le=256, description="`Collect` calls under way at once, but for that of large bodies."
    )
    waiting_events: int = Field(
        25_000,
        ge=1_000,
        le=10_000_000,
        description="Events that may wait to leave, and as many in large bodies; beacons beyond are answered 503.",
    )
    waiting_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024 * 1024,
        le=1024**4,
        description="Bytes that may wait to leave, and as many in large bodies; beacons beyond are answered 503.",
    )
    reading_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        le=1024**4,
        description="Bytes of bodies that may be arriving at once; requests beyond are answered 503.",
    )
    connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Connections served at once, as far as the system allows open files; requests on further "
        "ones are answered 503.",
    )
    live_streams: int = Field(
        50, ge=1, le=10_000, description="Streams of `/api/v1/live` served at once; requests beyond are answered 503."
    )
    heartbeat_ms: int = Field(
        15_000,
        ge=100,
        le=300_000,
        description="Longest silence of such a stream; then it sends a comment, so that proxies keep it open.",
    )
    collect_timeout_ms: int = Field(
        5_000, ge=1, le=60_000, description="Longest that a beacon waits for the collector before it is answered 503."
    )
    query_timeout_ms: int = Field(10_000, ge=1, le=60_000, description="Longest that a query may take before 504.")
    body_timeout_ms: int = Field(
        10_000,
        ge=1,
        le=300_000,
        description="Longest that the body of a request may take to arrive before 408.",
    )
    client_timeout_ms: int = Field(
        10_000,
        ge=100,
        le=300_000,
        description="Longest that a client may take to send the head of a request, or to read on in an answer, before "
        "its connection is closed.",
    )

    @property
    def audit_secret(self) -> str:
        """The audit key, empty when there is none."""
        return self.audit_key.get_secret_value() if self.audit_key else ""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the gateway."""
        yield from super().problems()
        yield from pair_problems(self, "tls_cert_file", "tls_key_file")
        if bool(self.api_user) != bool(self.api_password.get_secret_value()):
            yield "API_USER and API_PASSWORD: must be set both, or neither"
        if ":" in self.api_user:
            yield "API_USER: must not hold a colon"
