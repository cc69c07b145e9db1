"""The command `footfall-ops`: back up, restore, verify and rebuild the stores, change their partitions and the key."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from footfall_eventlog.settings import MINUTE_MS
from footfall_eventlog.store_reports import redis_report
from footfall_history.arguments import add_visits
from footfall_history.event_log import TRANSIENT_LOG_ERRORS
from footfall_history.storage import TRANSIENT_STORE_ERRORS
from footfall_identity.presence import PresenceRule
from footfall_servicekit import logs
from footfall_servicekit.background import NotReadyError, RefusalError
from footfall_timeline import LaterVersionError

from footfall_ops.attributions import Attributions, Difference
from footfall_ops.backup import backup
from footfall_ops.change_erasure_key import change_erasure_key
from footfall_ops.live_state import LiveState
from footfall_ops.progress import Progress, say
from footfall_ops.rebuild import rebuild_live
from footfall_ops.redis_copy import REDIS_REFUSALS
from footfall_ops.repartition import repartition
from footfall_ops.restore import PARTS, restore
from footfall_ops.stores import OpsSettings, Stores, now_ms, opened

_NICENESS: Final = 10
"""How much the processor prefers other processes."""
_MAX_PARTITIONS: Final = 100


def main() -> None:
    """Run one command. Exit codes: 0 done, 1 failed, or `verify` has found something, 2 an argument is wrong."""
    options = _parser().parse_args()
    settings = OpsSettings.load()
    logs.configure("ops", "critical")  # errors are written to standard error instead
    sys.exit(_run(options.run(settings, options)))


def _run(command: Awaitable[int]) -> int:
    async def run() -> int:
        return await command

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        say("Interrupted.")
    except (NotReadyError, RefusalError, LaterVersionError) as error:
        say(str(error))
    except TRANSIENT_STORE_ERRORS:
        say("MongoDB does not answer. Check MONGO_URL and run the command again.")
    except TRANSIENT_LOG_ERRORS:
        say("Redis does not answer, or has no room. Check REDIS_URL and `maxmemory`, and run the command again.")
    except REDIS_REFUSALS as error:
        say(f"Redis refuses a command: {error}")
    except OSError as error:
        say(f"{error.filename or 'the folder of the backup'}: {error.strerror}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="footfall-ops",
        description="Back up, restore, verify, rebuild and repartition the stores of a deployment.",
        epilog="Needs the environment variables of history and identity; docs/ops/stores.md explains each command.",
    )
    parser.add_argument("--version", action="version", version=f"footfall-ops {version('footfall-ops')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "backup",
        help="write a backup of Redis and MongoDB while the services run",
        description="Write a backup of Redis and MongoDB into a new folder, while the services run. It contains "
        "personal data, and unless --no-keys is given, secrets.",
    )
    command.add_argument("folder", type=Path, help="a folder that is new or empty")
    command.add_argument("--no-keys", action="store_true", help="without secrets and files of the configuration")
    command.set_defaults(run=lambda settings, options: backup(settings, options.folder, with_keys=not options.no_keys))

    command = commands.add_parser(
        "restore",
        help="restore a backup, while the services are stopped",
        description="Restore a backup into empty stores, while collector, identity and history are stopped. Refuses a "
        "MongoDB that is older than the event log, because what happened in between would be lost.",
    )
    command.add_argument("folder", type=Path, help="the folder of the backup")
    command.add_argument("--only", choices=PARTS, help="restore only this store; the other one is as it should be")
    command.add_argument("--replace", action="store_true", help="remove what the stores have of Footfall before")
    command.add_argument("--accept-gap", action="store_true", help="restore also a MongoDB that is older than the log")
    command.set_defaults(
        run=lambda settings, options: restore(
            settings,
            options.folder,
            [options.only] if options.only else PARTS,
            replaces=options.replace,
            accepts_gap=options.accept_gap,
        )
    )

    command = commands.add_parser(
        "verify",
        help="compare stored attributions with timelines, and live state with history",
        description="Compute the attribution of each stored event again from the timeline of its visit, and compare "
        "live state with history. Prints each difference, and exits with 1 if there is any.",
    )
    add_visits(command, about_rate="visits per second at most")
    command.add_argument("--skip-live", action="store_true", help="do not compare live state")
    command.add_argument("--repair", action="store_true", help="correct wrong attributions; live state stays as it is")
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "rebuild-live",
        help="build live state again from history",
        description="Let identity merge what history knows of live visits into Redis, and wait until it has. Identity "
        "and history must run.",
    )
    command.set_defaults(run=lambda settings, _options: rebuild_live(settings))

    command = commands.add_parser(
        "repartition",
        help="change the number of partitions, while the services are stopped",
        description="Change the number of partitions of the data in Redis, while collector, identity and history are "
        "stopped. Afterwards they must be started with the new PARTITIONS.",
    )
    command.add_argument("partitions", type=_partitions, help=f"the new number, 1 to {_MAX_PARTITIONS}")
    command.set_defaults(run=lambda settings, options: repartition(settings, options.partitions))

    command = commands.add_parser(
        "change-erasure-key",
        help="mark erased persons under a new ERASURE_KEY, while identity and history are stopped",
        description="Mark erased persons under the first value of ERASURE_KEY, while identity and history are stopped. "
        "The value that was in use stands after it, separated by a comma; the last value remains permanently.",
    )
    command.set_defaults(run=lambda settings, _options: change_erasure_key(settings))
    return parser


def _partitions(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MAX_PARTITIONS):
        raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_PARTITIONS}")
    return int(text)


async def _verify(settings: OpsSettings, options: argparse.Namespace) -> int:
    os.nice(_NICENESS)
    async with opened(settings) as stores:
        await redis_report(stores.redis)
        await stores.store.report()
        await stores.tombstones.check()
        left = await _verify_attributions(stores, options)
        if not options.skip_live:
            left += await _compare_live_state(settings, stores, options.rate)
    return 1 if left else 0


async def _verify_attributions(stores: Stores, options: argparse.Namespace) -> int:
    """Returns the number of differences that are left."""
    found = Attributions(stores.store, stores.tombstones, _print, repairs=options.repair)

    def counts() -> str:
        return f"{found.visits:,} visits with {found.events:,} events verified, {found.differences:,} differences"

    to_ms = now_ms() if options.to_ms is None else options.to_ms
    groups = found.of_range(options.from_ms, to_ms, options.sites)
    await _paced(groups, options.rate, Progress(lambda: f"{counts()}, until {_time(found.last_start_ms)}"))
    say(f"{counts()}{f', {found.differences - found.left:,} corrected' if options.repair else ''}.")
    return found.left


async def _compare_live_state(settings: OpsSettings, stores: Stores, rate: float | None) -> int:
    """Returns the number of visits that differ."""
    identity = settings.identity
    rule = PresenceRule(identity.visit_idle_minutes * MINUTE_MS, identity.leave_after_ms)
    live = LiveState(stores.store, stores.redis, rule, _print)

    def counts() -> str:
        return f"{live.visits:,} live visits compared, {live.differences:,} differences"

    await _paced(live.compare(), rate, Progress(counts))
    say(f"{counts()}.")
    return live.differences


async def _paced(groups: AsyncIterator[int], rate: float | None, progress: Progress) -> None:
    """Take groups of visits, `rate` visits per second at most."""
    began = time.monotonic()
    async for size in groups:
        progress.report()
        if rate:
            await asyncio.sleep(max(0.0, began + size / rate - time.monotonic()))
            began = time.monotonic()


def _print(difference: Difference) -> None:
    sys.stdout.write(f"{difference.kind}\t{difference.place}\t{difference.text}\n")


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
