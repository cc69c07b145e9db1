"""The tables in docs/security.md, of threats and of attacks, name a test for each row. test_documents.py finds them."""

import re

import pytest

from deploy.embedded import ROOT


@pytest.mark.parametrize("heading", ["Threat model", "Attacks"])
def test_every_attack_names_a_test(heading: str) -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::test_\w+`", row)] == []
