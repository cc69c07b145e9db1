"""The tables in protos/README.md of who may call what, and of errors, are those of the services' own code."""

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
from docs.generate.errors import error_reasons

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


def test_the_readme_has_each_reason_of_an_error_with_its_status() -> None:
    given = {tuple(re.findall(r"`([A-Z_]+)`", row)[:2]) for row in error_reasons().splitlines()[2:]}
    listed, status = [], ""
    text = (ROOT / "protos" / "README.md").read_text(encoding="utf-8").partition("## Errors")[2]
    for code, reason in re.findall(r"^\| (?:`([A-Z_]+)` )?\| `([A-Z_]+)` \|", text, re.MULTILINE):
        status = code or status
        listed.append((reason, status))
    assert sorted(listed) == sorted(given)
