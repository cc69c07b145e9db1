"""Identity and history start with a key to erase people under, or with NEVER_ERASE."""

import pytest
from footfall_history.settings import HistorySettings
from footfall_identity.settings import IdentitySettings
from footfall_servicekit.settings import load

Settings = type[IdentitySettings] | type[HistorySettings]

both = pytest.mark.parametrize("cls", [IdentitySettings, HistorySettings])


@both
@pytest.mark.parametrize("key", [None, ""])
def test_no_key_is_refused_and_both_ways_out_are_named(
    cls: Settings, key: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if key is not None:
        monkeypatch.setenv("ERASURE_KEY", key)
    with pytest.raises(SystemExit) as refused:
        load(cls)
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "ERASURE_KEY: must be set" in said
    assert "NEVER_ERASE=true" in said


@both
def test_who_says_that_nobody_will_be_erased_needs_none(cls: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEVER_ERASE", "true")
    assert not load(cls).erasure_secret


@both
def test_the_key_is_shown_nowhere(cls: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASURE_KEY", "a secret of some length")
    settings = load(cls)
    assert settings.erasure_secret == "a secret of some length"
    assert "a secret" not in repr(settings)
