"""The categories of events, assigned by the rules in CATEGORIES_FILE, which is reloaded when it changes.

The searched texts come from browsers and may be hostile. So regular expressions run in RE2, whose time is linear in the
length of the text, and only the beginning of a text is searched (docs/adr/0018).
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import re2
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.events import MAX_CATEGORY_LENGTH
from footfall_servicekit.reloading import ReloadingFile

MAX_TAGS: Final = 500
MAX_NAME_LENGTH: Final = 64
MAX_PATTERN_LENGTH: Final = 256
MAX_SEARCHED_LENGTH: Final = 1_024

# Pages recur with every event, so results are cached. Long texts are not: anybody may send many different ones.
_MAX_CACHED_LENGTH: Final = 512
_CACHE_SIZE: Final = 8_192
_REGEX_BYTES: Final = 256 * 1024
_ANY: Final = "all categories"  # means any category in queries
_DATA: Final = "data."

_decode_data = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class CategoriesFileError(ValueError):
    """The file is invalid. The text names every problem and where it is."""


class Tag(NamedTuple):
    """A rule for a text: it contains these pieces in order, in any case, or the regular expression finds a match."""

    pieces: tuple[str, ...]
    regex: Any = None

    @classmethod
    def parse(cls, text: str | None, regex: str | None) -> Self:
        """Create a tag from the values in the file. Raises ValueError with what is wrong."""
        pattern = regex if text is None else text
        if pattern is None or (text is not None and regex is not None):
            raise ValueError("must have `text` or `regex`, and only one")
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise ValueError(f"must have at most {MAX_PATTERN_LENGTH} characters")
        if text is None:
            return cls((), _compiled(pattern))
        pieces = tuple(piece.casefold() for piece in text.split("*") if piece)
        if not pieces:
            raise ValueError("`text` must have characters other than `*`")
        return cls(pieces)

    def matches(self, text: str, folded_text: str) -> bool:
        """Whether the rule holds for a text. `folded_text` is the same text, case-folded."""
        if self.regex is not None:
            return self.regex.search(text) is not None
        end = 0
        for piece in self.pieces:
            start = folded_text.find(piece, end)
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
    """Categories with their tags, in the order of the file. Tags search `url`, `title`, `language` or `data.<key>`."""

    def __init__(self, categories: Mapping[str, Iterable[tuple[str, Tag]]]) -> None:
        self._names = [*categories]
        self._tags: dict[str, list[tuple[int, Tag]]] = {}
        for position, tags in enumerate(categories.values()):
            for place, tag in tags:
                self._tags.setdefault(place, []).append((position, tag))
        self._keys = {place.removeprefix(_DATA) for place in self._tags if place.startswith(_DATA)}
        self._find_cached = lru_cache(maxsize=_CACHE_SIZE)(self._find)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read CATEGORIES_FILE. Raises CategoriesFileError."""
        return cls(_parse_file(file))

    def of(self, event: Event) -> str:
        """Return the categories of an admitted event, separated by semicolons, up to the maximum length."""
        if not self._tags:
            return ""
        found: set[int] = set()
        for place, text in self._texts(event):
            if text and place in self._tags:
                find = self._find_cached if len(text) <= _MAX_CACHED_LENGTH else self._find
                found |= find(place, text[:MAX_SEARCHED_LENGTH])
        joined = ""
        for name in (self._names[position] for position in sorted(found)):
            longer = f"{joined};{name}" if joined else name
            if len(longer) > MAX_CATEGORY_LENGTH:
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
                yield _DATA + key, _text_of(data[key])

    def _find(self, place: str, text: str) -> frozenset[int]:
        folded_text = text.casefold()
        return frozenset(position for position, tag in self._tags[place] if tag.matches(text, folded_text))


def _text_of(json: msgspec.Raw) -> str:
    """Return a string, or the literal of a number or boolean; "" for null, an array or an object."""
    first = bytes(memoryview(json)[:1])
    if first in b"{[n":
        return ""
    return _decode_text(json) if first == b'"' else bytes(json).decode()


class CategoriesFile(ReloadingFile[Categories]):
    """The current content of CATEGORIES_FILE. After an invalid change, the previous content stays in use.

    Without a file (None), no categories are assigned.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises CategoriesFileError for an invalid file."""
        super().__init__(lambda: Categories.load(path) if path else Categories({}), [path])

    def of(self, event: Event) -> str:
        """Return the categories of an admitted event, "" for none."""
        return self.latest.of(event)


class _Tag(msgspec.Struct, forbid_unknown_fields=True, rename={"place": "in"}):
    place: str
    text: str | None = None
    regex: str | None = None


class _Category(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    tags: list[_Tag]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    category: list[_Category]


def _parse_file(file: Path) -> dict[str, list[tuple[str, Tag]]]:
    try:
        given = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File).category
    except OSError as error:
        raise CategoriesFileError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, TOML or of this form
        raise CategoriesFileError(f"{file}: {error}") from None
    names = Counter(category.name for category in given)
    problems = [f"category {name!r}: is defined twice" for name, count in names.items() if count > 1]
    if sum(len(category.tags) for category in given) > MAX_TAGS:
        problems.append(f"must have at most {MAX_TAGS} tags in all")
    categories = {category.name: _tags(category, problems) for category in given}
    if problems:
        raise CategoriesFileError("\n".join(f"{file}: {problem}" for problem in problems))
    return categories


def _tags(given: _Category, problems: list[str]) -> list[tuple[str, Tag]]:
    """Convert the tags of one category; append what is wrong with it to `problems`."""
    where, name = f"category {given.name!r}", given.name
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable() or ";" in name or name != name.strip():
        problems.append(f"{where}: the name must have 1 to {MAX_NAME_LENGTH} characters, no `;`, no spaces around it")
    if name == _ANY:
        problems.append(f"{where}: the name is reserved; in queries, it means any category")
    if not given.tags:
        problems.append(f"{where}: must have tags")
    tags = []
    for number, tag in enumerate(given.tags, 1):
        try:
            tags.append((_place(tag.place), Tag.parse(tag.text, tag.regex)))
        except ValueError as error:
            problems.append(f"{where}, tag {number}: {error}")
    return tags


def _place(given: str) -> str:
    if given in {"url", "title", "language"} or (given.startswith(_DATA) and given != _DATA):
        return given
    raise ValueError("`in` must be url, title, language or data.<key>")
