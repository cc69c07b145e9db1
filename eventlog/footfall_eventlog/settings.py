"""Settings that several services must agree on: a type each, with variable, default, limits and meaning.

A service that reads such a setting has a field of its type.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final

from footfall_servicekit.settings import OldName, ServiceSettings, shared
from footfall_servicekit.values import Accepts, DatabaseName, StoreUrl, Target, readable_by
from pydantic import AfterValidator, Field, SecretStr

from footfall_eventlog.attention import AttentionRules
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.keys import check_keys_file
from footfall_eventlog.partitions import check_url
from footfall_eventlog.phone_numbers import check_region
from footfall_eventlog.site_groups import SiteGroups

DAY_MS: Final = 86_400_000
MINUTE_MS: Final = 60_000

_MIN_KEY_LENGTH: Final = 16
_KEYS_RULE: Final = f"keys of {_MIN_KEY_LENGTH} characters or more, separated by commas"


def _check_keys(keys: SecretStr | None) -> SecretStr | None:
    if keys and any(len(key) < _MIN_KEY_LENGTH for key in keys.get_secret_value().split(",")):
        raise ValueError(f"must be {_KEYS_RULE}")
    return keys


SecretKeys = Annotated[SecretStr | None, AfterValidator(_check_keys), Accepts(_KEYS_RULE)]
"""A secret that can change: the newest value first."""
RedisUrl = Annotated[
    StoreUrl,
    AfterValidator(check_url),
    Accepts("`redis://host:port` or `rediss://...`"),
    shared(
        "REDIS_URL",
        "redis://127.0.0.1:16379",
        "Redis or Valkey with the event log, the live state and the counters of rate limits. Of a Redis Cluster: "
        "any node, or a DNS name of several nodes.",
        repr=False,
    ),
]
MongoUrl = Annotated[
    StoreUrl,
    Accepts("`mongodb://...` or `mongodb+srv://...`"),
    shared(
        "MONGO_URL",
        "mongodb://127.0.0.1:37017",
        "MongoDB with identities, contacts, events and visits.",
        repr=False,
    ),
]
"""Each service adds the check of its driver, made with `mongo_url_check`: the event log does not use MongoDB."""


def mongo_url_check(parse: Callable[[str], object], error: type[Exception]) -> Callable[[str], str]:
    """Make the check of a MONGO_URL from the parser of a driver, which raises `error` or ValueError."""

    def check(url: str) -> str:
        try:
            parse(url)
        except (error, ValueError):
            rule = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and have valid options"
            raise ValueError(rule) from None
        return url

    return check


IdentityTarget = Annotated[Target, shared("IDENTITY_TARGET", "127.0.0.1:50052", "gRPC address of identity.")]
HistoryTarget = Annotated[Target, shared("HISTORY_TARGET", "127.0.0.1:50053", "gRPC address of history.")]
Partitions = Annotated[
    int,
    shared(
        "PARTITIONS",
        1,
        "Parts of the event log and of the live state. The first start on an empty Redis fixes the number; later a "
        "service with another number does not start. `footfall-ops repartition` changes it.",
        ge=1,
        le=100,
    ),
]
SitesFile = Annotated[
    Path | None,
    shared(
        "SITES_FILE",
        None,
        "TOML file of the sites, with their groups, origins and sign-in keys. A changed file is read within a second; "
        "a malformed change is logged and ignored. Unset: every valid name is a site, all sites share their visits, "
        "and every SignIn is believed.",
    ),
]
"""Each service adds the reader of the part of the file that it needs, with `readable_by`."""
IdentityPolicyFile = Annotated[
    Path | None,
    readable_by(IdentityPolicy.load),
    shared(
        "IDENTITY_POLICY_FILE",
        None,
        "TOML file of the identity policy: the keys with the user id, the values that name no person, who is staff, "
        "and what links contacts. Collector, identity and `footfall-import` need the same one. A changed file is read "
        "within a second; a malformed change is logged and ignored. Unset: the default values and rules, and no staff.",
    ),
]
GrpcKeysFile = Annotated[
    Path | None,
    readable_by(check_keys_file),
    shared(
        "GRPC_KEYS_FILE",
        None,
        "File of the API keys, the same as `GATEWAY_KEYS_FILE`. A gRPC caller may then show the token of a key, whose "
        "scopes and sites count. Without mutual TLS it must do so, also the services of the suite (`GRPC_TOKEN_FILE`). "
        "A changed file is read again. Unset: callers show no keys.",
    ),
]
AttentionFile = Annotated[
    Path | None,
    readable_by(AttentionRules.load),
    shared(
        "ATTENTION_FILE",
        None,
        "TOML file of the rules by which the console says who needs a look: pages, and events that happen repeatedly. "
        "Gateway and identity need the same one. Unset: error pages, repeated failures and searches, and ten minutes "
        "on a page of payment.",
    ),
]
MaxEventAgeDays = Annotated[
    int,
    shared(
        "MAX_EVENT_AGE_DAYS",
        7,
        "Age of an event when it arrives. The collector rejects older events as `too_old`. Must be less than "
        "`LIVE_RETENTION_DAYS`.",
        ge=1,
        le=3_650,
    ),
]
LiveRetentionDays = Annotated[
    int,
    OldName("IDENTITY_RETENTION_DAYS"),
    shared(
        "LIVE_RETENTION_DAYS",
        8,
        "How long the live state keeps a visit with transitions after its last event, and up to a day more. Must be "
        "less than `EVENT_RETENTION_DAYS`: an event must not be accepted again after its visit is forgotten.",
        ge=1,
        le=3_660,
    ),
]
VisitIdleMinutes = Annotated[
    int,
    OldName("IDLE_MINUTES"),
    shared(
        "VISIT_IDLE_MINUTES",
        30,
        "Time without an event that ends a visit: it is no longer listed as live, and the tracking script begins a "
        "new one.",
        ge=1,
        le=1_440,
    ),
]
PhoneRegion = Annotated[
    str | None,
    AfterValidator(check_region),
    Accepts("two letters of a country, such as `DE`"),
    shared(
        "IDENTITY_PHONE_REGION",
        None,
        "Country of telephone numbers without `+`. Unset: such numbers match no contact, and are refused in "
        "interactions. Collector, identity and history need the same one.",
    ),
]
LogAckReplicas = Annotated[
    int,
    shared(
        "LOG_ACK_REPLICAS",
        0,
        "Replicas of each Redis primary that must have written an event to disk before it counts as stored.",
        ge=0,
        le=10,
    ),
]
RelayHoldMinutes = Annotated[
    int,
    shared(
        "RELAY_HOLD_MINUTES",
        60,
        "How long an entry stays in the event log for an outlet of the relay that does not take it, or is paused, or "
        "whose relay does not run. What is older is lost for it, and counted. Less when the log reaches "
        "`COLLECTOR_LOG_MAX_BYTES`. History and the relay need the same one.",
        ge=1,
        le=43_200,
    ),
]


class ErasureSettings(ServiceSettings):
    """Settings of the services that know erased persons by their hashes."""

    erasure_key: SecretKeys = shared("ERASURE_KEY", None)
    """Secret of the keyed hashes that mark erased persons. Identity, history and the relay need the same one, unless
    `NEVER_ERASE` is `true`. Set it before the first visit. After a change the new value stands before the first one."""
    never_erase: bool = shared("NEVER_ERASE", False)
    """Start without `ERASURE_KEY`. Persons whose visits are stored in the meantime can never be erased."""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings."""
        yield from super().problems()
        if not (self.erasure_key or self.never_erase):
            yield (
                "ERASURE_KEY: must be set, to one secret for identity, history and the relay, unless "
                "NEVER_ERASE=true says that no person will ever have to be erased"
            )

    @property
    def erasure_secret(self) -> str:
        """The values of the erasure key, as `ErasureKeys` reads them; empty when there is none."""
        return self.erasure_key.get_secret_value() if self.erasure_key else ""


class ReaderSettings(ErasureSettings):
    """Settings of the services that read the event log into stores of their own: identity and history."""

    redis_url: RedisUrl
    mongo_url: MongoUrl
    mongo_database: Annotated[DatabaseName, shared("MONGO_DATABASE", "footfall", "Database in that MongoDB.")]
    partitions: Partitions
    sites_file: Annotated[SitesFile, readable_by(SiteGroups.load)]
    grpc_keys_file: GrpcKeysFile
    max_event_age_days: MaxEventAgeDays
    live_retention_days: LiveRetentionDays
    max_transitions_per_visit: Annotated[int, OldName("VISIT_TRANSITIONS")] = shared(
        "MAX_TRANSITIONS_PER_VISIT", 1_000, ge=1, le=2_000
    )
    """Transitions (SignIn, UserInfo, SignOut events) of one visit that are used: the earliest ones. Later transitions
    are stored like other events and do not change who the visitor is."""
    visit_idle_minutes: VisitIdleMinutes
    erase_anonymous_events: Annotated[bool, OldName("ERASE_ANONYMOUS_STRETCH")] = shared("ERASE_ANONYMOUS_EVENTS", True)
    """Erase with a person also the events of a visit from before it was identified, if that person was the first one it
    named."""
    log_retention_minutes: Annotated[int, OldName("LOG_KEPT_MINUTES")] = shared(
        "LOG_RETENTION_MINUTES", 10, ge=1, le=43_200
    )
    """How long an entry stays in the event log after identity and history have read it, unless the log reaches
    `COLLECTOR_LOG_MAX_BYTES`. For as long, streams of events can be resumed, and a MongoDB that is restored from a
    backup gets its missing events from the log. After it, the log is free of an erased person."""
    redis_timeout_ms: int = Field(default=2_000, ge=1_100, le=30_000)
    """Time to wait for an answer of Redis. It is longer than the 1 s for which a read of the log may block."""
    mongo_timeout_ms: int = Field(default=2_000, ge=1, le=30_000)
    """Time to wait for an answer of MongoDB, and for a MongoDB server that is available."""
