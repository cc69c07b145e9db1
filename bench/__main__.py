"""Turns a machine into figures: the suite and the floor under the same load in turn, then what only the suite has.

`make bench` runs all and writes docs/dev/performance.md; `python -m bench --quick` takes a minute and only prints.
"""

import argparse
import time
from dataclasses import dataclass

from bench import ingest, page, report, visitors
from bench.floor import running_floor
from bench.load import Profile, run
from bench.meter import Meter
from bench.report import Quiet, Results, Rounds
from bench.suite import fresh_suite
from tests.tools.suite import PROGRAMS, Suite

PROFILES = (
    Profile("1 event", 1, 64),
    Profile("1 event", 1, 512),
    Profile("10 events", 10, 64),
    Profile("10 events", 10, 512),
    Profile("50 events", 50, 64),
    Profile("mix: 1 to 8 events, visits of 12 pages, 5% sign in", 0, 64, sign_in_share=0.05),
)
QUIET = Profile("quiet", 1, 64, sign_in_share=0.05)


@dataclass(frozen=True)
class Extent:
    """How much is measured: rounds, seconds of each run, of the quiet run, of what ingest is given; known visitors."""

    rounds: int
    seconds: int
    quiet_seconds: int
    fill_seconds: int
    known_visitors: int


FULL = Extent(rounds=3, seconds=4, quiet_seconds=20, fill_seconds=3, known_visitors=1_000_000)
QUICK = Extent(rounds=1, seconds=2, quiet_seconds=5, fill_seconds=1, known_visitors=20_000)


def compare(extent: Extent) -> list[Rounds]:
    """The suite and the floor in turn, under every profile."""
    all_rounds = [Rounds(profile) for profile in PROFILES]
    with running_floor() as floor_url, fresh_suite() as suite:
        meter = Meter(suite)
        for url in (floor_url, suite.url):
            run(url, PROFILES[0], extent.seconds)  # to warm up
        for _ in range(extent.rounds):
            for rounds in all_rounds:
                one_round(suite, meter, floor_url, rounds, extent.seconds)
    return all_rounds


def measure(extent: Extent) -> Results:
    """Everything, in order; what follows the comparison on a suite without its backlog."""
    started = time.monotonic()
    all_rounds = compare(extent)
    peak = max(rounds.events_a_second for rounds in all_rounds if rounds.profile.events == 1)
    with fresh_suite() as suite:
        meter = Meter(suite)
        at_rate(suite, meter, peak / 4, extent.seconds)  # to warm up
        quiet = at_rate(suite, meter, peak / 4, extent.quiet_seconds)
        ingested = ingest.measure(suite, meter, "footfall", extent.fill_seconds)
    with fresh_suite() as few, fresh_suite() as many:
        known = visitors.measure(few, many, extent.known_visitors, extent.seconds)
    return Results(all_rounds, quiet, ingested, known, time.monotonic() - started)


def one_round(suite: Suite, meter: Meter, floor_url: str, rounds: Rounds, seconds: int) -> None:
    """First the floor, with the whole suite held, then the suite."""
    with meter.holding(*PROGRAMS):
        rounds.floor.append(run(floor_url, rounds.profile, seconds))
    before = meter.state()
    rounds.suite.append(run(suite.url, rounds.profile, seconds))
    rounds.costs.append(meter.state().since(before))
    rounds.waiting = meter.waiting_entries()["history"]


def at_rate(suite: Suite, meter: Meter, rate: float, seconds: int) -> Quiet:
    """Single events at about this rate, each connection pausing between its requests."""
    before = meter.state()
    load = run(suite.url, QUIET, seconds, pause_ms=QUIET.connections / rate * 1000)
    after = meter.state()
    growth = {name: (after.memory[name] - before.memory[name]) / seconds for name in after.memory}
    return Quiet(load, growth)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; prints and leaves the page as it is")
    is_quick = parser.parse_args().quick
    section = report.text(measure(QUICK if is_quick else FULL))
    print(section)
    if not is_quick:
        page.write(section, "make bench")


if __name__ == "__main__":
    main()
