"""The measured sections of the documents: how they begin, their tables, and their places."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import machine
from deploy.embedded import ROOT

PERFORMANCE = ROOT / "docs" / "dev" / "performance.md"
SCALING = ROOT / "docs" / "ops" / "scaling.md"


def measured(seconds: float) -> str:
    """The line a section begins with: when, how long, and on what machine."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return f"Measured on {today} in {seconds:.0f} s on {machine.description()}."


def table(head: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the heads of its columns are divided by bars, and all but the first hold figures."""
    columns = head.split("|")
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def write(section: str, command: str, page: Path = PERFORMANCE) -> None:
    """Put the section between the marks of the command that has measured it."""
    begin, end = f"<!-- measured: `{command}` writes this -->", f"<!-- end of what `{command}` writes -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{section}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
