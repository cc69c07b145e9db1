"""Checks the words and the length of sentences in all pages, docstrings and comments: `python -m docs.prose`.

Code and tables are not prose: their sentences may have any length, and code may have any words. To forbid a word, add
it to `WORDS` with the words to write instead.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from docs.generate.markdown import ROOT
from docs.pages import pages, tracked_files

MAX_WORDS = 40
"""Of a sentence."""

WORDS: Mapping[str, str] = {
    r"nobody": "no client, no person",
    r"anew": "again",
    r"told|tells?": "reported, passed, configured, says",
    r"(lies?|lying|puts?|sets?|laid) aside": "kept as a dead letter, kept until it is replayed",
    r"in a hurry": "forced stop",
    r"keeps? house": "name the work",
    r"means? no good": "malformed, slow or oversized",
    r"neighbours?": "the name of the service; other services",
    r"(is|are) away": "is unavailable",
    r"is ill|is well": "is unhealthy, is healthy",
    r"walls?": "site isolation, group of sites",
    r"whatever|whoever|whichever": "a noun: every value, each client",
    r"and nothing else": "only",
    r"for good": "permanently",
    r"at once": "immediately; together; at a time",
    r"it is so that": "leave it out",
    r"lame duck": "drain delay",
    r"(re)?stamp(s|ed|er|ing)?": "attribution, attribute again",
    r"dead-?leters?": "dead letters",
    r"the brief|gwe-facts|design \d[\d.]*|the issues? this|issue \d+": "a page, a test, or GWE 8.5",
    r"what \w+ (does|do) is": "subject, verb, object",
}
"""By pattern of a word or phrase, what to write instead."""

_WORDS = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead) for pattern, instead in WORDS.items()]
_SENTENCE_END = re.compile(r"(?<=[.!?])[\")*_]*\s+(?=[\"(*_`\[]*[A-Z0-9`\[])")
_PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*|#>]|\d+\.) )")
_SPAN = re.compile(r"`[^`]+`")
_LINK_TARGET = re.compile(r"\]\([^)]*\)")


class Finding(NamedTuple):
    """A place to mend."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class Text(NamedTuple):
    """Prose, and the line of its file where it begins."""

    file: str
    line: int
    text: str


def findings(prose: Text) -> Iterator[Finding]:
    """What is wrong with a text, in Markdown whose blocks of code are blank."""
    text = _LINK_TARGET.sub("]", _SPAN.sub(lambda span: "`code`" + "\n" * span[0].count("\n"), prose.text))
    for pattern, instead in _WORDS:
        for found in pattern.finditer(text):
            line = prose.line + text.count("\n", 0, found.start())
            yield Finding(prose.file, line, f"`{found[0]}`: say instead: {instead}")
    start = 0
    for paragraph in _PARAGRAPH_END.split(text):
        start = text.index(paragraph, start)
        if paragraph.lstrip().startswith(("|", "#")):
            continue
        for sentence in _SENTENCE_END.split(paragraph):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > MAX_WORDS:
                line = prose.line + text.count(
                    "\n", 0, text.index(sentence, start) + len(sentence) - len(sentence.lstrip())
                )
                beginning = " ".join(words[:6])
                yield Finding(
                    prose.file, line, f"`{beginning} ...`: {len(words)} words; make several sentences or a list"
                )


def texts(name: str) -> Iterator[Text]:
    """The docstrings and comments of a module."""
    source = (ROOT / name).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield Text(name, node.lineno, text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type", "# fmt")):
            yield Text(name, token.start[0], token.string.lstrip("# "))


def main() -> int:
    """Print what is wrong with the prose of the repository; 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m docs.prose", description=main.__doc__)
    parser.add_argument("folders", nargs="*", help="whose modules to check beside the pages")
    folders = parser.parse_args().folders
    found = [finding for page in pages() for finding in findings(Text(page.name, 1, page.prose))]
    for name in sorted(tracked_files()):
        if name.endswith(".py") and name.startswith(tuple(f"{folder.rstrip('/')}/" for folder in folders)):
            found += [finding for text in texts(name) for finding in findings(text)]
    sys.stderr.write("".join(f"{finding}\n" for finding in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
