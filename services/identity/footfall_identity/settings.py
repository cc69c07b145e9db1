"""Settings of identity."""

from collections.abc import Iterator
from typing import Annotated

from footfall_eventlog.attributes import USUAL_NAMES, AttributeNames
from footfall_eventlog.devices import FEW
from footfall_eventlog.identity_policy import MAX_DEVICES_PER_DAY, MAX_IDENTITIES_PER_VALUE, LinkPolicy, LinkRules
from footfall_eventlog.settings import (
    AttentionFile,
    HistoryTarget,
    IdentityPolicyFile,
    LogAckReplicas,
    MongoUrl,
    PhoneRegion,
    ReaderSettings,
)
from footfall_servicekit.settings import OldName, Port
from footfall_servicekit.values import Accepts
from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from footfall_identity.link_store import check_url

KeyNames = Annotated[str, Accepts("keys, separated by commas")]


class IdentitySettings(ReaderSettings):
    """Settings of identity."""

    model_config = SettingsConfigDict(env_prefix="IDENTITY_")

    port: Port = 50052
    mongo_url: Annotated[MongoUrl, AfterValidator(check_url)]
    history_target: HistoryTarget
    phone_region: PhoneRegion
    email_keys: KeyNames = ",".join(USUAL_NAMES["email"])
    """Keys of SignIn and UserInfo data, in any case, with an e-mail address, if `IDENTITY_POLICY_FILE` gives none. The
    first key that has a text is used."""
    phone_keys: KeyNames = ",".join(USUAL_NAMES["phone"])
    """Keys with a telephone number, likewise."""
    first_name_keys: KeyNames = ",".join(USUAL_NAMES["firstName"])
    """Keys with a first name, likewise."""
    last_name_keys: KeyNames = ",".join(USUAL_NAMES["lastName"])
    """Keys with a last name, likewise."""
    identity_policy_file: IdentityPolicyFile
    attention_file: AttentionFile
    log_ack_replicas: LogAckReplicas
    contact_timeout_ms: int = Field(default=1_000, ge=1, le=30_000)
    """Time that an answer about live visitors waits for their contacts in MongoDB. Then it is sent without them."""
    link_wait_ms: int = Field(default=500, ge=0, le=30_000)
    """How long writing a contact waits for the links that change because of it, if the request does not say it. Not for
    identities that share an attribute with more than 100 others."""
    max_link_wait_ms: int = Field(default=10_000, ge=0, le=60_000)
    """How long a request to write a contact may let it wait at most."""
    max_identities_per_value: int = Field(default=20, ge=1, le=MAX_IDENTITIES_PER_VALUE)
    """Identities that may give the same e-mail address, telephone number or name, where `IDENTITY_POLICY_FILE` does not
    say it. If more do, the value is generic, and rules do not use it for links. After a change, all identities are
    judged again in the background. All processes need the same value."""
    max_devices_per_day: int = Field(default=20, ge=FEW, le=MAX_DEVICES_PER_DAY)
    """Devices on which an identity may be used on a day, where `IDENTITY_POLICY_FILE` does not say it. If it is used on
    more, it is `shared`, and rules link it only by what a token proves. Likewise."""
    watch_buffer_messages: Annotated[int, OldName("*WATCH_KEPT")] = Field(default=10_000, ge=100, le=10_000_000)
    """Messages that a process buffers for `WatchVisitors` streams, about 1,000 bytes each. A stream whose client is
    further behind is ended."""
    changelog_max_entries: Annotated[int, OldName("*CHANGES_KEPT")] = Field(default=10_000, ge=100, le=10_000_000)
    """Changes of visitors kept in Redis for each partition, 100 to 300 bytes each: several of each visit, and one of
    each page while a `WatchVisitors` stream asks for pages. A stream that resumes before the oldest one, or for which
    more changes happen within about 100 ms, ends with `RESUME_TOKEN_EXPIRED`."""
    max_visits_per_contact_change: int = Field(default=1_000, ge=1, le=100_000)
    """When the contact of an identity changes, `WatchVisitors` reports at most so many of the identity's visits in each
    partition, the latest ones. Without `ERASURE_KEY` it reports the last visit on each website."""
    anonymous_retention_minutes: int = Field(default=90, ge=1, le=1_440)
    """How long live state keeps a visit without a transition (SignIn, UserInfo, SignOut) at most after it has ended,
    which is `VISIT_IDLE_MINUTES` after its last event. Page, title and device of other visits are kept as long."""
    max_pages_per_visit: int = Field(default=32, ge=1, le=1_000)
    """Pages that live state keeps of a visit, open or left: those with the latest events. A page that was left takes 10
    bytes, an open one 22 and, if it is not the page of the visit's last event, its address and title."""
    leave_after_ms: int = Field(default=5_000, ge=0, le=600_000)
    """How long after leaving the last page a visitor counts as LEFT, unless a page is entered. Events that a page sends
    in this time after its PageExited do not open it."""
    counted_sites: int = Field(default=100, ge=1, le=120)
    """Sites whose visitors are counted each by itself, those with most visitors; the others are counted together.
    Matters without `SITES_FILE`, when any sender can make up sites."""
    minute_retention_days: int = Field(default=8, ge=1, le=60)
    """How long the numbers of visitors of each minute are kept in Redis: about 150 bytes a minute, and 30 more for each
    site with visitors. Less than 8 days: the console cannot compare with the week before."""
    visit_code_minutes: int = Field(default=10, ge=1, le=60)
    """How long a code that a visitor reads to an agent finds the visit."""
    max_visit_codes: int = Field(default=10_000, ge=1, le=100_000)
    """Codes of visits that are in use at the same time, spread evenly over the partitions. Of 1,000,000 codes so many
    find a visit, so a larger number makes it likelier that a guess does. Further visits get no code."""
    max_wrong_codes_per_minute: int = Field(default=5, ge=1, le=1_000)
    """Wrong codes that one caller may give in a minute. Over HTTP a caller is an API key or user, over gRPC the `actor`
    of the request. Further codes are refused, the right one too."""
    max_wrong_codes_per_minute_of_all: int = Field(default=100, ge=1, le=100_000)
    """Wrong codes that all callers together may give in a minute, because over gRPC a caller may give any `actor`.
    Further codes of all callers are refused, the right ones too. A caller that has used up its own limit does not count
    any more."""
    request_ids_per_contact: int = Field(default=10, ge=1, le=100)
    """Request ids of writes that a contact remembers, about 100 bytes each. The oldest is forgotten."""
    request_id_minutes: int = Field(default=60, ge=1, le=10_080)
    """How long a contact remembers a request id. A write that is repeated later with an `etag` is refused."""
    max_names: int = Field(default=50, ge=2, le=200)
    """Names of one person: identities that may be renamed to each other. Also contacts that may be merged into one."""
    sync_max_deleted_percent: int = Field(default=20, ge=0, le=100)
    """Percentage of all contacts that the end of a synchronization may delete, unless its request allows more."""
    copy_name: bool = False
    """Use `data.name` of SignIn and UserInfo events as the name of the identity."""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of identity."""
        yield from super().problems()
        if self.live_retention_days <= self.max_event_age_days:
            yield (
                f"LIVE_RETENTION_DAYS ({self.live_retention_days}) must be greater than MAX_EVENT_AGE_DAYS "
                f"({self.max_event_age_days}): an event must not be accepted again after its visit is forgotten"
            )

    @property
    def link_policy(self) -> LinkPolicy:
        """What links contacts where IDENTITY_POLICY_FILE does not say it."""
        keys = {
            "email": self.email_keys,
            "phone": self.phone_keys,
            "firstName": self.first_name_keys,
            "lastName": self.last_name_keys,
        }
        rules = LinkRules(
            max_identities_per_value=self.max_identities_per_value, max_devices_per_day=self.max_devices_per_day
        )
        names = AttributeNames({attribute: names.split(",") for attribute, names in keys.items()})
        return LinkPolicy(rules=rules, names=names)
