"""The command line of a process: serve without arguments, or run one command. Settings come from the environment."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import NamedTuple

from footfall_servicekit.settings import ProcessSettings, ServerT, load_to_serve, unknown_variables


class Command(NamedTuple):
    """A command of a process, instead of serving. `run` takes the arguments after its name and returns an exit code."""

    about: str
    run: Callable[[list[str]], int]


def parse(
    distribution: str, about: str, settings: type[ServerT], commands: Mapping[str, Command] = MappingProxyType({})
) -> ServerT:
    """Return the settings to serve with when there are no arguments; exit with 2 when they are wrong.

    With arguments, run that command and exit; exit with 2 for an unknown one. Every process has the command `check`.
    The program has the name of its distribution. `about` describes it in `--help`.
    """
    check = Command("check the settings, without serving", partial(_check, distribution, settings))
    commands = {"check": check, **commands}
    parser = argparse.ArgumentParser(
        prog=distribution,
        description=about,
        epilog="Settings come from the environment; docs/ops/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"{distribution} {version(distribution)}")
    names = parser.add_subparsers(dest="command", metavar="COMMAND", title="instead")
    for name, command in commands.items():
        names.add_parser(name, help=command.about)
    first, rest = sys.argv[1:2], sys.argv[2:]
    if asked := getattr(parser.parse_args(first), "command", None):
        sys.exit(commands[asked].run(rest))
    if first:
        parser.error(f"unrecognized arguments: {' '.join(sys.argv[1:])}")
    return load_to_serve(settings)


def _check(distribution: str, settings: type[ProcessSettings], arguments: list[str]) -> int:
    argparse.ArgumentParser(
        prog=f"{distribution} check",
        description="Check the settings, without serving or connecting to a store. Exits with 2 when any is wrong.",
    ).parse_args(arguments)
    for name, nearest in unknown_variables(settings, os.environ).items():
        sys.stderr.write(f"{name} is not known{f'; is {nearest} meant?' if nearest else ''}\n")
    load_to_serve(settings, is_trial=True)
    sys.stderr.write("The settings are right.\n")
    return 0
