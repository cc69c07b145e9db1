"""The command `gaps` of history and identity: list and confirm what MongoDB lost and the log no longer holds."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final

from footfall_servicekit import logs

from footfall_eventlog.checkpoint_store import CheckpointStore, Gap

ABOUT_GAPS: Final = "list or confirm gaps: what MongoDB lost and the event log no longer holds"

OpenStore = Callable[[], AbstractAsyncContextManager[CheckpointStore]]
"""Opens the service's store with the settings of the environment."""


def run_gaps(service: str, open_store: OpenStore, transient: tuple[type[Exception], ...], arguments: list[str]) -> int:
    """Run the command. Returns the exit code: 0 done, 1 failed in whole or in part, 2 usage error.

    `transient`: what the store raises while MongoDB is unavailable.
    """
    parser = argparse.ArgumentParser(prog=f"footfall-{service} gaps", description=f"{ABOUT_GAPS.capitalize()}.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print id, partition, first and last time, number of entries, and if it is new")
    confirm = commands.add_parser("confirm", help="note that these gaps are known: they are no longer counted")
    confirm.add_argument("ids", nargs="+", metavar="id")
    options = parser.parse_args(arguments)
    logs.configure(service, "critical")  # errors are written to standard error instead
    try:
        return asyncio.run(_confirm(open_store, options.ids) if options.command == "confirm" else _list(open_store))
    except transient:
        sys.stderr.write("MongoDB does not answer. Check MONGO_URL and try again.\n")
    return 1


async def _list(open_store: OpenStore) -> int:
    async with open_store() as store:
        for gap in await store.gaps():
            sys.stdout.write(f"{_line(gap)}\n")
    return 0


async def _confirm(open_store: OpenStore, ids: list[str]) -> int:
    exit_code = 0
    async with open_store() as store:
        for gap_id in ids:
            if not await store.confirm_gap(gap_id):
                sys.stderr.write(f"There is no gap {gap_id}. `gaps list` prints all ids.\n")
                exit_code = 1
    return exit_code


def _line(gap: Gap) -> str:
    state = "confirmed" if gap.is_confirmed else "new"
    times = (_time(gap.from_ms) if gap.from_ms else "unknown", _time(gap.until_ms))
    return "\t".join((gap.id, str(gap.partition), *times, f"{gap.entries} entries", state))


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
