"""Settings of the collector."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from footfall_eventlog.events import USER_ID_KEYS
from footfall_eventlog.settings import (
    GrpcKeysFile,
    HistoryTarget,
    IdentityPolicyFile,
    IdentityTarget,
    LiveRetentionDays,
    LogAckReplicas,
    MaxEventAgeDays,
    Partitions,
    PhoneRegion,
    RedisUrl,
    SitesFile,
)
from footfall_servicekit.settings import OldName, Port, ServiceSettings, shared
from footfall_servicekit.values import Accepts, readable_by
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from footfall_collector.categories import Categories
from footfall_collector.sites import Sites


class CollectorSettings(ServiceSettings):
    """Settings of the collector."""

    model_config = SettingsConfigDict(env_prefix="COLLECTOR_")

    port: Port = 50051
    redis_url: RedisUrl
    partitions: Partitions
    identity_target: IdentityTarget
    identity_timeout_ms: int = Field(default=1_000, ge=1, le=30_000)
    """Time that a batch waits for identity. Then the batch is answered without it, and identity reads the events from
    the log."""
    history_target: HistoryTarget
    visit_lookup_timeout_ms: int = Field(default=1_000, ge=1, le=30_000)
    """Time that an interaction waits for history and identity to find its visit. Then it is refused with UNAVAILABLE,
    unless one of them has found it."""
    max_interactions_per_second: int = Field(default=200, ge=1, le=100_000)
    """Updates of interactions that one collector stores in a second. Further ones are refused with
    RESOURCE_EXHAUSTED."""
    max_interaction_note_length: int = Field(default=4_096, ge=0, le=65_536)
    """Characters of the note of an interaction."""
    max_interaction_data_bytes: int = Field(default=8_192, ge=2, le=262_144)
    """Bytes of the data of an interaction."""
    max_interaction_clock_ahead_s: int = Field(default=300, ge=0, le=86_400)
    """How far the times of an update may be in the future by the collector's clock. A later one is refused, because no
    update before that time could change the interaction, and neither retention nor an erasure would remove it."""
    phone_region: PhoneRegion
    max_event_age_days: MaxEventAgeDays
    live_retention_days: LiveRetentionDays
    sites_file: Annotated[SitesFile, readable_by(Sites.load)]
    grpc_keys_file: GrpcKeysFile
    identity_policy_file: IdentityPolicyFile
    categories_file: Annotated[Path | None, readable_by(Categories.load)] = shared("CATEGORIES_FILE", None)
    """TOML file of categories for events that come without one. A changed file is read within a second; a malformed
    change is logged and ignored. Unset: events keep the categories that they come with."""
    token_leeway_s: float = Field(default=30, ge=0, le=3_600)
    """Difference allowed between the collector's clock and that of the server that signs SignIn tokens. A token that is
    further from its time of validity does not authenticate."""
    token_max_lifetime_s: Annotated[float, OldName("*TOKEN_LIFE_S")] = Field(default=3_600, gt=0, le=31_536_000)
    """Lifetime of a SignIn token, from `iat` to `exp`. A token with a longer lifetime does not authenticate."""
    max_sign_in_before_token_s: Annotated[float, OldName("*TOKEN_PREDATING_S")] = Field(
        default=300, ge=0, le=31_536_000
    )
    """How long before the `iat` of its token a SignIn may have happened by the browser's clock. An earlier SignIn is
    not authenticated."""
    received_time_tolerance_s: Annotated[float, OldName("*RECEIVED_TOLERANCE_S")] = Field(default=60, ge=0, le=3_600)
    """Difference allowed between the collector's clock and the arrival time that a caller sends without mutual TLS. A
    time that differs more is moved to this limit."""
    user_id_keys: Annotated[str, Accepts("keys, separated by commas, at least one")] = Field(
        default=",".join(USER_ID_KEYS), pattern="[^, ]"
    )
    """Keys of SignIn and UserInfo data with the user id, where `IDENTITY_POLICY_FILE` gives none. The first key that
    has a value is used. Also common: `login`, `loginName`, `customerId`."""
    redact_keys: Annotated[str, Accepts("keys, separated by commas")] = ""
    """Further keys whose values are masked in addresses and data. Values of passwords, tokens, card numbers and account
    numbers are always masked."""
    redact_emails: bool = True
    """Mask e-mail addresses in the addresses and titles of pages. `false` keeps them, as in Genesys Web Engagement
    8.5."""
    log_max_bytes: Annotated[int, OldName("*LOG_BOUND_BYTES")] = Field(default=512 * 1024 * 1024, ge=1024, le=1024**4)
    """Memory of the event log, in each node of a Redis Cluster. At the limit entries that identity and history have
    read are removed first; then events are refused with RESOURCE_EXHAUSTED. Keep it well below Redis's `maxmemory`."""
    log_max_site_share: Annotated[float, OldName("*LOG_SITE_SHARE")] = Field(default=0.5, gt=0, le=1)
    """Part of that memory that the events of one site may take while other sites have events in the log. Further events
    of the site are refused. 1: one site may fill the log."""
    redis_timeout_ms: Annotated[int, OldName("*LOG_TIMEOUT_MS")] = Field(default=2_000, ge=1, le=30_000)
    """Time to wait until Redis confirms events. Then they are answered as not stored, although they may be."""
    log_ack_replicas: LogAckReplicas
    allow_non_durable_redis: Annotated[bool, OldName("*ALLOW_VOLATILE_LOG")] = False
    """Start although a crash of Redis loses events that it has confirmed. Not for production."""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the collector."""
        yield from super().problems()
        if self.live_retention_days <= self.max_event_age_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than LIVE_RETENTION_DAYS "
                f"({self.live_retention_days}): an event must not be accepted again after its visit is forgotten"
            )
