"""Writes the tables in the documents that the sources determine: `make reference`."""

import argparse
import sys
from collections.abc import Callable, Mapping

from docs.generate import contract, metrics, settings
from docs.generate.markdown import ROOT, with_tables

PAGES: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "docs/ops/settings.md": settings.tables,
    "docs/ops/metrics.md": metrics.tables,
    "docs/reference.md": contract.tables,
    "CHANGELOG.md": lambda: {"old settings": settings.old_names()},
}
"""By page, what gives the tables in it by name."""


def outdated() -> dict[str, str]:
    """By path, the new text of each page that is out of date."""
    found = {}
    for path, tables in PAGES.items():
        before = (ROOT / path).read_text(encoding="utf-8")
        if (after := with_tables(before, tables())) != before:
            found[path] = after
    return found


def main() -> int:
    """Write the generated tables; with --check, exit with 1 if one is out of date."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    is_check = parser.parse_args().check
    for path, text in (pages := outdated()).items():
        if is_check:
            sys.stderr.write(f"{path}: a table is out of date, run `make reference`\n")
        else:
            (ROOT / path).write_text(text, encoding="utf-8")
    return int(is_check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
