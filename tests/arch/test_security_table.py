"""The tables in docs/security.md, of who is to be stopped and of attacks, name tests that are there."""

import ast
import re

import pytest

from deploy.embedded import ROOT


@pytest.mark.parametrize("heading", ["Threat model", "Attacks"])
def test_every_attack_names_a_test_that_exists(heading: str) -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if "::test_" not in row] == []
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", table)
    assert len(named) >= len(rows) > 10
    missing = []
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        if test not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append(f"{file}::{test}")
    assert missing == []
