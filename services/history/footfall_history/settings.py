"""Turns the environment into what history is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from footfall_eventlog.partitions import RedisUrl
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.settings import ServiceSettings, shared
from footfall_servicekit.values import DatabaseName, StoreUrl, Target, readable_by
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_history.storage import check_url

DAY_MS = 86_400_000
MINUTE_MS = 60_000


class HistorySettings(ServiceSettings):
    """Settings of history."""

    model_config = SettingsConfigDict(env_prefix="HISTORY_")

    port: int = Field(default=50053, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "The Redis or Valkey that holds the event log; of a cluster any node, or a name of several.",
        repr=False,
    )
    mongo_url: Annotated[StoreUrl, AfterValidator(check_url)] = shared(
        "MONGO_URL", "mongodb://127.0.0.1:37017", "The MongoDB that holds events and visits.", repr=False
    )
    mongo_database: DatabaseName = shared("MONGO_DATABASE", "footfall", "Its database.")
    identity_target: Target = shared("IDENTITY_TARGET", "127.0.0.1:50052", "gRPC target of identity.")
    identity_timeout_ms: int = Field(
        default=500,
        ge=1,
        le=30_000,
        description="Longest that a query waits for identity's documents. Later it goes without.",
    )
    partitions: int = shared(
        "PARTITIONS",
        1,
        "Parts the log and the live state are divided into. Fixed by the first start on an empty Redis.",
        ge=1,
        le=100,
    )
    sites_file: Annotated[Path | None, readable_by(SiteGroups.load)] = shared(
        "SITES_FILE",
        None,
        "TOML file of the sites. Here only names and groups count: which visits an id may stand for.",
    )
    max_event_age_days: int = shared(
        "MAX_EVENT_AGE_DAYS", 7, "Events that happened longer ago are rejected as `too_old`.", ge=1, le=3_650
    )
    visit_transitions: int = shared(
        "VISIT_TRANSITIONS",
        1_000,
        "Transitions (SignIn, UserInfo, SignOut events) of one visit that count: the earliest so many. Later ones are "
        "stored like other events and change nothing.",
        ge=1,
        le=2_000,
    )
    idle_minutes: int = shared(
        "IDLE_MINUTES", 30, "A visit without an event for so long is over and no longer listed as live.", ge=1, le=1_440
    )
    erasure_key: SecretStr | None = shared(
        "ERASURE_KEY",
        None,
        "Secret that erased people are remembered under, as a keyed hash. Required, unless `NEVER_ERASE` is set. "
        "Set it before the first visit and never change it.",
        min_length=16,
    )
    never_erase: bool = shared(
        "NEVER_ERASE", False, "Start without `ERASURE_KEY`: nobody whose visits are stored then can ever be erased."
    )
    erase_anonymous_stretch: bool = shared(
        "ERASE_ANONYMOUS_STRETCH",
        True,
        "Erase with a person also what a visit did before it named anybody, when that person is whom it named first.",
    )
    live_retention_days: int = shared(
        "IDENTITY_RETENTION_DAYS",
        8,
        "What identity is told. Must be above `MAX_EVENT_AGE_DAYS` and below `HISTORY_RETENTION_DAYS`: admission "
        "refuses an event first, then the live state forgets its visit, history last.",
        ge=1,
        le=3_660,
    )
    retention_days: int = Field(
        default=30,
        ge=1,
        le=36_500,
        description="How long events are kept after they happened, and up to a day more; dead letters after they were "
        "put aside.",
    )
    dead_letters_bound: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="Events of a partition that may lie aside because they cannot be stored. When so many do, its log "
        "is not read any further until some are replayed or discarded.",
    )
    dead_letters_of_visit: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Of one visit at most so many lie aside; what more of it cannot be stored is dropped, counted and "
        "logged, so that no visit alone stops a partition.",
    )
    slow_transitions: int = Field(
        default=50,
        ge=1,
        le=1_000_000,
        description="A visit with more transitions is stored beside the log's others, with a pace of its own, so that "
        "they do not wait for it.",
    )
    slow_restamps: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000,
        description="The same holds for a visit of which more events have to be stamped anew at once.",
    )
    slow_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1,
        le=1024**4,
        description="Memory in Redis for such visits, divided among the partitions. The log of one whose share is full "
        "is not read any further until there is room.",
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=1_000,
        description="What could not be stored so often, although MongoDB answers, is set aside in the same way, visit "
        "by visit.",
    )
    behind_s: int = Field(
        default=30,
        ge=1,
        le=86_400,
        description="When history is so many seconds behind the log, and when it no longer is, its own log says so.",
    )
    watchers: int = Field(
        default=64,
        ge=1,
        le=80,
        description="Streams of arriving events served at once; more are refused with RESOURCE_EXHAUSTED. Each keeps a "
        "connection to Redis for every partition, of 100, and reads the whole log for itself.",
    )
    log_kept_minutes: int = shared(
        "LOG_KEPT_MINUTES",
        10,
        "How long entries stay in the log after both identity and history have read them, unless the log has reached "
        "its bound. A stream of events can be resumed that far back.",
        ge=1,
        le=43_200,
    )
    redis_timeout_ms: int = Field(
        default=2_000,
        ge=1_100,
        le=30_000,
        description="Longest wait for an answer of Redis. (Reading the log blocks for 1 s.)",
    )
    mongo_timeout_ms: int = Field(
        default=2_000, ge=1, le=30_000, description="Longest wait for a MongoDB server that can be asked."
    )

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of history."""
        yield from super().problems()
        if not self.max_event_age_days < self.live_retention_days < self.retention_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than IDENTITY_RETENTION_DAYS "
                f"({self.live_retention_days}), and that less than HISTORY_RETENTION_DAYS ({self.retention_days}): an "
                "event must not be accepted again after it is forgotten"
            )
        if not (self.erasure_key or self.never_erase):
            yield (
                "ERASURE_KEY: must be set, for good and to one secret for identity and history, unless "
                "NEVER_ERASE=true says that nobody will ever have to be erased"
            )

    @property
    def erasure_secret(self) -> str:
        """The erasure key, empty when there is none."""
        return self.erasure_key.get_secret_value() if self.erasure_key else ""
