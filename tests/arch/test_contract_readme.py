"""The tables in protos/README.md of who may call what, and of errors, are those of the services' own code."""

import re
from collections.abc import Collection, Mapping
from functools import cache
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
            named = {*re.findall(r"[a-z-]+", cells[4])}
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


GENERAL: Final = {
    "CEILING_REACHED",
    "INTERNAL",
    "MALFORMED_MESSAGE",
    "MESSAGE_TOO_LARGE",
    "NOT_IMPLEMENTED",
    "KEY_NOT_VALID",
    "ROLE_NOT_ALLOWED",
    "SCOPE_MISSING",
    "SITE_NOT_ALLOWED",
    "TOO_MANY_CALLS",
}
"""The reasons that every method may give, as the README says."""


@cache
def reasons() -> dict[str, str]:
    """By reason of an error, the services that give it."""
    return dict(re.findall(r"^\| `(\w+)` \| `\w+` \| ([^|]+) \|", error_reasons(), re.MULTILINE))


@pytest.mark.parametrize("service", ["collector", "identity", "history"])
def test_the_comment_of_each_method_ends_with_its_errors_and_together_they_name_all(service: str) -> None:
    file = ROOT / "protos" / "footfall" / service / "v1" / f"{service}_service.proto"
    comments = re.findall(r"((?:  //.*\n)+)  rpc (\w+)", file.read_text(encoding="utf-8"))
    words = {method: {*re.findall(r"[A-Z_]+", text.partition("Errors:")[2])} for text, method in comments}
    named = {method: reasons().keys() & found for method, found in words.items()}
    assert [method for method, found in named.items() if not found] == []
    given = {reason for reason, services in reasons().items() if service in services}
    elsewhere = {reason for reason, services in reasons().items() if service not in services}
    assert given - GENERAL <= (together := set[str]().union(*named.values()))
    every_service = {"INVALID_FIELD", "RESOURCE_NOT_FOUND"}
    assert together & elsewhere <= every_service | {"TOO_MANY_WRONG_CODES"}  # which history passes on from identity


def test_the_page_for_callers_says_what_to_do_about_each_reason() -> None:
    text = (ROOT / "docs" / "api" / "grpc.md").read_text(encoding="utf-8").partition("## Errors\n")[2]
    listed = re.findall(r"^\| `([A-Z_]+)` \| \S", text.partition("### Errors without details")[0], re.MULTILINE)
    assert sorted(listed) == sorted(reasons())


def test_the_readme_has_each_reason_of_an_error_with_its_status() -> None:
    given = {tuple(re.findall(r"`([A-Z_]+)`", row)[:2]) for row in error_reasons().splitlines()[2:]}
    listed, status = [], ""
    text = (ROOT / "protos" / "README.md").read_text(encoding="utf-8").partition("## Errors")[2]
    for code, reason in re.findall(r"^\| (?:`([A-Z_]+)` )?\| `([A-Z_]+)` \|", text, re.MULTILINE):
        status = code or status
        listed.append((reason, status))
    assert sorted(listed) == sorted(given)
