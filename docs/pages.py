"""The Markdown pages of the repository: their blocks of code, links, anchors and code spans."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache, cached_property
from typing import NamedTuple

from docs.generate.markdown import ROOT

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str
    line: int
    """The number of its first line in the page."""


class Page:
    """A page, by its path in the repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / name
        self.text = self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks."""
        return [Block(found[2], found[3], self._line(found.start(3))) for found in _FENCE.finditer(self.text)]

    @cached_property
    def prose(self) -> str:
        """The page with empty lines in place of its fenced blocks."""
        return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), self.text)

    @cached_property
    def code(self) -> list[str]:
        """The texts of its code spans and blocks."""
        spans = [" ".join(span.split()) for span in _SPAN.findall(self.prose)]
        return [*spans, *(block.text for block in self.blocks)]

    def links(self) -> Iterator[tuple[str, str]]:
        """Each link that stays in the repository: the path as written, and the anchor. Either can be empty."""
        for target in _LINK.findall(_SPAN.sub("", self.prose)):
            if not target.startswith(("http://", "https://", "mailto:")):
                path, _, anchor = target.partition("#")
                yield path, anchor

    @cached_property
    def sections(self) -> dict[str, str]:
        """By anchor, as GitHub makes it of a heading, the text of the section with its subsections."""
        headings = [*_HEADING.finditer(self.prose)]
        found = {}
        for index, heading in enumerate(headings):
            following = (each for each in headings[index + 1 :] if len(each[1]) <= len(heading[1]))
            end = next((each.start() for each in following), len(self.prose))
            found[_anchor(heading[2])] = self._source(heading.start(), end)
        return found

    def _source(self, start: int, end: int) -> str:
        """The lines of the page, with blocks, that stand at these places of its prose."""
        lines = self.text.splitlines(keepends=True)
        return "".join(lines[self.prose.count("\n", 0, start) : self.prose.count("\n", 0, end)])

    def _line(self, place: int) -> int:
        return self.text.count("\n", 0, place) + 1


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def tracked_files() -> frozenset[str]:
    """The paths of all files of the repository, with new ones that are not yet committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return frozenset(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@cache
def pages() -> list[Page]:
    """All pages, in the order of their paths."""
    return [Page(name) for name in sorted(tracked_files()) if name.endswith(".md")]
