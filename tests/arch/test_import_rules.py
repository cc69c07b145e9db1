"""The rules of imports that import-linter cannot say (architecture, import rules 2 and 4)."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy.embedded import ROOT
from tests.arch.house import EVENTLOG, PROCESSES, PROGRAMS, SERVICEKIT, imports, package

DOMAIN = re.compile(
    r"visit|beacon|identit|contact|sign_?(in|out)|timeline|transition|collector|history|gateway|tracker", re.IGNORECASE
)


OF_PROMETHEUS = re.compile("(PROCESS|PLATFORM|GC)_COLLECTOR|ProcessCollector")
"""Names of prometheus-client, which are no words of the domain."""


def importers(folder: Path, *packages: str) -> set[str]:
    return {str(found.file.relative_to(folder)) for found in imports(folder) if found.packages & set(packages)}


def test_the_service_kit_knows_no_word_of_the_domain() -> None:
    words = [
        f"{file.name}:{number}: {line.strip()}"
        for file in SERVICEKIT.glob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if DOMAIN.search(OF_PROMETHEUS.sub("", line))
    ]
    assert words == []


def test_the_service_kit_stays_small() -> None:
    lines = [line for file in SERVICEKIT.glob("*.py") for line in file.read_text(encoding="utf-8").splitlines()]
    # What only one service needs does not belong in it.
    assert sum(bool(line.strip()) for line in lines) <= 2_360


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_store_is_known_to_one_file_of_a_program(program: str) -> None:
    assert len(importers(package(program), "motor", "pymongo", "bson", "gridfs")) <= 1
    assert len(importers(package(program), "redis", "hiredis")) <= 1


def test_redis_is_known_to_two_files_of_the_event_log_and_no_store_to_the_service_kit() -> None:
    assert importers(EVENTLOG, "redis", "hiredis") == {"partitions.py", "stream.py"}
    assert importers(SERVICEKIT, "redis", "hiredis", "motor", "pymongo", "bson", "gridfs") == set()


@pytest.mark.parametrize("service", PROCESSES)
def test_grpc_is_known_to_the_service_and_to_the_one_file_that_calls_neighbours(service: str) -> None:
    # A command is a client of its own service.
    assert len(importers(package(service), "grpc") - {"service.py", "contacts_command.py"}) <= 1


def test_logging_is_configured_in_the_service_kit_alone() -> None:
    configures = re.compile(r"structlog\.(configure|stdlib\.recreate_defaults)|logging\.(basicConfig|config)")
    folders = [SERVICEKIT.parent, EVENTLOG.parent, ROOT / "timeline", *PROGRAMS.values()]
    found = {
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for file in folder.rglob("*.py")
        if configures.search(file.read_text(encoding="utf-8"))
    }
    assert found == {"servicekit/footfall_servicekit/logs.py"}


def test_no_file_names_a_package_index_or_a_place_on_the_machine_it_was_written_on() -> None:
    # In brackets, so that this file passes too.
    forbidden = re.compile(r"py[p]i\.org|python[h]osted|/o[p]t/pypi|/w[o]rk/\w|/r[o]ot/")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # an image, or removed and not yet committed
            continue
        if forbidden.search(text):
            found.append(name)
    assert found == []
