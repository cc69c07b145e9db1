"""Settings: from the environment, wrong ones named all at once, and the table in a README."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from footfall_servicekit.settings import BEGIN, END, ServiceSettings, load, main, shared, table
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict


class Settings(ServiceSettings):
    """As a service has them."""

    model_config = SettingsConfigDict(env_prefix="TRIAL_")

    password: SecretStr = shared("TRIAL_TEST_PASSWORD", SecretStr("unguessable"), "The password.", min_length=8)
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


def test_the_table_has_a_row_for_each_setting_and_shows_no_secret() -> None:
    rows = table(Settings).splitlines()
    assert len(rows) == 2 + len(Settings.model_fields)
    assert "| `TRIAL_TEST_PASSWORD` | unset | The password. |" in rows
    assert "| `TRIAL_LEAST` | `1` | The least \\| of all. |" in rows
    assert "| `TRIAL_METRICS_PORT` | unset |" in table(Settings)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_command_writes_the_table_into_a_readme_and_checks_it(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    arguments = ["footfall_servicekit.settings:ServiceSettings", str(readme)]
    assert main([*arguments, "--check"]) == 1
    assert "old" in readme.read_text()
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n| Variable | Default | Meaning |\n")
    assert text.endswith(f"|\n{END}\n\nAfter\n")


def test_a_readme_without_marks_is_an_error(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# No marks\n")
    with pytest.raises(SystemExit):
        main(["footfall_servicekit.settings:ServiceSettings", str(readme)])
