"""The table of log events in docs/ops/run.md has those that the code writes at level warning and above."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.embedded import ROOT

PACKAGES: Final = sorted(ROOT.glob("**/footfall_*/__init__.py"))
SERIOUS: Final = {"_log.warning", "_log.error", "_log.exception", "FailureLog"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        if not {".venv", "build"} & {*package.relative_to(ROOT).parts}:
            yield from package.parent.rglob("*.py")


def test_the_table_names_every_serious_log_event_and_only_events_of_the_code() -> None:
    serious, strings = set[str](), set[str]()
    for module in modules():
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.add(node.value)
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in SERIOUS:
                match node.args[0]:
                    case ast.Constant(value=str(event)):
                        serious.add(event)
    page = (ROOT / "docs" / "ops" / "run.md").read_text(encoding="utf-8")
    table = page.split("\n## Logs\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split(" | ", 1)[0] for line in table.splitlines() if line.startswith("| `")]
    named = {event for row in rows for event in re.findall(r"`([^`]+)`", row)}
    assert len(serious) > 30
    assert sorted(serious - named) == []
    assert sorted(named - strings) == []
