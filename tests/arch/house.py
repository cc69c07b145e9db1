"""What the tests of the house's rules ask about its distributions."""

import ast
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from footfall_servicekit.settings import ProcessSettings, variable
from pydantic import SecretStr

from deploy.embedded import ROOT


class Imports(NamedTuple):
    """A source file and the top-level packages it imports."""

    file: Path
    packages: frozenset[str]


SERVICES = {
    "collector": ROOT / "services" / "collector",
    "identity": ROOT / "services" / "identity",
    "history": ROOT / "services" / "history",
    "gateway": ROOT / "gateway",
}
PROCESSES = {**SERVICES, "relay": ROOT / "services" / "relay"}
"""The services, and the relay, which not every suite has."""
PROGRAMS = {**PROCESSES, "ops": ROOT / "ops"}
"""What is installed alone: these and the command of operators."""
SERVICEKIT = ROOT / "servicekit" / "footfall_servicekit"
EVENTLOG = ROOT / "eventlog" / "footfall_eventlog"


def package(program: str) -> Path:
    """The folder of a program's Python package."""
    return PROGRAMS[program] / f"footfall_{program}"


def imports(folder: Path) -> Iterator[Imports]:
    """The imports of every source file below a folder."""
    for file in sorted(folder.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        yield Imports(file, frozenset(name.partition(".")[0] for name in names))


def settings_class(service: str) -> type[ProcessSettings]:
    """What a service reads its environment into."""
    module = importlib.import_module(f"footfall_{service}.settings")
    cls: type[ProcessSettings] = getattr(module, f"{service.capitalize()}Settings")
    return cls


def secrets_of(service: str, *, with_urls: bool = False) -> set[str]:
    """The environment variables of a service that are secret, or are URLs that may hold a password."""
    cls = settings_class(service)
    return {
        variable(cls, name)
        for name, field in cls.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation)) or (with_urls and not field.repr)
    }


def own_dependencies(program: str) -> list[str]:
    """The distributions of this house that a program declares it needs, without their prefix."""
    project = tomllib.loads((PROGRAMS[program] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = (requirement.partition(">=")[0] for requirement in project["dependencies"])
    return sorted(name.removeprefix("footfall-") for name in names if name.startswith("footfall-"))
