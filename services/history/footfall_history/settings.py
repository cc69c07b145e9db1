"""Settings of history."""

from collections.abc import Iterator
from typing import Annotated

from footfall_eventlog.settings import (
    IdentityPolicyFile,
    IdentityTarget,
    MongoUrl,
    PhoneRegion,
    ReaderSettings,
    RelayHoldMinutes,
)
from footfall_servicekit.settings import OldName, Port, shared
from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from footfall_history.storage import check_url


class HistorySettings(ReaderSettings):
    """Settings of history."""

    model_config = SettingsConfigDict(env_prefix="HISTORY_")

    port: Port = 50053
    mongo_url: Annotated[MongoUrl, AfterValidator(check_url)]
    identity_target: IdentityTarget
    identity_policy_file: IdentityPolicyFile
    identity_timeout_ms: int = Field(default=500, ge=1, le=30_000)
    """Time that a query waits for identity. Then it is answered without the data of identities."""
    max_identities_per_contact: int = Field(default=50, ge=1, le=1_000)
    """Identities of one contact whose events, page entries, sessions and visits are listed together. A list of a
    contact with more is refused with FAILED_PRECONDITION. Each identity costs such a list a query of its own."""
    context_timeout_ms: int = Field(default=500, ge=10, le=10_000)
    """Time in which `GetCustomerContext` finds the customer, and again the time in which it reads visits, pages and
    events. Together they take at most nine tenths of the time that the caller waits. Parts that need longer are
    named in `unavailable_parts`."""
    context_interactions: int = Field(default=10, ge=0, le=50)
    """Interactions in the answer of `GetCustomerContext`, the newest ones."""
    max_interaction_visits: int = Field(default=1_000, ge=1, le=10_000)
    """Visits of a person, those that began last, whose interactions are listed with those of the person. An export and
    an erasure have no such limit."""
    phone_region: PhoneRegion
    event_retention_days: Annotated[int, OldName("*RETENTION_DAYS")] = shared(
        "EVENT_RETENTION_DAYS", 30, ge=1, le=36_500
    )
    """How long history keeps an event after it happened, and an interaction after it began, and up to a day more. Dead
    letters are kept as long, from the time they became dead letters."""
    relay_hold_minutes: RelayHoldMinutes
    load_gather_ms: int = Field(default=1_000, ge=250, le=5_000)
    """Time from one read of the log to the next while many events arrive: the more events are stored together, the less
    each costs. With few events it is 250 ms, and the first event after a pause is stored immediately."""
    max_dead_letters: Annotated[int, OldName("*DEAD_LETTERS_BOUND")] = Field(default=1_000, ge=1, le=1_000_000)
    """Dead letters of one partition. At the limit history stops reading the log of the partition until some are
    replayed or discarded."""
    max_dead_letters_per_visit: Annotated[int, OldName("*DEAD_LETTERS_OF_VISIT")] = Field(
        default=100, ge=1, le=1_000_000
    )
    """Dead letters of one visit. At the limit further events of the visit that cannot be stored are dropped, counted
    and logged, so that one visit does not stop a partition."""
    slow_visit_transitions: Annotated[int, OldName("*SLOW_TRANSITIONS")] = Field(default=50, ge=1, le=1_000_000)
    """Transitions of one visit above which it is a slow visit. Its events wait in a queue of their own, so that other
    visits do not wait for it."""
    slow_visit_reattributions: Annotated[int, OldName("*SLOW_RESTAMPS")] = Field(default=1_000, ge=1, le=1_000_000)
    """Stored events of one visit that one change attributes again, above which it is a slow visit."""
    slow_visit_bytes: Annotated[int, OldName("*SLOW_BYTES")] = Field(default=128 * 1024 * 1024, ge=1, le=1024**4)
    """Memory in Redis for the queued events of slow visits, divided equally among the partitions. At its share history
    stops reading the log of the partition until there is room."""
    max_write_attempts: Annotated[int, OldName("*ATTEMPTS")] = Field(default=3, ge=1, le=1_000)
    """Attempts to store an entry of the log while MongoDB is available. Then each of its visits is queued like a slow
    visit."""
    lag_warning_s: Annotated[int, OldName("*BEHIND_S")] = Field(default=30, ge=1, le=86_400)
    """Age of the oldest unread entry of the log above which history logs that it lags; it logs the end of the lag as
    well."""
    max_event_streams: Annotated[int, OldName("*WATCHERS")] = Field(default=64, ge=1, le=80)
    """`StreamEvents` calls that are open at the same time. Further calls are refused with RESOURCE_EXHAUSTED. Each one
    reads the whole log with a Redis connection for each partition."""

    scorecard_interval_s: int = Field(default=600, ge=1, le=86_400)
    """How often history looks whether a day has to be counted for its scorecards. A day is counted an hour after its
    end in UTC, and again every day until `MAX_EVENT_AGE_DAYS` after it."""
    scorecard_max_sites: int = Field(default=100, ge=1, le=1_000)
    """Sites that have a scorecard of a day, the first ones by name. Matters without `SITES_FILE`, when any sender can
    make up sites. Also limits the labels of the metrics of scorecards."""
    scorecard_sample_size: int = Field(default=20_000, ge=100, le=1_000_000)
    """Pairs of device and identity of a site and day above which identities per device and devices per identity are
    estimated from a sample. More pairs make the estimates better, and take more memory while a day is counted."""
    scorecard_retention_days: int = Field(default=400, ge=1, le=36_500)
    """How long history keeps a scorecard."""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of history."""
        yield from super().problems()
        if not self.max_event_age_days < self.live_retention_days < self.event_retention_days:
            yield (
                f"MAX_EVENT_AGE_DAYS ({self.max_event_age_days}) must be less than LIVE_RETENTION_DAYS "
                f"({self.live_retention_days}), and that less than EVENT_RETENTION_DAYS "
                f"({self.event_retention_days}): an event must not be accepted again after it is forgotten"
            )
