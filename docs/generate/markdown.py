"""Tables of Markdown, and the marked places of pages that hold them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table; `|` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its marks, `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises:
        ValueError: the marks of a table are missing.

    """
    for name, text in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the marks {begin} and {end} are missing")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page
