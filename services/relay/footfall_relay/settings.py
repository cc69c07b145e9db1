"""Settings of the relay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from footfall_eventlog.settings import (
    ErasureSettings,
    HistoryTarget,
    IdentityTarget,
    LiveRetentionDays,
    Partitions,
    RedisUrl,
    RelayHoldMinutes,
)
from footfall_servicekit.settings import Port
from footfall_servicekit.values import readable_by
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from footfall_relay.outlets_file import OutletsFileError, read_outlets


class RelaySettings(ErasureSettings):
    """Settings of the relay."""

    model_config = SettingsConfigDict(env_prefix="RELAY_")

    port: Port = 50054
    file: Annotated[Path | None, readable_by(Path.read_bytes)] = None
    """TOML file of the outlets: where events go, and which. A changed file is read within a second; a malformed change
    is logged and ignored. Unset: nothing goes out."""
    allow_http: bool = False
    """Send to webhooks by `http://` also on other machines. Then all that goes out can be read on the way."""
    redis_url: RedisUrl
    partitions: Partitions
    history_target: HistoryTarget
    identity_target: IdentityTarget
    live_retention_days: LiveRetentionDays
    relay_hold_minutes: RelayHoldMinutes
    redis_timeout_ms: int = Field(default=2_000, ge=1, le=30_000)
    """Time to wait for an answer of Redis."""
    history_timeout_ms: int = Field(default=10_000, ge=1, le=60_000)
    """Time in which history says who visitors were. Then it is asked again."""
    identity_timeout_ms: int = Field(default=2_000, ge=1, le=30_000)
    """Time to wait for contacts. Then events go out with the contact status UNKNOWN."""
    missing_wait_s: int = Field(default=60, ge=1, le=3_600)
    """Time to wait for an event that is in the event log and not in history: history may be reading again what MongoDB
    lost. Then it becomes a dead letter of the outlet."""
    max_dead_letters: int = Field(default=10_000, ge=1, le=1_000_000)
    """Dead letters of one outlet. At the limit the oldest are dropped and counted."""
    dead_letter_days: int = Field(default=30, ge=1, le=3_650)
    """How long dead letters are kept after the last one. They hold ids, and nothing that visitors have sent."""

    def problems(self) -> Iterator[str]:
        """What is wrong between settings of the relay."""
        yield from super().problems()
        try:
            read_outlets(self.file, allow_http=self.allow_http)
        except OutletsFileError as error:
            yield f"RELAY_FILE: {error}"
