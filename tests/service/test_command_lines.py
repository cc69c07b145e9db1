"""Every command explains itself and ends, in every environment, and refuses what it does not understand."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata

import pytest

from deploy.embedded import ROOT
from tests.arch.house import SERVICES

COMMANDS = {
    "collector": ["check"],
    "identity": ["check", "gaps"],
    "gateway": ["check", "keys", "audit-hash", "check-dsl"],
    "history": ["check", "dead-letters", "gaps", "indexes", "verify-erasure"],
}
SUBCOMMANDS = {
    ("gateway", "keys"): ["create", "list", "rotate", "revoke"],
    ("identity", "gaps"): ["list", "confirm"],
    ("history", "gaps"): ["list", "confirm"],
    ("history", "dead-letters"): ["list", "show", "repair", "replay", "discard"],
}
OPS = ["backup", "restore", "verify", "rebuild-live", "repartition"]
EVERY_COMMAND = [
    *([service] for service in SERVICES),
    *([service, command] for service, commands in COMMANDS.items() for command in commands),
    *(["ops", command] for command in OPS),
    *([*command, name] for command, names in SUBCOMMANDS.items() for name in names),
]
MODULES = [
    "footfall_history",
    "footfall_history.importing",
    "footfall_history.policies",
    "footfall_ops",
    "deploy.run",
    "bench",
    "bench.soak",
    "bench.history",
    "bench.contacts",
    "bench.hostile",
    "tests.chaos",
]

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a service's command with these arguments and settings that are wrong; the exit code."""

    def run(service: str, *arguments: str) -> int:
        module = import_module(f"footfall_{service}.__main__")
        monkeypatch.setenv(f"{service.upper()}_PORT", "high")
        monkeypatch.setattr(sys, "argv", ["anything", *arguments])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_help_explains(command: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: footfall-{' '.join(command)}")
    if len(command) == 1:
        assert all(name in said for name in ["--version", "Settings", *COMMANDS[command[0]]])


@pytest.mark.parametrize("service", SERVICES)
def test_version_is_that_of_the_distribution(service: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(service, "--version") == 0
    assert capsys.readouterr().out == f"footfall-{service} {metadata.version(f'footfall-{service}')}\n"


@pytest.mark.parametrize("arguments", [["dead-leters"], ["--hlep"], ["--", "keys"], ["-x", "keys"]], ids=" ".join)
@pytest.mark.parametrize("service", SERVICES)
def test_what_is_not_understood_is_refused(
    service: str, arguments: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(service, *arguments) == 2
    assert f"footfall-{service}: error:" in capsys.readouterr().err


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_flags_that_a_command_does_not_have_are_refused(command: list[str], run: Run) -> None:
    assert run(*command, "--hlep") == 2


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_subcommands_that_a_command_does_not_have_are_refused(command: tuple[str, str], run: Run) -> None:
    assert run(*command) == run(*command, "lsit") == 2


def test_everything_is_discarded_only_when_that_is_written_out(run: Run) -> None:
    assert run("history", "dead-letters", "discard", "--al") == 2


@pytest.mark.parametrize("name", ["audit-hash", "whose"])
def test_a_hash_needs_an_id(run: Run, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run("gateway", name, "identity") == 2
    captured = capsys.readouterr()
    assert (captured.out, "identity: must be given with an id" in captured.err) == ("", True)
    assert ("is now `footfall-gateway audit-hash`" in captured.err) == (name == "whose")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_explains_and_ends(module: str) -> None:
    for argument, code in ("--help", 0), ("--hlep", 2):
        command = [sys.executable, "-m", module, argument]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == code
        assert "usage: " in ended.stdout + ended.stderr
