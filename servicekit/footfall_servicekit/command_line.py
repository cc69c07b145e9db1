"""The command line of a process: serve without arguments, or run one command. Settings come from the environment."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import NamedTuple

from footfall_servicekit import logs
from footfall_servicekit.background import NotReadyError, RefusalError
from footfall_servicekit.settings import ServerT, load_to_serve, unknown_variables

_STORES_TIMEOUT_S = 30.0

CheckStores = Callable[[ServerT], AsyncIterator[str]]
"""Connects to each store, and gives a line about it. Raises RefusalError for a wrong one, NotReadyError without one."""


class Command(NamedTuple):
    """A command of a process, instead of serving. `run` takes the arguments after its name and returns an exit code."""

    about: str
    run: Callable[[list[str]], int]


def parse(
    distribution: str,
    about: str,
    settings: type[ServerT],
    check_stores: CheckStores[ServerT],
    commands: Mapping[str, Command] = MappingProxyType({}),
) -> ServerT:
    """Return the settings to serve with when there are no arguments; exit with 2 when they are wrong.

    With arguments, run that command and exit; exit with 2 for an unknown one. Every process has the command `check`.
    The program has the name of its distribution. `about` describes it in `--help`.
    """
    run_check = partial(_check, distribution, settings, check_stores)
    check = Command("check the settings, and the stores if asked to, without serving", run_check)
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


def _check(distribution: str, settings: type[ServerT], check_stores: CheckStores[ServerT], arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{distribution} check",
        description="Check the settings, without serving. Exits with 2 when any is wrong.",
    )
    parser.add_argument(
        "--stores",
        action="store_true",
        help="also connect to the stores, without writing. Exits with 1 if one does not answer, with 2 if it is wrong",
    )
    options = parser.parse_args(arguments)
    for name, nearest in unknown_variables(settings, os.environ).items():
        sys.stderr.write(f"{name} is not known{f'; is {nearest} meant?' if nearest else ''}\n")
    loaded = load_to_serve(settings, is_trial=True)
    sys.stderr.write("The settings are right.\n")
    if not options.stores:
        return 0
    logs.configure(distribution.removeprefix("footfall-"), "critical")  # errors are written to standard error instead
    try:
        asyncio.run(_report_stores(check_stores(loaded)))
    except (NotReadyError, RefusalError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, RefusalError) else 1
    except TimeoutError:
        sys.stderr.write(f"A store does not answer within {_STORES_TIMEOUT_S:.0f} s.\n")
        return 1
    return 0


async def _report_stores(lines: AsyncIterator[str]) -> None:
    async with asyncio.timeout(_STORES_TIMEOUT_S):
        async for line in lines:
            sys.stderr.write(f"{line}\n")
