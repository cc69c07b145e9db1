"""Settings of history."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from footfall_eventlog.partitions import RedisUrl
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.settings import PORT_DESCRIPTION, ServiceSettings, shared
from footfall_servicekit.values import Accepts, DatabaseName, StoreUrl, Target, readable_by
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_history.storage import check_url

DAY_MS = 86_400_000
MINUTE_MS = 60_000


class HistorySettings(ServiceSettings):
    """Settings of history."""

    model_config = SettingsConfigDict(env_prefix="HISTORY_")

    old_names = MappingProxyType(
        {
            "max_transitions_per_visit": "VISIT_TRANSITIONS",
            "visit_idle_minutes": "IDLE_MINUTES",
            "erase_anonymous_events": "ERASE_ANONYMOUS_STRETCH",
            "live_retention_days": "IDENTITY_RETENTION_DAYS",
            "event_retention_days": "*RETENTION_DAYS",
            "log_retention_minutes": "LOG_KEPT_MINUTES",
            "max_dead_letters": "*DEAD_LETTERS_BOUND",
            "max_dead_letters_per_visit": "*DEAD_LETTERS_OF_VISIT",
            "slow_visit_transitions": "*SLOW_TRANSITIONS",
            "slow_visit_reattributions": "*SLOW_RESTAMPS",
            "slow_visit_bytes": "*SLOW_BYTES",
            "max_write_attempts": "*ATTEMPTS",
            "lag_warning_s": "*BEHIND_S",
            "max_event_streams": "*WATCHERS",
        }
    )

    port: int = Field(default=50053, ge=0, le=65535, description=PORT_DESCRIPTION)
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "Redis or Valkey with the event log, the live state and the counters of rate limits. Of a Redis Cluster: "
        "any node, or a DNS name of several nodes.",
        repr=False,
    )
    mongo_url: Annotated[StoreUrl, AfterValidator(check_url), Accepts("`mongodb://...` or `mongodb+srv://...`")] = (
        shared(
            "MONGO_URL",
            "mongodb://127.0.0.1:37017",
            "MongoDB with identities, contacts, events and visits.",
            repr=False,
        )
    )
    mongo_database: DatabaseName = shared(
        "MONGO_DATABASE",
        "footfall",
        "Database in that MongoDB.",
    )
    identity_target: Target = shared(
        "IDENTITY_TARGET",
        "127.0.0.1:50052",
        "gRPC address of identity.",
    )
    identity_timeout_ms: int = Field(
        default=500,
        ge=1,
        le=30_000,
        description="Time that a query waits for identity. Then it is answered without the data of identities.",
    )
    partitions: int = shared(
        "PARTITIONS",
        1,
        "Parts of the event log and of the live state. The first start on an empty Redis fixes the number; later a "
        "service with another number does not start.",
        ge=1,
        le=100,
    )
    sites_file: Annotated[Path | None, readable_by(SiteGroups.load)] = shared(
        "SITES_FILE",
        None,
        "TOML file of the sites, with their groups, origins and sign-in keys. Unset: every valid name is a site, all "
        "sites share their visits, and every SignIn is believed.",
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
    event_retention_days: int = shared(
        "EVENT_RETENTION_DAYS",
        30,
        "How long history keeps an event after it happened, and up to a day more. Dead letters are kept as long, "
        "from the time they became dead letters.",
        ge=1,
        le=36_500,
    )
    max_transitions_per_visit: int = shared(
        "MAX_TRANSITIONS_PER_VISIT",
        1_000,
        "Transitions (SignIn, UserInfo, SignOut events) of one visit that are used: the earliest ones. Later "
        "transitions are stored like other events and do not change who the visitor is.",
        ge=1,
        le=2_000,
    )
    visit_idle_minutes: int = shared(
        "VISIT_IDLE_MINUTES",
        30,
        "Time without an event that ends a visit: it is no longer listed as live, and the tracking script begins a "
        "new one.",
        ge=1,
        le=1_440,
    )
    erasure_key: SecretStr | None = shared(
        "ERASURE_KEY",
        None,
        "Secret of the keyed hashes that mark erased persons. Identity and history need the same one, unless "
        "`NEVER_ERASE` is `true`. Set it before the first visit and never change it.",
        min_length=16,
    )
    never_erase: bool = shared(
        "NEVER_ERASE",
        False,
        "Start without `ERASURE_KEY`. Persons whose visits are stored in the meantime can never be erased.",
    )
    erase_anonymous_events: bool = shared(
        "ERASE_ANONYMOUS_EVENTS",
        True,
        "Erase with a person also the events of a visit from before it was identified, if that person was the first "
        "one it named.",
    )
    log_retention_minutes: int = shared(
        "LOG_RETENTION_MINUTES",
        10,
        "How long an entry stays in the event log after identity and history have read it, unless the log reaches "
        "`COLLECTOR_LOG_MAX_BYTES`. Streams of events can be resumed for as long, and the log is free of an "
        "erased person after it.",
        ge=1,
        le=43_200,
    )
    max_dead_letters: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Dead letters of one partition. At the limit history stops reading the log of the partition "
        "until some are replayed or discarded.",
    )
    max_dead_letters_per_visit: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Dead letters of one visit. At the limit further events of the visit that cannot be stored are "
        "dropped, counted and logged, so that one visit does not stop a partition.",
    )
    slow_visit_transitions: int = Field(
        default=50,
        ge=1,
        le=1_000_000,
        description="Transitions of one visit above which it is a slow visit. Its events wait in a queue of their "
        "own, so that other visits do not wait for it.",
    )
    slow_visit_reattributions: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Stored events of one visit that one change attributes again, above which it is a slow visit.",
    )
    slow_visit_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1,
        le=1024**4,
        description="Memory in Redis for the queued events of slow visits, divided equally among the partitions. At "
        "its share history stops reading the log of the partition until there is room.",
    )
    max_write_attempts: int = Field(
        default=3,
        ge=1,
        le=1_000,
        description="Attempts to store an entry of the log while MongoDB is available. Then each of its visits is "
        "queued like a slow visit.",
    )
    lag_warning_s: int = Field(
        default=30,
        ge=1,
        le=86_400,
        description="Age of the oldest unread entry of the log above which history logs that it lags; it logs the "
        "end of the lag as well.",
    )
    max_event_streams: int = Field(
        default=64,
        ge=1,
        le=80,
        description="`StreamEvents` calls that are open at the same time. Further calls are refused with "
        "RESOURCE_EXHAUSTED. Each one reads the whole log with a Redis connection for each partition.",
    )
    redis_timeout_ms: int = Field(
        default=2_000,
        ge=1_100,
        le=30_000,
        description="Time to wait for an answer of Redis. It is longer than the 1 s for which a read of the log may "
        "block.",
    )
    mongo_timeout_ms: int = Field(
        default=2_000,
        ge=1,
        le=30_000,
        description="Time to wait for an answer of MongoDB, and for a MongoDB server that is available.",
    )

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of history."""
        yield from super().problems()
        if not self.max_event_age_days < self.live_retention_days < self.event_retention_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than LIVE_RETENTION_DAYS "
                f"({self.live_retention_days}), and that less than EVENT_RETENTION_DAYS "
                f"({self.event_retention_days}): an event must not be accepted again after it is forgotten"
            )
        if not (self.erasure_key or self.never_erase):
            yield (
                "ERASURE_KEY: must be set, to one secret for identity and history that never changes, unless "
                "NEVER_ERASE=true says that no person will ever have to be erased"
            )

    @property
    def erasure_secret(self) -> str:
        """The erasure key, empty when there is none."""
        return self.erasure_key.get_secret_value() if self.erasure_key else ""
