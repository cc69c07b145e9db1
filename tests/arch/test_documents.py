"""The pages name only what is there: links, tests, files, settings, metrics, commands, make targets and RPCs."""

import ast
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import cache

import footfall.collector.v1.collector_service_pb2 as collector
import footfall.event.v1.event_pb2 as event
import footfall.history.v1.history_service_pb2 as history
import footfall.identity.v1.identity_service_pb2 as identity
import grpc
import pytest
from footfall_servicekit.settings import variable
from google.protobuf.descriptor import FileDescriptor

from deploy.embedded import DEFAULT_PORTS, ROOT
from docs.generate.contract import tables as contract_tables
from docs.pages import Page, page, pages, tracked_files
from tests.arch.house import SERVICES, settings_class

CHANGELOG = "CHANGELOG.md"
"""The one page that names what is gone."""

every_page = pytest.mark.parametrize("one", pages(), ids=lambda one: one.name)


def named(one: Page, pattern: str) -> Iterator[str]:
    """What matches in the code spans and blocks of a page."""
    for text in one.code:
        yield from re.findall(pattern, text)


@every_page
def test_links_lead_to_files_and_sections(one: Page) -> None:
    broken = []
    for path, anchor in one.links():
        target = (one.path.parent / path) if path else one.path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in page(target).sections):
            broken.append(f"{path}#{anchor}")
    assert broken == []


@cache
def tests_of(file: str) -> Collection[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@every_page
def test_files_and_tests_exist(one: Page) -> None:
    missing = [
        f"{file}::{test}"
        for file, test in named(one, r"\b(tests/[\w/]+\.py)(?:::(\w+))?")
        if file not in tracked_files() or (test and test not in tests_of(file))
    ]
    folders = {name.partition("/")[0] for name in tracked_files() if "/" in name}
    paths = named(one, rf"(?<![\w/.-])((?:{'|'.join(map(re.escape, folders))})/[\w./-]*\w)")
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []


def enum_values(file: FileDescriptor) -> Iterator[str]:
    """Values of the enums of a file and of the files that it imports."""
    for enum in file.enum_types_by_name.values():
        yield from enum.values_by_name
    for dependency in file.dependencies:
        yield from enum_values(dependency)


CONTRACT = [module.DESCRIPTOR for module in (collector, event, history, identity)]
SETTINGS = {
    variable(settings_class(service), field) for service in SERVICES for field in settings_class(service).model_fields
}
CAPITALS = (
    SETTINGS
    | {*DEFAULT_PORTS}
    | {value for file in CONTRACT for value in enum_values(file)}
    | {code.name for code in grpc.StatusCode}
    | {*re.findall(r"[A-Z]+(?:_[A-Z]+)+", contract_tables()["error reasons"])}
)


@every_page
def test_settings_and_constants_exist(one: Page) -> None:
    found = [
        name
        for name in named(one, r"[*A-Z][*A-Z0-9]*(?:_[*A-Z0-9]+)+")
        if name not in CAPITALS and not any(fnmatchcase(k, name) for k in CAPITALS)
    ]
    assert found == []
