"""Settings of identity."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from footfall_eventlog.partitions import RedisUrl
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.settings import PORT_DESCRIPTION, ServiceSettings, shared
from footfall_servicekit.values import Accepts, DatabaseName, StoreUrl, readable_by
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from footfall_identity.attributes import USUAL_NAMES, AttributeNames
from footfall_identity.link_store import check_url
from footfall_identity.matching import check_region

DAY_MS = 86_400_000
MINUTE_MS = 60_000

KeyNames = Annotated[str, Accepts("keys, separated by commas")]


class IdentitySettings(ServiceSettings):
    """Settings of identity."""

    model_config = SettingsConfigDict(env_prefix="IDENTITY_")

    old_names = MappingProxyType(
        {
            "max_transitions_per_visit": "VISIT_TRANSITIONS",
            "visit_idle_minutes": "IDLE_MINUTES",
            "erase_anonymous_events": "ERASE_ANONYMOUS_STRETCH",
            "live_retention_days": "IDENTITY_RETENTION_DAYS",
            "log_retention_minutes": "LOG_KEPT_MINUTES",
            "watch_buffer_messages": "*WATCH_KEPT",
            "changelog_max_entries": "*CHANGES_KEPT",
        }
    )

    port: int = Field(default=50052, ge=0, le=65535, description=PORT_DESCRIPTION)
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
    phone_region: Annotated[
        str | None, AfterValidator(check_region), Accepts("two letters of a country, such as `DE`")
    ] = Field(
        default=None,
        description="Country of telephone numbers without `+`. Unset: such numbers match no contact.",
    )
    email_keys: KeyNames = Field(
        default=",".join(USUAL_NAMES["email"]),
        description="Keys of SignIn and UserInfo data, in any case, with an e-mail address. The first key that has "
        "a text is used.",
    )
    phone_keys: KeyNames = Field(
        default=",".join(USUAL_NAMES["phone"]),
        description="Keys with a telephone number, likewise.",
    )
    first_name_keys: KeyNames = Field(
        default=",".join(USUAL_NAMES["firstName"]),
        description="Keys with a first name, likewise.",
    )
    last_name_keys: KeyNames = Field(
        default=",".join(USUAL_NAMES["lastName"]),
        description="Keys with a last name, likewise.",
    )
    log_ack_replicas: int = shared(
        "LOG_ACK_REPLICAS",
        0,
        "Replicas of each Redis primary that must have written an event to disk before it counts as stored.",
        ge=0,
        le=10,
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
    watch_buffer_messages: int = Field(
        default=10_000,
        ge=100,
        le=10_000_000,
        description="Messages that a process buffers for `WatchVisitors` streams, about 1,000 bytes each. A stream "
        "whose client is further behind is ended.",
    )
    changelog_max_entries: int = Field(
        default=10_000,
        ge=100,
        le=10_000_000,
        description="Changes of visitors kept in Redis for each partition, about 300 bytes each. A `WatchVisitors` "
        "stream that resumes before the oldest one is refused.",
    )
    copy_name: bool = Field(
        default=False,
        description="Use `data.name` of SignIn and UserInfo events as the name of the identity.",
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
        """What is wrong between settings of identity."""
        yield from super().problems()
        if self.live_retention_days <= self.max_event_age_days:
            yield (
                f"LIVE_RETENTION_DAYS ({self.live_retention_days}) must be greater than MAX_EVENT_AGE_DAYS "
                f"({self.max_event_age_days}): an event must not be accepted again after its visit is forgotten"
            )
        if not (self.erasure_key or self.never_erase):
            yield (
                "ERASURE_KEY: must be set, to one secret for identity and history that never changes, unless "
                "NEVER_ERASE=true says that no person will ever have to be erased"
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
