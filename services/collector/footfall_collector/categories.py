"""Turns CATEGORIES_FILE, read again when it changes, into the categories of events that come without any.

Strangers choose the texts that are looked through. So regular expressions are RE2's, which takes time in proportion to
a text whatever the two are, and a text is cut off (docs/adr/0018).
"""

import asyncio
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import re2
from footfall.event.v1.event_pb2 import Event
from footfall_servicekit.reloading import ReloadingFile

from footfall_collector.normalize import LONGEST_CATEGORY

MOST_TAGS: Final = 500
LONGEST_NAME: Final = 64
LONGEST_PATTERN: Final = 256
LONGEST_SEARCHED: Final = 1_024
LOOK_EVERY_S: Final = 1.0

# As for addresses without secrets: pages come again with every event, and long texts may come from anybody.
_LONGEST_REMEMBERED: Final = 512
_MOST_REMEMBERED: Final = 8_192
_REGEX_BYTES: Final = 256 * 1024
_ANY: Final = "all categories"  # what queries call any category
_DATA: Final = "data."

_decode_data = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class CategoriesFileError(ValueError):
    """The file cannot be used. The text names every problem and where it is."""


class Tag(NamedTuple):
    """What a text must hold: these pieces one after another, in any case, or what the regular expression finds."""

    pieces: tuple[str, ...]
    regex: Any = None

    @classmethod
    def of(cls, text: str | None, regex: str | None) -> Self:
        """A tag as the file gives it. Raises ValueError with what is wrong."""
        pattern = regex if text is None else text
        if pattern is None or (text is not None and regex is not None):
            raise ValueError("must have `text` or `regex`, and only one")
        if len(pattern) > LONGEST_PATTERN:
            raise ValueError(f"must have at most {LONGEST_PATTERN} characters")
        if text is None:
            return cls((), _compiled(pattern))
        pieces = tuple(piece.casefold() for piece in text.split("*") if piece)
        if not pieces:
            raise ValueError("`text` must have something to look for")
        return cls(pieces)

    def is_in(self, text: str, folded: str) -> bool:
        """Whether a text, here also without regard to case, is of this kind."""
        if self.regex is not None:
            return self.regex.search(text) is not None
        end = 0
        for piece in self.pieces:
            start = folded.find(piece, end)
            if start < 0:
                return False
            end = start + len(piece)
        return True


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _REGEX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"`regex`: {error.args[0].decode(errors='replace')}") from None


class Categories:
    """Categories and where their tags look, each in the order of the file: `url`, `title`, `language`, `data.<key>`."""

    def __init__(self, categories: Mapping[str, Iterable[tuple[str, Tag]]]) -> None:
        self._names = [*categories]
        self._tags: dict[str, list[tuple[int, Tag]]] = {}
        for position, tags in enumerate(categories.values()):
            for place, tag in tags:
                self._tags.setdefault(place, []).append((position, tag))
        self._keys = {place.removeprefix(_DATA) for place in self._tags if place.startswith(_DATA)}
        self._find_known = lru_cache(maxsize=_MOST_REMEMBERED)(self._find)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read CATEGORIES_FILE. Raises CategoriesFileError."""
        return cls(_read(file))

    def of(self, event: Event) -> str:
        """The categories of an admitted event, separated by semicolons: the first so many as an event may have."""
        if not self._tags:
            return ""
        found: set[int] = set()
        for place, text in self._texts(event):
            if text and place in self._tags:
                find = self._find_known if len(text) <= _LONGEST_REMEMBERED else self._find
                found |= find(place, text[:LONGEST_SEARCHED])
        joined = ""
        for name in (self._names[position] for position in sorted(found)):
            longer = f"{joined};{name}" if joined else name
            if len(longer) > LONGEST_CATEGORY:
                break
            joined = longer
        return joined

    def _texts(self, event: Event) -> Iterator[tuple[str, str]]:
        yield "url", event.url
        yield "title", event.title
        yield "language", event.language_code
        if self._keys and event.data_json:
            data = _decode_data(event.data_json)
            for key in self._keys & data.keys():
                yield _DATA + key, _value(data[key])

    def _find(self, place: str, text: str) -> frozenset[int]:
        folded = text.casefold()
        return frozenset(position for position, tag in self._tags[place] if tag.is_in(text, folded))


def _value(json: msgspec.Raw) -> str:
    """A string, or a number or truth value as it is written; of anything else nothing."""
    first = bytes(memoryview(json)[:1])
    if first in b"{[n":
        return ""
    return _decode_text(json) if first == b'"' else bytes(json).decode()


class CategoriesFile(ReloadingFile[Categories]):
    """The file in use. When a change breaks it, the last good version stays. Without a file there are no categories."""

    def __init__(self, path: Path | None) -> None:
        """Raises CategoriesFileError when it is broken from the start."""
        self._is_set = path is not None
        super().__init__(lambda: Categories.load(path) if path else Categories({}), [path])

    def of(self, event: Event) -> str:
        """The categories of an admitted event, or "" for none."""
        return self.latest.of(event)

    async def watch(self) -> None:
        """Background work: check whether the file has changed, for as long as the process runs."""
        while self._is_set:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.renewed)


class _Tag(msgspec.Struct, forbid_unknown_fields=True, rename={"place": "in"}):
    place: str
    text: str | None = None
    regex: str | None = None


class _Category(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    tags: list[_Tag]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    category: list[_Category]


def _read(file: Path) -> dict[str, list[tuple[str, Tag]]]:
    try:
        given = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File).category
    except OSError as error:
        raise CategoriesFileError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or not of this form
        raise CategoriesFileError(f"{file}: {error}") from None
    names = Counter(category.name for category in given)
    problems = [f"category {name!r}: is there twice" for name, count in names.items() if count > 1]
    if sum(len(category.tags) for category in given) > MOST_TAGS:
        problems.append(f"must have at most {MOST_TAGS} tags in all")
    categories = {category.name: _tags(category, problems) for category in given}
    if problems:
        raise CategoriesFileError("\n".join(f"{file}: {problem}" for problem in problems))
    return categories


def _tags(given: _Category, problems: list[str]) -> list[tuple[str, Tag]]:
    """Check one category, adding to the problems what is wrong with it."""
    where, name = f"category {given.name!r}", given.name
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or ";" in name or name != name.strip():
        problems.append(f"{where}: the name must have 1 to {LONGEST_NAME} characters, no `;`, and no spaces around it")
    if name == _ANY:
        problems.append(f"{where}: is what queries call any category")
    if not given.tags:
        problems.append(f"{where}: must have tags")
    tags = []
    for number, tag in enumerate(given.tags, 1):
        try:
            tags.append((_place(tag.place), Tag.of(tag.text, tag.regex)))
        except ValueError as error:
            problems.append(f"{where}, tag {number}: {error}")
    return tags


def _place(given: str) -> str:
    if given in {"url", "title", "language"} or (given.startswith(_DATA) and given != _DATA):
        return given
    raise ValueError("`in` must be url, title, language or data.<key>")
