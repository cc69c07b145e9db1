"""Settings: from the environment, also by old names; all wrong ones are named together."""

from collections.abc import Iterator
from typing import Annotated

import pytest
from footfall_servicekit.settings import OldName, ServiceSettings, load, shared
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict


class Settings(ServiceSettings):
    """As a service has them."""

    model_config = SettingsConfigDict(env_prefix="TRIAL_")

    password: Annotated[SecretStr, OldName("TRIAL_OLD_SHARED")] = shared(
        "TRIAL_TEST_PASSWORD", SecretStr("unguessable"), "The password.", min_length=8
    )
    names: list[str] = Field(default=["a"], description="Names, as a JSON list.")
    least: int = Field(default=1, description="The least | of all.")
    most: int = Field(default=9, description="The most.")

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.least > self.most:
            yield "TRIAL_LEAST must not be above TRIAL_MOST"


def test_what_is_the_services_own_has_its_prefix_and_what_is_shared_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_PORT", "1234")
    monkeypatch.setenv("TRIAL_METRICS_PORT", "")
    monkeypatch.setenv("LOG_LEVEL", "error")
    monkeypatch.setenv("TRIAL_TEST_PASSWORD", "correct horse")
    settings = load(Settings)
    assert (settings.port, settings.metrics_port, settings.log_level) == (1234, None, "error")
    assert "correct horse" not in repr(settings)


def test_all_that_is_wrong_is_named_without_any_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "TRIAL_PORT": "70000",
        "LOG_LEVEL": "chatty",
        "TRIAL_TEST_PASSWORD": "hunter2",
        "TRIAL_NAMES": '["a", 7]',
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load(Settings)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "The settings are wrong:",
        "  TRIAL_PORT: should be less than or equal to 65535",
        "  LOG_LEVEL: should be 'debug', 'info', 'warning' or 'error'",
        "  TRIAL_TEST_PASSWORD: should have at least 8 characters",
        "  TRIAL_NAMES.1: should be a valid string",
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TRIAL_LEAST", "10", "TRIAL_LEAST must not be above TRIAL_MOST"),
        ("TRIAL_NAMES", "no JSON", "TRIAL_NAMES: must be JSON"),
    ],
)
def test_a_rule_between_settings_and_a_list_that_cannot_be_read_are_named_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load(Settings)
    assert said in capsys.readouterr().err


def test_an_old_name_works_until_the_new_one_is_set_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAL_LAME_DUCK_MS", "7")
    monkeypatch.setenv("trial_old_shared", "a secret of some length")
    settings = load(Settings)
    assert settings.drain_delay_ms == 7
    assert settings.password.get_secret_value() == "a secret of some length"
    advice = "rename it, because the next version ignores the old name"
    assert capsys.readouterr().err.splitlines() == [
        f"TRIAL_LAME_DUCK_MS is called TRIAL_DRAIN_DELAY_MS now: {advice}",
        f"TRIAL_OLD_SHARED is called TRIAL_TEST_PASSWORD now: {advice}",
    ]

    monkeypatch.setenv("TRIAL_DRAIN_DELAY_MS", "8")
    monkeypatch.setenv("TRIAL_OLD_SHARED", "")
    monkeypatch.setenv("trial_old_shared", "")
    assert load(Settings).drain_delay_ms == 8
    assert capsys.readouterr().err.splitlines() == [
        "TRIAL_LAME_DUCK_MS is ignored, because TRIAL_DRAIN_DELAY_MS, its new name, is set too: remove "
        "TRIAL_LAME_DUCK_MS"
    ]


def test_a_wrong_value_under_an_old_name_is_refused_with_both_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIAL_LAME_DUCK_MS", "-1")
    with pytest.raises(SystemExit):
        load(Settings)
    said = capsys.readouterr().err
    assert "TRIAL_LAME_DUCK_MS is called TRIAL_DRAIN_DELAY_MS now" in said
    assert "  TRIAL_DRAIN_DELAY_MS: should be greater than or equal to 0" in said
