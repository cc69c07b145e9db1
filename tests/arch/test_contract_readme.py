"""The tables in protos/README.md of who may call what, and of errors, are those of the services' own code."""

import ast
import re
from collections.abc import Collection, Mapping
from typing import Final

import footfall_collector.access
import footfall_history.access
import footfall_identity.access
import pytest
from footfall.collector.v1 import collector_service_pb2
from footfall.history.v1 import history_service_pb2
from footfall.identity.v1 import identity_service_pb2
from google.protobuf.descriptor import ServiceDescriptor

from deploy.embedded import ROOT

TABLES: Final[list[tuple[ServiceDescriptor, Mapping[str, Collection[str]]]]] = [
    (collector_service_pb2.DESCRIPTOR.services_by_name["CollectorService"], footfall_collector.access.ACCESS),
    (identity_service_pb2.DESCRIPTOR.services_by_name["IdentityService"], footfall_identity.access.ACCESS),
    (history_service_pb2.DESCRIPTOR.services_by_name["HistoryService"], footfall_history.access.ACCESS),
]


def written(service: str) -> dict[str, set[str]]:
    """By method (or `all others`), the roles that the README says may call it."""
    rows, of_service = {}, ""
    for line in (ROOT / "protos" / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        if len(cells) != 5 or cells[1] in {"method", "---"}:
            continue
        of_service = cells[0] or of_service
        if of_service == service:
            named = {cells[4]} if cells[4] else set()
            rows[cells[1]] = named | {
                role for role, cell in zip(("gateway", "contact-center"), cells[2:4], strict=True) if cell
            }
    return rows


@pytest.mark.parametrize(("service", "access"), TABLES, ids=lambda part: getattr(part, "name", ""))
def test_the_readme_names_the_roles_that_may_call_each_method(
    service: ServiceDescriptor, access: Mapping[str, Collection[str]]
) -> None:
    rows = written(service.name)
    said = {method: rows.get(method, rows.get("all others", set())) for method in service.methods_by_name}
    assert said == {
        method: {role for role, methods in access.items() if method in methods} for method in service.methods_by_name
    }


REASON: Final = re.compile(r"[A-Z]+(_[A-Z]+)*")
SOURCES: Final = ("servicekit", "services")


def raised_reasons() -> set[str]:
    """The reasons that code of servicekit and the services gives to `RequestError`, or that are its defaults."""
    reasons: set[str] = set()
    for path in (path for folder in SOURCES for path in (ROOT / folder).glob("**/footfall_*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.match(r"RequestError\b|cls\b", ast.unparse(node.func)):
                texts: list[ast.expr] = node.args
            elif isinstance(node, ast.FunctionDef) and path.name == "errors.py":
                texts = node.args.defaults
            else:
                continue
            words = {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
            reasons |= {word for word in words if REASON.fullmatch(word)}
    return reasons


def test_the_readme_lists_each_reason_that_an_error_may_have() -> None:
    text = (ROOT / "protos" / "README.md").read_text(encoding="utf-8").partition("## Errors")[2]
    listed = re.findall(r"^\|[^|]*\| `([A-Z_]+)` \|", text, re.MULTILINE)
    assert set(listed) | {"NOT_ALLOWED"} == raised_reasons()  # NOT_ALLOWED: a default that no caller leaves
    assert len(listed) == len(set(listed))
