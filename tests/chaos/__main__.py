"""Runs a suite under faults, and prints how many events were lost, stored twice or attributed wrongly: none.

`make chaos` takes about six minutes; FOOTFALL_SEED repeats its faults. Exit code 1 when a count that must be 0 is not.
"""

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.machine import description
from tests.chaos.injector import FAULT_INTERVAL_S
from tests.chaos.run import CLIENTS, BacklogRun, FaultRun, confirmed_within, run_with_backlog, run_with_faults
from tests.tools.suite import Program, running_suite

SECONDS = 60
BACKLOG_EVENTS = 200_000

Rows = list[tuple[str, object]]


def faults_of(fault_run: FaultRun) -> tuple[Rows, Rows]:
    """Facts about a run under faults, and the counts that must be 0."""
    ledger, injector = fault_run.ledger, fault_run.injector
    return [
        ("events acknowledged", f"{ledger.acknowledged:,}"),
        ("requests sent again", f"{sum(answer.status != 204 for answer in ledger.answers):,}"),
        ("killed", counts(injector.kills)),
        ("frozen", counts(injector.freezes)),
        ("log certainly down", f"{sum(one.ended - one.began for one in injector.log_outages):.1f} s"),
        ("longest outage seen by a client", f"{ledger.longest_outage_s:.1f} s"),
        ("time to drain", f"{fault_run.drain_s:.1f} s"),
    ], [
        *fault_run.differences._asdict().items(),
        ("2xx while the log was down", confirmed_within(ledger, injector.log_outages)),
        ("undocumented answers to beacons", sum(not answer.is_documented for answer in ledger.answers)),
    ]


def backlog_of(backlog: BacklogRun) -> tuple[Rows, Rows]:
    """Facts about a run with a backlog, and the counts that must be 0."""
    return [
        ("events acknowledged", f"{backlog.ledger.acknowledged:,}"),
        ("of them while history was stopped", f"{backlog.behind:,} in {backlog.fill_s:.0f} s"),
        ("log at its largest", f"{backlog.log_bytes / 2**20:.0f} MiB"),
        ("time to drain", f"{backlog.drain_s:.0f} s, {backlog.behind / backlog.drain_s:,.0f} events/s"),
    ], [*backlog.differences._asdict().items()]


def counts(programs: Counter[Program]) -> str:
    """The programs with their counts, in descending order."""
    return ", ".join(f"{name} {count}" for name, count in programs.most_common())


def report(title: str, facts: Rows, faults: Rows) -> int:
    """Print a table. Returns the sum of the counts that must be 0."""
    print(f"\n{title}\n\n| | |\n|---|--:|")
    for name, value in [*facts, *((name.replace("_", " "), f"**{count}**") for name, count in faults)]:
        print(f"| {name} | {value} |")
    return sum(int(str(count)) for _, count in faults)


async def chaos(seed: int) -> int:
    """Do both runs, each on a new suite. Returns the sum of the counts that must be 0."""
    with tempfile.TemporaryDirectory(prefix="footfall-chaos-") as folder, running_suite(Path(folder)) as suite:
        fault_run = await run_with_faults(suite, seed, SECONDS)
    title = f"{CLIENTS} clients, {SECONDS} s with a fault every {FAULT_INTERVAL_S:.0f} s, FOOTFALL_SEED={seed}"
    bad = report(title, *faults_of(fault_run))
    with tempfile.TemporaryDirectory(prefix="footfall-chaos-") as folder, running_suite(Path(folder)) as suite:
        backlog = await run_with_backlog(suite, seed, BACKLOG_EVENTS)
    return bad + report(f"{BACKLOG_EVENTS:,} events while history is stopped", *backlog_of(backlog))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__).parse_args()
    seed = int(os.environ.get("FOOTFALL_SEED") or secrets.randbelow(2**32))
    print(f"FOOTFALL_SEED={seed}; {description()}", flush=True)
    sys.exit(1 if asyncio.run(chaos(seed)) else 0)
