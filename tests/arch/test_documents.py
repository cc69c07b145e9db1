"""The pages name only what is there: links, files, tests, settings, metrics, commands, make targets and RPCs.

tests/docs/ runs their commands and asks for their HTTP routes; test_settings.py holds the generated tables.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec

import grpc
import pytest
import yaml  # type: ignore[import-untyped]
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2 as event
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall_identity.contacts_command import ContactsSettings
from footfall_servicekit.settings import variable
from google.protobuf.descriptor import FileDescriptor

from deploy.embedded import DEFAULT_PORTS, ROOT
from docs.generate.contract import tables as contract_tables
from docs.generate.metrics import tables as metric_tables
from docs.pages import Page, pages, tracked_files
from tests.arch.house import PROCESSES, settings_class

PAGES = {page.name: page for page in pages()}
ANSWERS = {
    "sign a SignIn": ("site/install.md#4-sign-sign-ins", ["token", "secret_file", "SITES_FILE"]),
    "what 429 means": ("api/beacons.md#answers", ["429", "Retry-After"]),
    "how long a visit is kept": ("privacy.md#how-long", ["visit", "EVENT_RETENTION_DAYS", "LIVE_RETENTION_DAYS"]),
    "what an erasure leaves": ("privacy.md#what-an-erasure-leaves", ["contact", "LOG_RETENTION_MINUTES", "backups"]),
    "move the ports": ("quickstart.md#ports-and-data-folder", ["GATEWAY_PORT", "DATA_DIR", "make run"]),
    "history lags": ("ops/failures.md#history-lags", ["footfall_history_lag_seconds"]),
}
"""By question of a reader, the link of docs/index.md that answers it, and words of the answer."""


def wrong(check: Callable[[Page], Collection[str]]) -> dict[str, list[str]]:
    """By page, what a check finds wrong with it."""
    return {page.name: sorted(found) for page in PAGES.values() if (found := check(page))}


def named(page: Page, pattern: str) -> set[str]:
    """What matches in the code spans and blocks of a page."""
    return {found for text in page.code for found in re.findall(pattern, text)}


def test_links_lead_to_files_and_sections() -> None:
    def broken(page: Page) -> list[str]:
        return [f"{path}#{anchor}" for path, anchor in page.links() if not leads(page, path, anchor)]

    assert wrong(broken) == {}


def leads(page: Page, path: str, anchor: str) -> bool:
    """Whether a link of a page has a target."""
    target = (page.path.parent / path).resolve() if path else page.path
    if not (anchor and target.suffix == ".md"):
        return target.exists()
    found = PAGES.get(target.relative_to(ROOT).as_posix())
    return found is not None and anchor in found.sections


@pytest.mark.parametrize("question", ANSWERS)
def test_the_index_leads_to_the_answer(question: str) -> None:
    link, words = ANSWERS[question]
    path, _, anchor = link.partition("#")
    assert (path, anchor) in {*PAGES["docs/index.md"].links()}
    section = PAGES[f"docs/{path}"].sections[anchor]
    assert [word for word in words if word not in section] == []


def test_the_index_leads_to_every_page() -> None:
    linked = {path for path, _ in PAGES["docs/index.md"].links()}
    names = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/") and "/adr/0" not in name}
    assert names - linked - {"index.md"} == set()


def test_examples_of_data_are_read() -> None:
    readers: dict[str, Callable[[str], object]] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
    found = [block for page in PAGES.values() for block in page.blocks if block.language in readers]
    for block in found:
        readers[block.language](block.text)
    assert {block.language for block in found} == {*readers}


def test_commands_for_containers_give_every_variable_that_compose_demands() -> None:
    demanded = re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    shown = [block.text for page in PAGES.values() for block in page.blocks if "docker compose" in block.text]
    shown.append((ROOT / "docker-compose.tls.yml").read_text(encoding="utf-8"))
    starting = [text for text in shown if " up --build" in text]
    assert len(starting) > 2
    assert [(name, text) for text in starting for name in demanded if not re.search(rf"\b{name}\b", text)] == []


def test_files_and_tests_exist() -> None:
    folders = "|".join({re.escape(name.partition("/")[0]) for name in tracked_files() if "/" in name})

    def missing(page: Page) -> set[str]:
        paths = named(page, rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w")
        tests = named(page, r"\btests/[\w/]+\.py::\w+")
        return {path for path in paths if not (ROOT / path).exists()} | {test for test in tests if not is_test(test)}

    assert wrong(missing) == {}


def is_test(name: str) -> bool:
    file, _, test = name.partition("::")
    return file in tracked_files() and test in functions_of(file)


@cache
def functions_of(file: str) -> Collection[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def enum_values(file: FileDescriptor) -> Iterator[str]:
    """Values of the enums of a file and of the files that it imports, and what is left of them without first words."""
    for enum in file.enum_types_by_name.values():
        for value in enum.values_by_name:
            yield from (value.split("_", words)[-1] for words in range(value.count("_")))
    for dependency in file.dependencies:
        yield from enum_values(dependency)


CONTRACT = [module.DESCRIPTOR for module in (collector, event, history, identity)]
CONSTANTS = {
    *(
        variable(settings_class(service), field)
        for service in PROCESSES
        for field in settings_class(service).model_fields
    ),
    *(variable(ContactsSettings, field) for field in ContactsSettings.model_fields),
    *DEFAULT_PORTS,
    *re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")),
    "DATA_DIR",
    *re.findall(r"`(FOOTFALL_\w+)`", PAGES["docs/ops/settings.md"].text),
    *(value for file in CONTRACT for value in enum_values(file)),
    *(code.name for code in grpc.StatusCode),
    "DEAD_LETTER",  # of a receipt
    *("CRM_SECRET", "KAFKA_PASSWORD"),  # named by an example of an outlets file
}
"""Every name in capitals with an underscore that a page may have: settings, other variables, and values of the APIs.

Reasons of errors are not in it: to find them takes a second of whichever process collects the tests.
"""


def test_settings_and_constants_exist() -> None:
    known = CONSTANTS | {*re.findall(r"`([A-Z_]+)`", contract_tables()["error reasons"])}

    def unknown(page: Page) -> list[str]:
        names = named(page, r"(?:\*|\.\.\.|[A-Z][A-Z0-9]*)(?:_[A-Z0-9]+)*(?:_\*|_[A-Z0-9]+)(?![a-z])")
        programs = [block.text for block in page.blocks if block.language in {"python", "js"}]
        names -= {*re.findall(r"\w+", "\n".join(programs))}
        patterns = {name: name.replace("...", "*") for name in names - known}
        return [name for name, pattern in patterns.items() if not any(fnmatchcase(each, pattern) for each in known)]

    found = wrong(unknown)
    found.pop("CHANGELOG.md", None)  # names what is gone
    assert found == {}


def test_commands_say_which_variables_of_the_reader_they_take_and_have_the_defaults_of_make_run() -> None:
    defaults = {name: str(port) for name, port in DEFAULT_PORTS.items()} | {"DATA_DIR": ".data"}

    def differing(page: Page) -> list[str]:
        found = []
        for block in page.blocks:
            taken = re.findall(r"\$\{(\w+):-([^}]*)\}|environ\.get\(\"(\w+)\", (\w+)\)", block.text)
            values = {name or other: value or number for name, value, other, number in taken}
            said = {*re.findall(r"\w+", " ".join(re.findall(r"Takes ([A-Z_, and]+), if `make run`", block.text)))} - {
                "and"
            }
            found += [f"{name}: {value}" for name, value in values.items() if defaults.get(name) != value]
            found += [f"line {block.line}: takes {values.keys()}, says {said}"] if said != values.keys() else []
        return found

    assert wrong(differing) == {}


def test_commands_are_called_where_make_install_puts_them() -> None:
    called_by_name = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*((?:python|pytest|footfall-\w+) .*)$", re.MULTILINE)

    def outside(page: Page) -> list[str]:
        blocks = [block.text for block in page.blocks if block.language in {"sh", "console"}]
        return called_by_name.findall("\n".join(blocks))

    assert wrong(outside) == {}


def test_metrics_exist() -> None:
    known = {name for table in metric_tables().values() for name in re.findall(r"^\| `(\w+)`", table, re.MULTILINE)}

    def unknown(page: Page) -> set[str]:
        series = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named(page, r"\bfootfall_\w+")}
        return {name for name in series - known if find_spec(name) is None}

    found = wrong(unknown)
    found.pop("CHANGELOG.md", None)
    assert found == {}


def test_make_targets_and_modules_exist() -> None:
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    def unknown(page: Page) -> set[str]:
        words = {
            word for line in named(page, r"(?m)^(?:\$ )?(?:[A-Z_]+=\S+ )*make ([a-z][a-z -]*)") for word in line.split()
        }
        modules = named(page, r"\bpython3? -m ([\w.]+)")
        return (words - {*targets.split()}) | {name for name in modules if find_spec(name) is None}

    assert wrong(unknown) == {}


def test_rpcs_exist() -> None:
    services = [service for file in CONTRACT for service in file.services_by_name.values()]
    methods = {name for service in services for name in service.methods_by_name}
    calls = {f"{service.name}{mark}{name}" for service in services for name in service.methods_by_name for mark in "./"}
    messages = {name for file in CONTRACT for name in file.message_types_by_name}
    verbs = "|".join({re.findall(r"[A-Z][a-z]+", name)[0] for name in methods})

    def unknown(page: Page) -> set[str]:
        names = named(page, rf"\b(?:{verbs})[A-Z]\w+") - methods - messages
        return names | (named(page, r"\b\w+Service[./][A-Z]\w+") - calls)

    assert wrong(unknown) == {}
