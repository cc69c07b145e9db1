"""The console's texts: each one has a translation, with the same values in it, and no translation is left over."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
from footfall.collector.v1.collector_service_pb2 import RejectReason
from footfall_eventlog.attention import AttentionRules
from footfall_gateway.api_v1.health_findings import AS_USUAL, BEACONS, QUERIES, ProblemCode
from footfall_history.queries.resources import SIMILAR
from footfall_timeline import EFFECTS

from deploy.embedded import ROOT

CONSOLE = ROOT / "gateway/console/console"
LANGUAGES = sorted(CONSOLE.glob("language.*.js"))
TEXT = r"'((?:[^'\\]|\\.)+)'"
USED = re.compile(rf"\b(?:t|parts)\(\s*{TEXT}")
COUNTED = re.compile(rf"\bcounted\([^']*?, {TEXT}(?:, {TEXT})?\)")
CODES = r"const {name} = \{{\n(.*?)\n\}};"
ENTRY = re.compile(rf"^  {TEXT}: {TEXT},$")
TRANSLATED_ATTRIBUTES = {"aria-label", "placeholder", "title"}
NAMES = {"Footfall", "/"}
"""What is the same in every language."""


class PageTexts(HTMLParser):
    """The texts of a page that `translate` replaces."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page.partition("<body")[2])

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if value and name in TRANSLATED_ATTRIBUTES}

    def handle_data(self, data: str) -> None:
        self.found |= {data.strip()} - {"", ">"}


def used_texts() -> Iterator[str]:
    """The English texts of the sources, the page, the answers of history, and the rules of attention."""
    yield from PageTexts((CONSOLE / "index.html").read_text()).found - NAMES
    yield from EFFECTS.values()
    yield SIMILAR
    yield from {AS_USUAL, *BEACONS.values(), *QUERIES.values()}
    yield from AttentionRules.load(None).names
    for source in {*CONSOLE.glob("*.js")} - {*LANGUAGES}:
        script = source.read_text()
        yield from (unquoted(text) for text in USED.findall(script))
        for one, several in COUNTED.findall(script):
            yield from (one, several or f"{one}s")


def unquoted(text: str) -> str:
    return text.replace("\\'", "'")


def values(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_each_problem_and_reason_of_the_api_has_words() -> None:
    health = (CONSOLE / "health.js").read_text()

    def codes(name: str) -> set[str]:
        return set(re.findall(r"^  (\w+):", re.findall(CODES.format(name=name), health, re.DOTALL)[0], re.MULTILINE))

    assert codes("PROBLEMS") == {*get_args(ProblemCode)} - {"part_failed"}
    reasons = {name.removeprefix("REJECT_REASON_").lower() for name, number in RejectReason.items() if number}
    assert codes("REFUSALS") == reasons


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda file: file.name)
def test_every_text_has_one_translation_with_the_same_values(language: Path) -> None:
    lines = [line for line in language.read_text().splitlines() if line.startswith("  ") and "//" not in line]
    entries = [ENTRY.match(line) for line in lines]
    assert [line for line, entry in zip(lines, entries, strict=True) if entry is None] == []
    pairs = [(unquoted(entry[1]), unquoted(entry[2])) for entry in entries if entry]
    translated = dict(pairs)
    assert len(translated) == len(pairs)
    used = set(used_texts())
    assert sorted(used - translated.keys()) == []
    assert sorted(translated.keys() - used) == []
    assert [text for text, translation in pairs if values(text) != values(translation)] == []
