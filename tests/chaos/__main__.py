"""Turns a seed into the table of what a suite under faults has lost, stored twice or stamped wrongly: nothing.

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
from tests.chaos.injector import EVERY_S
from tests.chaos.run import CLIENTS, Backlog, Survival, confirmed_within, fall_behind, survive
from tests.tools.suite import Program, running_suite

SECONDS = 60
BACKLOG_EVENTS = 200_000

Rows = list[tuple[str, object]]


def faults_of(survival: Survival) -> tuple[Rows, Rows]:
    """What happened in a run under faults, and what must be 0."""
    ledger, storm = survival.ledger, survival.storm
    return [
        ("events acknowledged", f"{ledger.acknowledged:,}"),
        ("requests sent again", f"{sum(answer.status != 204 for answer in ledger.answers):,}"),
        ("killed", counts(storm.kills)),
        ("frozen", counts(storm.freezes)),
        ("log certainly down", f"{sum(one.ended - one.began for one in storm.log_outages):.1f} s"),
        ("longest outage seen by a client", f"{ledger.longest_outage_s:.1f} s"),
        ("time to drain", f"{survival.drain_s:.1f} s"),
    ], [
        *survival.verdict._asdict().items(),
        ("2xx while the log was down", confirmed_within(ledger, storm.log_outages)),
        ("answers that no beacon should get", sum(not answer.is_fit for answer in ledger.answers)),
    ]


def backlog_of(backlog: Backlog) -> tuple[Rows, Rows]:
    """What a time without history came to, and what must be 0."""
    return [
        ("events acknowledged", f"{backlog.ledger.acknowledged:,}"),
        ("of them while history was stopped", f"{backlog.behind:,} in {backlog.fill_s:.0f} s"),
        ("log at its largest", f"{backlog.log_bytes / 2**20:.0f} MiB"),
        ("time to drain", f"{backlog.drain_s:.0f} s, {backlog.behind / backlog.drain_s:,.0f} events/s"),
    ], [*backlog.verdict._asdict().items()]


def counts(programs: Counter[Program]) -> str:
    """How often each, most often first."""
    return ", ".join(f"{name} {count}" for name, count in programs.most_common())


def report(title: str, facts: Rows, faults: Rows) -> int:
    """Print a table; return how much in it should be 0 and is not."""
    print(f"\n{title}\n\n| | |\n|---|--:|")
    for name, value in [*facts, *((name.replace("_", " "), f"**{count}**") for name, count in faults)]:
        print(f"| {name} | {value} |")
    return sum(int(str(count)) for _, count in faults)


async def chaos(seed: int) -> int:
    """Both runs, each on a suite of its own."""
    with tempfile.TemporaryDirectory(prefix="footfall-chaos-") as folder, running_suite(Path(folder)) as suite:
        survival = await survive(suite, seed, SECONDS)
    title = f"{CLIENTS} clients, {SECONDS} s with a fault every {EVERY_S:.0f} s, FOOTFALL_SEED={seed}"
    bad = report(title, *faults_of(survival))
    with tempfile.TemporaryDirectory(prefix="footfall-chaos-") as folder, running_suite(Path(folder)) as suite:
        backlog = await fall_behind(suite, seed, BACKLOG_EVENTS)
    return bad + report(f"{BACKLOG_EVENTS:,} events while history is stopped", *backlog_of(backlog))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__).parse_args()
    seed = int(os.environ.get("FOOTFALL_SEED") or secrets.randbelow(2**32))
    print(f"FOOTFALL_SEED={seed}; {description()}", flush=True)
    sys.exit(1 if asyncio.run(chaos(seed)) else 0)
