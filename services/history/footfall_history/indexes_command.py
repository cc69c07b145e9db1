"""The command `footfall-history indexes`: list the indexes of history's collections, or make those that are missing."""

import argparse
import asyncio
import sys

from footfall_servicekit import logs
from footfall_servicekit.settings import load

from footfall_history.settings import HistorySettings
from footfall_history.storage import TRANSIENT_STORE_ERRORS, Store


def run_indexes(arguments: list[str]) -> int:
    """Run the command. Returns the exit code: 0 all exist, 1 some are missing or MongoDB does not answer, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="footfall-history indexes",
        description="List the indexes that this version needs in MongoDB, or make those that are missing.",
        epilog="Run `build` with the new version before an upgrade; the old version keeps serving meanwhile.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "build"),
        default="list",
        help="list: print each index and whether it is missing (the default); build: make the missing ones, and wait",
    )
    action = parser.parse_args(arguments).action
    settings = load(HistorySettings)
    logs.configure("history", "info" if action == "build" else "critical")
    try:
        return asyncio.run(_build(settings) if action == "build" else _list(settings))
    except TRANSIENT_STORE_ERRORS:
        sys.stderr.write("MongoDB does not answer. Check MONGO_URL and try again.\n")
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Run the same command again to continue.\n")
    return 1


async def _list(settings: HistorySettings) -> int:
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    try:
        indexes = await store.list_indexes()
    finally:
        await store.close()
    for name, exists in indexes.items():
        sys.stdout.write(f"{name}: {'exists' if exists else 'missing'}\n")
    return 0 if all(indexes.values()) else 1


async def _build(settings: HistorySettings) -> int:
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    try:
        await store.prepare()
    finally:
        await store.close()
    sys.stderr.write("All indexes exist.\n")
    return 0
