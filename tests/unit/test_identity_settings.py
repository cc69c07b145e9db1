"""Identity refuses settings that contradict each other."""

import pytest
from footfall_identity.settings import IdentitySettings
from footfall_servicekit.settings import load


def test_a_retention_that_does_not_outlast_accepted_events_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_EVENT_AGE_DAYS", "8")
    with pytest.raises(SystemExit):
        load(IdentitySettings)
    assert "must be greater than MAX_EVENT_AGE_DAYS" in capsys.readouterr().err
