"""Injects faults into a suite under load, and prints what was lost, stored twice or attributed wrongly: nothing.

`make chaos` takes about ten minutes, and writes docs/ops/reliability.md. FOOTFALL_SEED repeats the load and the random
faults. Exit code 1 when anything is not as promised.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import page
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.report import PAGE, Report, backlog_row, backlog_speed, random_row, trial_row
from tests.chaos.run import run_with_backlog, run_with_faults
from tests.chaos.small_disk import NoSmallDiskError, small_disk
from tests.chaos.trial import try_fault
from tests.tools.suite import Store, Suite, running_suite

RANDOM_S: Final = 60
BACKLOG_EVENTS: Final = 100_000
DISK_MIB: Final[dict[Store, int]] = {"valkey": 64, "mongo": 512}


@contextmanager
def new_suite(*, on_small_disks: bool = False) -> Iterator[Suite]:
    """A suite in a folder that is removed afterwards. Raises NoSmallDiskError."""
    with tempfile.TemporaryDirectory(prefix="footfall-chaos-") as folder, ExitStack() as disks:
        for store, mib in DISK_MIB.items() if on_small_disks else ():
            disks.enter_context(small_disk(Path(folder) / store, mib))
        with running_suite(Path(folder)) as suite:
            yield suite


def keep_logs(suite: Suite) -> None:
    """Copy the logs of a suite, and print where they are."""
    folder = Path(tempfile.mkdtemp(prefix="footfall-chaos-logs-"))
    shutil.copytree(suite.data_dir / "log", folder, dirs_exist_ok=True)
    print(f"logs of the suite: {folder}", file=sys.stderr, flush=True)


async def try_faults(report: Report, faults: Sequence[Fault], seed: int, *, is_quick: bool) -> None:
    """Try faults one after the other on one suite, and on a new suite after a fault from which it did not return."""
    waiting = [*reversed(faults)]
    while waiting:
        with new_suite(on_small_disks=bool(waiting[-1].disk)) as suite:
            is_back, failures = True, report.failures
            while waiting and is_back:
                fault = waiting.pop()
                try:
                    report.add(trial_row(await try_fault(suite, fault, seed, fault.lasts_s(is_quick=is_quick))))
                except (TimeoutError, AssertionError) as error:
                    report.fail(fault.name, f"the suite did not return: {str(error) or 'time limit'}")
                    is_back = False
            if report.failures > failures:
                keep_logs(suite)


async def chaos(report: Report, faults: Sequence[Fault], seed: int, *, is_quick: bool) -> None:
    """Try the faults; those of disks on a suite of their own."""
    await try_faults(report, [fault for fault in faults if not fault.disk], seed, is_quick=is_quick)
    on_small_disks = [fault for fault in faults if fault.disk]
    try:
        await try_faults(report, on_small_disks, seed, is_quick=is_quick)
    except NoSmallDiskError as error:
        names = ", ".join(f"`{fault.name}`" for fault in on_small_disks)
        report.note(f"Not tried, because no small disk can be mounted ({error}): {names}.")


async def long_runs(report: Report, seed: int) -> None:
    """Kill and freeze programs at random, and stop history for long."""
    with new_suite() as suite:
        report.add(random_row(await run_with_faults(suite, seed, RANDOM_S), RANDOM_S))
    with new_suite() as suite:
        backlog = await run_with_backlog(suite, seed, BACKLOG_EVENTS)
    report.add(backlog_row(backlog))
    report.note(backlog_speed(backlog))


async def main() -> int:
    """Run what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--faults", nargs="+", metavar="NAME", choices=names, help=f"only these of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="short faults, and no long runs")
    options = parser.parse_args()
    seed = int(os.environ.get("FOOTFALL_SEED") or secrets.randbelow(2**32))
    report = Report(seed)
    faults = [fault for fault in FAULTS if not options.faults or fault.name in options.faults]
    await chaos(report, faults, seed, is_quick=options.quick)
    if not (options.faults or options.quick):
        await long_runs(report, seed)
        page.write(report.section(), "make chaos", PAGE)
    report.print_notes()
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
