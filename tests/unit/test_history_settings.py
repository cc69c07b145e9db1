"""Settings of history that would lose events are refused."""

from functools import partial

import pytest
from footfall_history.settings import HistorySettings
from pydantic import ValidationError

Settings = partial(HistorySettings, never_erase=True)


def test_events_must_be_kept_longer_than_the_live_state_which_is_kept_longer_than_events_are_accepted() -> None:
    assert Settings(max_event_age_days=7, live_retention_days=8, event_retention_days=9).event_retention_days == 9
    for live_retention_days in (7, 9):
        with pytest.raises(ValidationError, match="must be less than LIVE_RETENTION_DAYS"):
            Settings(max_event_age_days=7, live_retention_days=live_retention_days, event_retention_days=9)
