"""Turns the arguments of a process into what they ask for beside running it. Settings come by the environment."""

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import NamedTuple


class Command(NamedTuple):
    """What a process can do instead of serving; `run` takes the arguments behind its name and gives an exit code."""

    about: str
    run: Callable[[list[str]], int]


def answer(distribution: str, about: str, commands: Mapping[str, Command] = MappingProxyType({})) -> None:
    """Return when there are no arguments. Else do what they ask for and exit, with 2 when they cannot be understood.

    The process is called as its distribution. `about` says what it does without arguments.
    """
    parser = argparse.ArgumentParser(
        prog=distribution, description=about, epilog="Settings come by the environment; the README has a table of them."
    )
    parser.add_argument("--version", action="version", version=f"{distribution} {version(distribution)}")
    if commands:
        names = parser.add_subparsers(dest="command", metavar="COMMAND", title="instead")
        for name, command in commands.items():
            names.add_parser(name, help=command.about)
    first, rest = sys.argv[1:2], sys.argv[2:]
    if asked := getattr(parser.parse_args(first), "command", None):
        sys.exit(commands[asked].run(rest))
    if first:
        parser.error(f"unrecognized arguments: {' '.join(sys.argv[1:])}")
