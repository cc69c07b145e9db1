"""Checks the words and sentences of the pages, and of docstrings and comments of modules: `python -m docs.prose`.

To forbid a word, add it to `WORDS`. Sentences of tables and code may have any length.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from typing import NamedTuple

from docs.generate.markdown import ROOT
from docs.pages import pages, tracked_files

MAX_WORDS = 40
"""The most that a sentence may have."""

WORDS: Mapping[str, str] = {
    r"nobody": "no client, no person",
    r"anew": "again",
    r"told|tells": "reported, passed, configured, says",
    r"(lies?|lying|puts?|sets?|laid) aside": "kept as a dead letter, kept until it is replayed",
    r"in a hurry": "forced stop",
    r"keeps? house": "the name of the work",
    r"means? no good": "malformed, slow, oversized",
    r"neighbours?": "the name of the service, other services",
    r"(is|are) away": "is unavailable",
    r"(is|are) (ill|well)(?! \w)": "is unhealthy, is healthy",
    r"walls?": "site isolation, group of sites",
    r"whatever|whoever": "a noun, such as every value, each client",
    r"and nothing else": "only",
    r"for good": "permanently",
    r"at once": "immediately, together, at a time",
    r"it is so that": "nothing",
    r"lame duck": "drain delay",
    r"(re)?stamp(s|ed|er|ing)?": "attribution, attribute again",
    r"the brief|gwe-facts|design \d[\d.]*|the issues? this|issue \d+": "a page, a test, GWE 8.5",
    r"what \w+ (does|do) is": "subject, verb, object",
}
"""By pattern of a word or phrase, what to say instead."""

_WORDS = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead) for pattern, instead in WORDS.items()]
_SPAN = re.compile(r"`[^`]+`")
_LINK_TARGET = re.compile(r"\]\([^)]*\)")
_PARAGRAPH = re.compile(r"(?:(?!\n\s*(?:\n|[-*|#>] |\d+\. |[\w, ]+:\s)).)+", re.DOTALL)
"""It ends at an empty line, an item of a list, a row of a table, and a name with a colon, as below `Raises:`."""
_SENTENCE = re.compile(r"\S.*?(?:[.!?][\")*_]*(?=\s+[\"(*_`\[]*[A-Z0-9`\[])|\Z)", re.DOTALL)
_FOR_TOOLS = re.compile(r"# ?(noqa|type:|fmt:)|#!")


class Text(NamedTuple):
    """Prose, and the line of its file where it begins."""

    file: str
    line: int
    text: str


def findings(prose: Text) -> Iterator[str]:
    """What is wrong with a text: Markdown without its blocks of code."""
    text = _SPAN.sub(lambda span: "`code`" + "\n" * span[0].count("\n"), prose.text)
    text = _LINK_TARGET.sub("]", text)
    for pattern, instead in _WORDS:
        for found in pattern.finditer(text):
            yield f'{_place(prose, text, found.start())}: "{found[0]}": say {instead}'
    for paragraph in _PARAGRAPH.finditer(text):
        if not paragraph[0].lstrip().startswith(("|", "#")):
            for sentence in _SENTENCE.finditer(paragraph[0]):
                for fault in _faults(sentence[0], is_page=prose.file.endswith(".md")):
                    yield f"{_place(prose, text, paragraph.start() + sentence.start())}: {fault}"


def _place(prose: Text, text: str, position: int) -> str:
    newline = "\n"
    return f"{prose.file}:{prose.line + text.count(newline, 0, position)}"


def _faults(sentence: str, *, is_page: bool) -> Iterator[str]:
    words = re.findall(r"\S*\w\S*", sentence)
    beginning = f'"{" ".join(words[:5])} ..."'
    if len(words) > MAX_WORDS:
        yield f"{beginning} has {len(words)} words: make several sentences or a list"
    if is_page and sentence.count(";") > 1:
        yield f"{beginning} is a chain of semicolons: make several sentences or a list"
    if is_page and words[:1] == ["Of"]:
        yield f"{beginning}: begin with the subject"


def texts(name: str) -> Iterator[Text]:
    """The docstrings and comments of a module. Comments on lines below each other are one text."""
    source = (ROOT / name).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield Text(name, node.lineno, text)
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _FOR_TOOLS.match(token.string):
            comments[token.start[0]] = token.string.lstrip("# ")
    for line in comments:
        if line - 1 not in comments:
            lines = takewhile(comments.__contains__, count(line))
            yield Text(name, line, "\n".join(comments[each] for each in lines))


def main() -> int:
    """Print what is wrong with the prose of all pages, and of the modules in the folders given; 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m docs.prose", description=main.__doc__)
    parser.add_argument("folders", nargs="*")
    folders = tuple(f"{folder.rstrip('/')}/" for folder in parser.parse_args().folders)
    found = [fault for page in pages() for fault in findings(Text(page.name, 1, page.prose))]
    for name in sorted(tracked_files()):
        if name.startswith(folders) and name.endswith(".py"):
            found += [fault for text in texts(name) for fault in findings(text)]
    sys.stderr.write("".join(f"{fault}\n" for fault in found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
