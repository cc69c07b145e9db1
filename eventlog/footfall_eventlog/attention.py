"""Rules for who needs a look in the console's live list (ATTENTION_FILE): the one parser of the file.

Identity keeps of each visit the events that a rule counts. The console applies the rules.
"""

import re
import tomllib
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta

DEFAULT_FILE: Final = resources.files("footfall_eventlog") / "attention.toml"

_Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Patterns = Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=100)]
_Minutes = Annotated[int, Meta(ge=0, le=1_440)]


class AttentionFileError(ValueError):
    """ATTENTION_FILE cannot be used. The text names the field and the rule."""


class PageRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A visitor needs a look on a page whose title or address is like a pattern, after so many minutes."""

    name: _Name
    titles: _Patterns = []
    addresses: _Patterns = []
    minutes: _Minutes = 0


class EventRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A visitor needs a look after `count` or more events with names like a pattern within so many minutes."""

    name: _Name
    events: _Patterns
    count: Annotated[int, Meta(ge=1, le=20)] = 2
    minutes: Annotated[int, Meta(ge=1, le=1_440)] = 30


class AttentionRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All rules, in the order of the file."""

    page: Annotated[list[PageRule], Meta(max_length=50)] = []
    event: Annotated[list[EventRule], Meta(max_length=50)] = []

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read ATTENTION_FILE (None: the default rules). Raises AttentionFileError."""
        try:
            text = (file or DEFAULT_FILE).read_text(encoding="utf-8")
            rules = msgspec.convert(tomllib.loads(text), cls)
        except OSError as error:
            raise AttentionFileError(f"{file}: {error.strerror}") from None
        except ValueError as error:  # not UTF-8, not TOML, or not of this form
            raise AttentionFileError(f"{file}: {error}") from None
        if repeated := {name for name in rules.names if rules.names.count(name) > 1}:
            raise AttentionFileError(f"{file}: name: must be of one rule only: {', '.join(sorted(repeated))}")
        return rules

    @property
    def names(self) -> list[str]:
        """The names of the rules."""
        return [rule.name for rule in self.page] + [rule.name for rule in self.event]

    def name_check(self) -> Callable[[str], bool]:
        """A function that returns whether a rule counts events of a name. It remembers names, which are few."""
        patterns = [_expression(pattern) for rule in self.event for pattern in rule.events]
        return lru_cache(maxsize=4_096)(lambda name: any(pattern.fullmatch(name) for pattern in patterns))


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern with `*` as a regular expression."""
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE | re.DOTALL)
