"""Turns the environment into what the collector is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from footfall_servicekit.settings import ServiceSettings, shared
from footfall_servicekit.values import RedisUrl, Target, readable_by
from footfall_timeline import Walls
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from footfall_collector.categories import Categories
from footfall_collector.identified_user import USER_ID_KEYS
from footfall_collector.sites import Sites


class CollectorSettings(ServiceSettings):
    """Settings of the collector."""

    model_config = SettingsConfigDict(env_prefix="COLLECTOR_")

    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "The Redis or Valkey that holds the event log; of a cluster any node, or a name of several.",
        repr=False,
    )
    partitions: int = shared(
        "PARTITIONS",
        1,
        "Parts the log and the live state are divided into. Fixed by the first start on an empty Redis.",
        ge=1,
        le=100,
    )
    identity_target: Target = shared("IDENTITY_TARGET", "127.0.0.1:50052", "gRPC target of identity.")
    identity_timeout_ms: int = Field(
        1_000,
        ge=1,
        le=30_000,
        description="Longest that a batch waits for identity. Later its events reach it by the log.",
    )
    max_event_age_days: int = shared(
        "MAX_EVENT_AGE_DAYS", 7, "Events that happened longer ago are rejected as `too_old`.", ge=1, le=3_650
    )
    live_retention_days: int = shared(
        "IDENTITY_RETENTION_DAYS",
        8,
        "What identity is told. Must be above `MAX_EVENT_AGE_DAYS`: an event must not be accepted again after its "
        "visit is forgotten.",
        ge=1,
        le=3_660,
    )
    sites_file: Annotated[Path | None, readable_by(Sites.load, Walls.load)] = shared(
        "SITES_FILE",
        None,
        "TOML file of the sites: name, origins, sign-in keys. Unset: a site is whatever calls itself one.",
    )
    categories_file: Annotated[Path | None, readable_by(Categories.load)] = shared(
        "CATEGORIES_FILE",
        None,
        "TOML file of categories, for events that come without any; a change is seen within a second. Unset: events "
        "have the categories they come with.",
    )
    token_leeway_s: float = Field(
        30, ge=0, le=3_600, description="How far the clock of a server that signs SignIn tokens may be off, in seconds."
    )
    token_life_s: float = Field(
        3_600,
        gt=0,
        le=31_536_000,
        description="Longest that a SignIn token may be good for, from `iat` to `exp`, in seconds.",
    )
    token_predating_s: float = Field(
        300,
        ge=0,
        le=31_536_000,
        description="How long before the `iat` of its token a SignIn may have happened, in seconds: the clocks of "
        "browsers are not exact.",
    )
    received_tolerance_s: float = Field(
        60,
        ge=0,
        le=3_600,
        description="Without mutual TLS anybody may call: how far the time of arrival that a caller tells may be off "
        "the collector's clock, in seconds. What is further off counts as just so far off.",
    )
    user_id_keys: str = Field(
        ",".join(USER_ID_KEYS),
        pattern="[^, ]",
        description="Keys of SignIn and UserInfo data, separated by commas, that say who it is. The first counts that "
        "is given. Also usual: `login`, `loginName`, `customerId`.",
    )
    redact_keys: str = Field(
        "",
        description="Further keys, separated by commas, whose values are masked in addresses and data. "
        "Passwords, tokens, numbers of cards and accounts always are.",
    )
    redact_emails: bool = Field(
        True,
        description="Mask e-mail addresses in addresses and titles of pages. False: they are kept, as by the original.",
    )
    log_bound_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1024,
        le=1024**4,
        description="Memory of the log in Redis, in each node of a cluster, above which events are refused until it is "
        "drained. What identity and history have read goes first. Keep it well below Redis's `maxmemory`.",
    )
    log_site_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of that memory above which a site's events are refused, while other sites have events in the "
        "log: the rest is theirs. 1: one site may use up the log.",
    )
    log_timeout_ms: int = Field(
        2_000, ge=1, le=30_000, description="Longest wait for an answer of Redis before events count as not stored."
    )
    log_ack_replicas: int = shared(
        "LOG_ACK_REPLICAS",
        0,
        "Replicas of each primary of Redis that must have an event on disk too before it counts as stored.",
        ge=0,
        le=10,
    )
    allow_volatile_log: bool = Field(
        False,
        description="Start although Redis is set so that a crash loses events it has confirmed. Not for production.",
    )

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the collector."""
        yield from super().problems()
        if self.live_retention_days <= self.max_event_age_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than IDENTITY_RETENTION_DAYS "
                f"({self.live_retention_days}): an event must not be accepted again after its visit is forgotten"
            )
