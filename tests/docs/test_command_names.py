"""The pages name only commands, subcommands and flags that exist: each explains itself by `--help`."""

import contextlib
import io
import re
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import EntryPoint, distributions
from typing import NamedTuple

import pytest

from docs.pages import pages

DISTRIBUTIONS = {each.name for each in distributions() if each.name.startswith("footfall-")}
SCRIPTS = {
    script.name: script
    for each in distributions()
    if each.name in DISTRIBUTIONS
    for script in each.entry_points
    if script.group == "console_scripts"
}
OTHER_NAMES = {*DISTRIBUTIONS} - {*SCRIPTS} | {"footfall-token"}
"""Distributions without a command, and a route of the example of a website."""
_COMMAND = re.compile(r"\b(footfall-[a-z]+)((?: [a-z][a-z-]+){0,2})((?:\\\n|[^\n|`#;)])*)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


class Use(NamedTuple):
    """A command as a page has it: its words up to the first argument, and what follows them."""

    page: str
    script: str
    words: tuple[str, ...]
    arguments: str


def uses() -> Iterator[Use]:
    """Each use of a command in a page."""
    for page in pages():
        for text in page.code:
            for script, words, arguments in _COMMAND.findall(text):
                if script not in OTHER_NAMES:
                    yield Use(page.name, script, tuple(words.split()), arguments)


def help_of(script: EntryPoint, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What a command says of itself; None when it does not exist."""
    monkeypatch.setattr(sys, "argv", [script.name, *words, "--help"])
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        try:
            script.load()()
        except SystemExit as ended:
            return None if ended.code else output.getvalue()
    return output.getvalue()


def unknown(use: Use, monkeypatch: pytest.MonkeyPatch) -> Collection[str]:
    """What there is not of a command and its flags."""
    if use.script not in SCRIPTS or (said := help_of(SCRIPTS[use.script], use.words, monkeypatch)) is None:
        return [" ".join([use.script, *use.words])]
    choices = {*re.findall(r"^    ([\w-]+)", said, re.MULTILINE)}
    for word in {*use.arguments.split()} & choices:  # a subcommand behind a flag
        said += help_of(SCRIPTS[use.script], (*use.words, word), monkeypatch) or ""
    return {*_FLAG.findall(use.arguments)} - {*_FLAG.findall(said)}


def test_commands_and_flags_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(use, missing) for use in uses() if (missing := unknown(use, monkeypatch))]
    assert len({use.script for use in uses()}) >= len(SCRIPTS)
    assert [f"{use.page}: {' '.join(missing)}" for use, missing in found] == []
