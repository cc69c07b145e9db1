"""Turns the environment into what identity is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from footfall_eventlog.partitions import RedisUrl
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.settings import ServiceSettings, shared
from footfall_servicekit.values import DatabaseName, StoreUrl, readable_by
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_identity.attributes import USUAL_NAMES, AttributeNames
from footfall_identity.link_store import check_url
from footfall_identity.matching import check_region

DAY_MS = 86_400_000
MINUTE_MS = 60_000


class IdentitySettings(ServiceSettings):
    """Settings of identity."""

    model_config = SettingsConfigDict(env_prefix="IDENTITY_")

    port: int = Field(50052, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    redis_url: RedisUrl = shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "The Redis or Valkey that holds log and live state; of a cluster any node, or a name of several.",
        repr=False,
    )
    mongo_url: Annotated[StoreUrl, AfterValidator(check_url)] = shared(
        "MONGO_URL", "mongodb://127.0.0.1:37017", "The MongoDB that holds identities and contacts.", repr=False
    )
    mongo_database: DatabaseName = shared("MONGO_DATABASE", "footfall", "Its database.")
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
    retention_days: int = Field(
        8,
        ge=1,
        le=3_660,
        description="How long the timeline of a visit is kept after its last event. Must be above "
        "`MAX_EVENT_AGE_DAYS`: an event must not be accepted again after its visit is forgotten.",
    )
    phone_region: Annotated[str | None, AfterValidator(check_region)] = Field(
        None,
        description="Country of telephone numbers without `+`, for instance `DE`. Unset: such numbers match nothing.",
    )
    email_keys: str = Field(
        ",".join(USUAL_NAMES["email"]),
        description="Keys of SignIn and UserInfo data, separated by commas and in any case, that hold an e-mail "
        "address. Of several the first counts that has a text.",
    )
    phone_keys: str = Field(",".join(USUAL_NAMES["phone"]), description="Those that hold a telephone number.")
    first_name_keys: str = Field(",".join(USUAL_NAMES["firstName"]), description="Those that hold a first name.")
    last_name_keys: str = Field(",".join(USUAL_NAMES["lastName"]), description="Those that hold a last name.")
    log_ack_replicas: int = shared(
        "LOG_ACK_REPLICAS",
        0,
        "Replicas of each primary of Redis that must have an event on disk too before it counts as stored.",
        ge=0,
        le=10,
    )
    log_kept_minutes: int = shared(
        "LOG_KEPT_MINUTES",
        10,
        "How long entries stay in the log after both identity and history have read them: an erasure answers when "
        "the log will be clean.",
        ge=1,
        le=43_200,
    )
    watch_kept: int = Field(
        10_000,
        ge=100,
        le=10_000_000,
        description="Messages kept in memory for watchers, about 1,000 bytes each. One further behind is ended.",
    )
    changes_kept: int = Field(
        10_000,
        ge=100,
        le=10_000_000,
        description="Changes a partition that a watcher can resume behind. About 300 bytes each.",
    )
    copy_name: bool = Field(False, description="Show `data.name` of SignIn and UserInfo events as the identity's name.")
    redis_timeout_ms: int = Field(
        2_000, ge=1_100, le=30_000, description="Longest wait for an answer of Redis. (Reading the log blocks for 1 s.)"
    )
    mongo_timeout_ms: int = Field(2_000, ge=1, le=30_000, description="Longest wait for an answer of MongoDB.")

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of identity."""
        yield from super().problems()
        if self.retention_days <= self.max_event_age_days:
            yield (
                f"IDENTITY_RETENTION_DAYS ({self.retention_days}) must be greater than MAX_EVENT_AGE_DAYS "
                f"({self.max_event_age_days}): an event must not be accepted again after its visit is forgotten"
            )
        if not (self.erasure_key or self.never_erase):
            yield (
                "ERASURE_KEY: must be set, for good and to one secret for identity and history, unless "
                "NEVER_ERASE=true says that nobody will ever have to be erased"
            )

    @property
    def attribute_names(self) -> AttributeNames:
        """What pages call the attributes that contacts are found by."""
        keys = {
            "email": self.email_keys,
            "phone": self.phone_keys,
            "firstName": self.first_name_keys,
            "lastName": self.last_name_keys,
        }
        return AttributeNames({attribute: names.split(",") for attribute, names in keys.items()})

    @property
    def erasure_secret(self) -> str:
        """The erasure key, empty when there is none."""
        return self.erasure_key.get_secret_value() if self.erasure_key else ""
