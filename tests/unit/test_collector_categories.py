"""CATEGORIES_FILE: the categories of events, and the problems reported for a file."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.categories import (
    MAX_PATTERN_LENGTH,
    MAX_SEARCHED_LENGTH,
    MAX_TAGS,
    Categories,
    CategoriesFile,
    CategoriesFileError,
)
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from footfall_servicekit import reloading
from structlog.testing import capture_logs

from deploy.embedded import ROOT
from tests.tools.batches import batch, message
from tests.tools.eventually import eventually

FILE = """
[[category]]
name = "loans"
tags = [
    { in = "url", text = "/loans/" },
    { in = "title", text = "Car*Loan" },
]

[[category]]
name = "German"
tags = [{ in = "language", regex = '^de\\b' }]

[[category]]
name = "dear carts"
tags = [{ in = "data.price", regex = '^[0-9]{4,}(\\.|$)' }, { in = "data.a.b", text = "gold" }]
"""


def loaded(folder: Path, text: str) -> Categories:
    return Categories.load(written(folder, text))


def written(folder: Path, text: str) -> Path:
    file = folder / "categories.toml"
    file.write_text(text)
    return file


def category(name: str, *tags: str) -> str:
    return f"[[category]]\nname = '{name}'\ntags = [{', '.join(f'{{ {tag} }}' for tag in tags)}]\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"url": "https://shop.example/loans/cars"}, "loans"),
        ({"url": "https://shop.example/LOANS/"}, "loans"),
        ({"url": "https://shop.example/loans"}, ""),
        ({"data": {"title": "A car for you - loan"}}, "loans"),
        ({"data": {"title": "Loan for a car"}}, ""),
        ({"name": "AddToCart", "data": {"title": "car loan"}}, ""),
        ({"language_code": "de-AT"}, "German"),
        ({"language_code": "den"}, ""),
        ({"language_code": "DE"}, ""),
        ({"url": "https://shop.example/loans/", "language_code": "de"}, "loans;German"),
        ({"name": "AddToCart", "data": {"price": 1200.5}}, "dear carts"),
        ({"name": "AddToCart", "data": {"price": "1200"}}, "dear carts"),
        ({"name": "AddToCart", "data": {"price": 120.5}}, ""),
        ({"name": "AddToCart", "data": {"price": ["1200"]}}, ""),
        ({"name": "AddToCart", "data": {"price": None}}, ""),
        ({"name": "AddToCart", "data": {"a.b": "Gold card"}}, "dear carts"),
        ({"name": "AddToCart", "data": {"a": {"b": "gold"}}}, ""),
        ({"url": "https://shop.example/loans/", "category": "mine"}, "mine"),
    ],
)
def test_the_categories_of_an_event(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert admitted(loaded(tmp_path, FILE), **fields) == expected


def test_the_documented_example_is_a_file(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "site" / "server.md").read_text(encoding="utf-8")
    [example] = [part for part in text.split("```") if part.startswith("toml\n[[category]]")]
    rules = loaded(tmp_path, example.removeprefix("toml\n"))
    assert admitted(rules, url="https://shop.example/loans/7/apply") == "loans"


def test_masked_text_is_not_searched(tmp_path: Path) -> None:
    rules = loaded(tmp_path, category("secrets", "in = 'url', text = 'hunter2'"))
    assert admitted(rules, url="https://shop.example/?password=hunter2") == ""


def admitted(rules: Categories, **fields: Any) -> str:
    """Return the categories of an event after admission."""
    admission = Admission(Sites(), Redactor(), max_event_age_ms=DAY_MS, category_of=rules.of)
    sent = batch(message(**fields))
    assert admission.admit(sent, 0) == {}
    return sent.events[0].category


def test_categories_are_limited_to_the_maximum_length(tmp_path: Path) -> None:
    names = [f"{number:064}" for number in range(20)]
    rules = loaded(tmp_path, "".join(category(name, "in = 'url', text = 'x'") for name in names))
    assert admitted(rules, url="x").split(";") == names[:15]


def test_only_the_first_characters_of_a_text_are_searched(tmp_path: Path) -> None:
    rules = loaded(tmp_path, category("a", "in = 'url', text = 'x'"))
    assert admitted(rules, url="-" * (MAX_SEARCHED_LENGTH - 1) + "x") == "a"
    assert admitted(rules, url="-" * MAX_SEARCHED_LENGTH + "x") == ""


def test_no_text_makes_a_pattern_slow(tmp_path: Path) -> None:
    patterns = r"in = 'url', regex = '(a+)+$'", r"in = 'url', regex = '(a|aa)+b$'", "in = 'url', text = 'a*a*a*a*b'"
    rules = loaded(tmp_path, category("a", *patterns))
    started = time.process_time()
    assert rules.of(message(url="a" * (MAX_SEARCHED_LENGTH - 1) + "!")) == ""
    assert time.process_time() - started < 0.1  # re of Python takes years


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[category]\nname = 'a'", "at line 1, column"),
        ("[[category]]\nname = 'a'\ntags = 3", r"Expected `array`, got `int` - at `$.category[0].tags`"),
        (category("a", "in = 'url', txt = 'x'"), "unknown field `txt` - at `$.category[0].tags[0]`"),
        (category("a"), "category 'a': must have tags"),
        (category("a", "in = 'url', text = 'x'") * 2, "category 'a': is defined twice"),
        (category("a;b", "in = 'url', text = 'x'"), "category 'a;b': the name must have 1 to 64 characters, no `;`"),
        (category(" a", "in = 'url', text = 'x'"), "category ' a': the name must have"),
        (category("all categories", "in = 'url', text = 'x'"), "category 'all categories': the name is reserved"),
        (category("a", "in = 'uri', text = 'x'"), "category 'a', tag 1: `in` must be url, title, language or data."),
        (category("a", "in = 'data.', text = 'x'"), "category 'a', tag 1: `in` must be"),
        (category("a", "in = 'url'"), "category 'a', tag 1: must have `text` or `regex`, and only one"),
        (category("a", "in = 'url', text = 'x', regex = 'x'"), "category 'a', tag 1: must have `text` or `regex`, and"),
        (category("a", "in = 'url', text = '**'"), "category 'a', tag 1: `text` must have characters other than `*`"),
        (category("a", "in = 'url', text = 'x'", "in = 'url', regex = 'a(b'"), "category 'a', tag 2: `regex`: missing"),
        (category("a", r"in = 'url', regex = '(a)\1'"), r"category 'a', tag 1: `regex`: invalid escape sequence: \1"),
        (category("a", r"in = 'url', regex = '(?:\pL{100}){10}'"), "category 'a', tag 1: `regex`: pattern too large"),
        (category("a", f"in = 'url', text = '{'x' * (MAX_PATTERN_LENGTH + 1)}'"), "tag 1: must have at most 256"),
        (category("a", *["in = 'url', text = 'x'"] * (MAX_TAGS + 1)), "must have at most 500 tags in all"),
    ],
)
def test_an_invalid_file_is_rejected_with_the_place_of_the_problem(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CategoriesFileError) as refused:
        loaded(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / 'categories.toml'}: ")
    assert problem in str(refused.value)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(CategoriesFileError) as refused:
        loaded(tmp_path, category("a;b", "in = 'url', regex = '('", "in = 'uri', text = 'x'"))
    assert len(str(refused.value).splitlines()) == 3


def test_a_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CategoriesFileError, match="No such file"):
        CategoriesFile(tmp_path / "missing.toml")


@asynccontextmanager
async def watched(rules: CategoriesFile) -> AsyncIterator[None]:
    """Reload the file when it changes, as in a running collector."""
    task = asyncio.create_task(rules.follow())
    yield
    assert task.cancel()


async def test_a_valid_change_is_loaded_and_an_invalid_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    event, file = message(url="x"), written(tmp_path, category("first", "in = 'url', text = 'x'"))
    rules = CategoriesFile(file)
    with capture_logs() as lines:
        async with watched(rules):
            assert rules.of(event) == "first"
            written(tmp_path, category("second", "in = 'url', text = 'x'"))
            await eventually(lambda: rules.of(event) == "second")
            for broken in (lambda: file.write_text("nonsense"), file.unlink):
                lines.clear()
                broken()
                await eventually(lambda: bool(lines))
                assert lines[0]["event"] == "files have changed and cannot be used"
                assert str(file) in lines[0]["reason"]
                assert rules.of(event) == "second"
            written(tmp_path, category("third", "in = 'url', text = 'x'"))
            await eventually(lambda: rules.of(event) == "third")
