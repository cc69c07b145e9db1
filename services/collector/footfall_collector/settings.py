"""Settings of the collector."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from footfall_eventlog.events import USER_ID_KEYS
from footfall_eventlog.partitions import RedisUrl
from footfall_servicekit.settings import PORT_DESCRIPTION, ServiceSettings, shared
from footfall_servicekit.values import Accepts, Target, readable_by
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from footfall_collector.categories import Categories
from footfall_collector.sites import Sites


class CollectorSettings(ServiceSettings):
    """Settings of the collector."""

    model_config = SettingsConfigDict(env_prefix="COLLECTOR_")

    old_names = MappingProxyType(
        {
            "live_retention_days": "IDENTITY_RETENTION_DAYS",
            "token_max_lifetime_s": "*TOKEN_LIFE_S",
            "max_sign_in_before_token_s": "*TOKEN_PREDATING_S",
            "received_time_tolerance_s": "*RECEIVED_TOLERANCE_S",
            "log_max_bytes": "*LOG_BOUND_BYTES",
            "log_max_site_share": "*LOG_SITE_SHARE",
            "redis_timeout_ms": "*LOG_TIMEOUT_MS",
            "allow_non_durable_redis": "*ALLOW_VOLATILE_LOG",
        }
    )

    port: int = Field(default=50051, ge=0, le=65535, description=PORT_DESCRIPTION)
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "Redis or Valkey with the event log, the live state and the counters of rate limits. Of a Redis Cluster: "
        "any node, or a DNS name of several nodes.",
        repr=False,
    )
    partitions: int = shared(
        "PARTITIONS",
        1,
        "Parts of the event log and of the live state. The first start on an empty Redis fixes the number; later a "
        "service with another number does not start.",
        ge=1,
        le=100,
    )
    identity_target: Target = shared(
        "IDENTITY_TARGET",
        "127.0.0.1:50052",
        "gRPC address of identity.",
    )
    identity_timeout_ms: int = Field(
        default=1_000,
        ge=1,
        le=30_000,
        description="Time that a batch waits for identity. Then the batch is answered without it, and identity "
        "reads the events from the log.",
    )
    max_event_age_days: int = shared(
        "MAX_EVENT_AGE_DAYS",
        7,
        "Age of an event when it arrives. The collector rejects older events as `too_old`. Must be less than "
        "`LIVE_RETENTION_DAYS`.",
        ge=1,
        le=3_650,
    )
    live_retention_days: int = shared(
        "LIVE_RETENTION_DAYS",
        8,
        "How long the live state keeps a visit after its last event, and up to a day more. Must be less than "
        "`EVENT_RETENTION_DAYS`: an event must not be accepted again after its visit is forgotten.",
        ge=1,
        le=3_660,
    )
    sites_file: Annotated[Path | None, readable_by(Sites.load)] = shared(
        "SITES_FILE",
        None,
        "TOML file of the sites, with their groups, origins and sign-in keys. Unset: every valid name is a site, all "
        "sites share their visits, and every SignIn is believed.",
    )
    categories_file: Annotated[Path | None, readable_by(Categories.load)] = shared(
        "CATEGORIES_FILE",
        None,
        "TOML file of categories for events that come without one. A changed file is read within a second; a "
        "malformed change is logged and ignored. Unset: events keep the categories that they come with.",
    )
    token_leeway_s: float = Field(
        default=30,
        ge=0,
        le=3_600,
        description="Difference allowed between the collector's clock and that of the server that signs SignIn "
        "tokens. A token that is further from its time of validity does not authenticate.",
    )
    token_max_lifetime_s: float = Field(
        default=3_600,
        gt=0,
        le=31_536_000,
        description="Lifetime of a SignIn token, from `iat` to `exp`. A token with a longer lifetime does not "
        "authenticate.",
    )
    max_sign_in_before_token_s: float = Field(
        default=300,
        ge=0,
        le=31_536_000,
        description="How long before the `iat` of its token a SignIn may have happened by the browser's clock. An "
        "earlier SignIn is not authenticated.",
    )
    received_time_tolerance_s: float = Field(
        default=60,
        ge=0,
        le=3_600,
        description="Difference allowed between the collector's clock and the arrival time that a caller sends "
        "without mutual TLS. A time that differs more is moved to this limit.",
    )
    user_id_keys: Annotated[str, Accepts("keys, separated by commas, at least one")] = Field(
        default=",".join(USER_ID_KEYS),
        pattern="[^, ]",
        description="Keys of SignIn and UserInfo data with the user id. The first key that has a value is used. "
        "Also common: `login`, `loginName`, `customerId`.",
    )
    redact_keys: Annotated[str, Accepts("keys, separated by commas")] = Field(
        default="",
        description="Further keys whose values are masked in addresses and data. Values of passwords, tokens, card "
        "numbers and account numbers are always masked.",
    )
    redact_emails: bool = Field(
        default=True,
        description="Mask e-mail addresses in the addresses and titles of pages. `false` keeps them, as in Genesys "
        "Web Engagement 8.5.",
    )
    log_max_bytes: int = Field(
        default=512 * 1024 * 1024,
        ge=1024,
        le=1024**4,
        description="Memory of the event log, in each node of a Redis Cluster. At the limit entries that identity "
        "and history have read are removed first; then events are refused with RESOURCE_EXHAUSTED. Keep "
        "it well below Redis's `maxmemory`.",
    )
    log_max_site_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Part of that memory that the events of one site may take while other sites have events in the "
        "log. Further events of the site are refused. 1: one site may fill the log.",
    )
    redis_timeout_ms: int = Field(
        default=2_000,
        ge=1,
        le=30_000,
        description="Time to wait until Redis confirms events. Then they are answered as not stored, although they "
        "may be.",
    )
    log_ack_replicas: int = shared(
        "LOG_ACK_REPLICAS",
        0,
        "Replicas of each Redis primary that must have written an event to disk before it counts as stored.",
        ge=0,
        le=10,
    )
    allow_non_durable_redis: bool = Field(
        default=False,
        description="Start although a crash of Redis loses events that it has confirmed. Not for production.",
    )

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the collector."""
        yield from super().problems()
        if self.live_retention_days <= self.max_event_age_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than LIVE_RETENTION_DAYS "
                f"({self.live_retention_days}): an event must not be accepted again after its visit is forgotten"
            )
