"""Settings of identity."""

from collections.abc import Iterator
from typing import Annotated

from footfall_eventlog.settings import LogAckReplicas, MongoUrl, ReaderSettings
from footfall_servicekit.settings import OldName, Port
from footfall_servicekit.values import Accepts
from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from footfall_identity.attributes import USUAL_NAMES, AttributeNames
from footfall_identity.link_store import check_url
from footfall_identity.matching import check_region

KeyNames = Annotated[str, Accepts("keys, separated by commas")]


class IdentitySettings(ReaderSettings):
    """Settings of identity."""

    model_config = SettingsConfigDict(env_prefix="IDENTITY_")

    port: Port = 50052
    mongo_url: Annotated[MongoUrl, AfterValidator(check_url)]
    phone_region: Annotated[
        str | None, AfterValidator(check_region), Accepts("two letters of a country, such as `DE`")
    ] = None
    """Country of telephone numbers without `+`. Unset: such numbers match no contact."""
    email_keys: KeyNames = ",".join(USUAL_NAMES["email"])
    """Keys of SignIn and UserInfo data, in any case, with an e-mail address. The first key that has a text is used."""
    phone_keys: KeyNames = ",".join(USUAL_NAMES["phone"])
    """Keys with a telephone number, likewise."""
    first_name_keys: KeyNames = ",".join(USUAL_NAMES["firstName"])
    """Keys with a first name, likewise."""
    last_name_keys: KeyNames = ",".join(USUAL_NAMES["lastName"])
    """Keys with a last name, likewise."""
    log_ack_replicas: LogAckReplicas
    watch_buffer_messages: Annotated[int, OldName("*WATCH_KEPT")] = Field(default=10_000, ge=100, le=10_000_000)
    """Messages that a process buffers for `WatchVisitors` streams, about 1,000 bytes each. A stream whose client is
    further behind is ended."""
    changelog_max_entries: Annotated[int, OldName("*CHANGES_KEPT")] = Field(default=10_000, ge=100, le=10_000_000)
    """Changes of visitors kept in Redis for each partition, about 300 bytes each. A `WatchVisitors` stream that resumes
    before the oldest one is refused."""
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
    def attribute_names(self) -> AttributeNames:
        """What pages call the attributes that contacts are found by."""
        keys = {
            "email": self.email_keys,
            "phone": self.phone_keys,
            "firstName": self.first_name_keys,
            "lastName": self.last_name_keys,
        }
        return AttributeNames({attribute: names.split(",") for attribute, names in keys.items()})
