"""Writes the tables in the documents, and the schemas, that the sources determine: `make reference`."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from footfall_eventlog import identity_policy
from footfall_eventlog.placeholders import PLACEHOLDERS
from footfall_history.policies import report

from docs.generate import contract, examples, metrics, settings
from docs.generate.markdown import ROOT, with_tables


def placeholders() -> str:
    """The default placeholders, as a block of text."""
    lines = textwrap.wrap("   ".join(PLACEHOLDERS), 116, break_on_hyphens=False, break_long_words=False)
    return "\n".join(["```text", *lines, "```"])


PAGES: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "docs/ops/settings.md": settings.tables,
    "docs/ops/metrics.md": metrics.tables,
    "docs/reference.md": contract.tables,
    "docs/identity.md": lambda: {"placeholders": placeholders()},
    "docs/api/grpc.md": examples.excerpts,
    "CHANGELOG.md": lambda: {"old settings": settings.old_names()},
}
"""By page, what gives the tables in it by name."""
SCHEMAS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "docs/identity-policy.schema.json": identity_policy.json_schema,
    "docs/policy-report.schema.json": report.json_schema,
}
"""The JSON schemas of IDENTITY_POLICY_FILE and of the report of `footfall-policy simulate`."""


def outdated() -> dict[str, str]:
    """By path, the new text of each page and schema that is out of date."""
    found = {}
    for path, made in SCHEMAS.items():
        schema = json.dumps(made(), indent=2) + "\n"
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != schema:
            found[path] = schema
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
            sys.stderr.write(f"{path}: is out of date, run `make reference`\n")
        else:
            (ROOT / path).write_text(text, encoding="utf-8")
    return int(is_check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
