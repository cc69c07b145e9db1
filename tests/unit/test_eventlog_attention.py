"""The rules for who needs a look: what the file may say, and which events a rule counts."""

from pathlib import Path

import pytest
from footfall_eventlog.attention import AttentionFileError, AttentionRules

PAGE = '[[page]]\nname = "error"\n'
EVENT = '[[event]]\nname = "failed"\nevents = ["*Failed"]\n'


def written(tmp_path: Path, text: str) -> Path:
    (file := tmp_path / "attention.toml").write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (f"{PAGE}minutes = -1", r"`int` >= 0 - at `\$.page\[0\].minutes`"),
        (f"{PAGE}title = []", "unknown field `title`"),
        ("[[page]]\ntitles = []", "missing required field `name`"),
        (f"{EVENT}count = 21", r"`int` <= 20 - at `\$.event\[0\].count`"),
        (f"{PAGE}{EVENT.replace('failed', 'error')}", "name: must be of one rule only: error"),
        ("[[page", "Expected"),
    ],
)
def test_a_wrong_file_is_refused_with_its_field_and_rule(tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(AttentionFileError, match=rule):
        AttentionRules.load(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttentionFileError, match="No such file"):
        AttentionRules.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*Failed", ["PaymentFailed", "paymentfailed", "Failed"], ["FailedPayment", "Fail"]),
        ("Search*", ["Search", "SearchStarted", "Search\nresult"], ["NoSearch"]),
        ("a*b*c", ["abc", "a-b-c"], ["acb", "ab"]),
        ("a.c", ["A.C"], ["abc"]),
    ],
)
def test_a_star_stands_for_any_characters(tmp_path: Path, pattern: str, names: list[str], others: list[str]) -> None:
    rules = AttentionRules.load(written(tmp_path, EVENT.replace("*Failed", pattern)))
    counts = rules.name_check()
    assert [name for name in [*names, *others] if counts(name)] == names


def test_without_a_file_failures_and_searches_count() -> None:
    counts = AttentionRules.load(None).name_check()
    assert [counts(name) for name in ("PaymentFailed", "ErrorShown", "Search", "AddToCart")] == [
        True,
        True,
        True,
        False,
    ]
