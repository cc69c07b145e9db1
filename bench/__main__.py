"""The load runs of `make bench`: the suite and the floor in turn, then what only the suite has.

`make bench` runs all and writes docs/dev/performance.md and docs/ops/scaling.md; `python -m bench --quick` takes three
minutes and only prints, and so do `--ingest`, for history's rate alone, and `--context`, for contexts of customers.
"""

import argparse
import time
from dataclasses import dataclass, replace

from bench import context, ingest, live, memory, page, report, scaling, visitors
from bench.floor import running_floor
from bench.load import Profile, run
from bench.meter import GROUPS, Meter
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
    Profile("10 events, one of them a SignIn", 10, 64, identifies=True),
)
QUIET = Profile("quiet", 1, 64, sign_in_share=0.05)


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    seconds: int
    """Of each run that is compared with another one."""
    quiet_seconds: int
    """Of the run at a quarter of the peak, and of the delays of the live stream."""
    fill_seconds: int
    """Of the load that history stores afterwards."""
    known_visitors: int
    visits: int
    """Of which Redis memory is measured."""


FULL = Extent(rounds=3, seconds=4, quiet_seconds=20, fill_seconds=3, known_visitors=500_000, visits=20_000)
QUICK = Extent(rounds=1, seconds=2, quiet_seconds=5, fill_seconds=1, known_visitors=20_000, visits=10_000)


def compare(extent: Extent) -> list[Rounds]:
    """The suite and the floor in turn, under every profile."""
    all_rounds = [Rounds(profile) for profile in PROFILES]
    with running_floor() as floor_url, fresh_suite() as suite:
        meter = Meter(suite)
        for url in (floor_url, suite.url):
            run(url, PROFILES[0], extent.seconds)  # to warm up
        meter.drain(*GROUPS)
        for _ in range(extent.rounds):
            for rounds in all_rounds:
                one_round(suite, meter, floor_url, rounds, extent.seconds)
    return all_rounds


def measure(extent: Extent) -> Results:
    """Everything, in order. All after the comparison is measured on new suites, which have no backlog."""
    started = time.monotonic()
    all_rounds = compare(extent)
    peak = max(rounds.events_a_second for rounds in all_rounds if rounds.profile.events == 1)
    with fresh_suite() as suite:
        meter = Meter(suite)
        at_rate(suite, meter, peak / 4, extent.seconds)  # to warm up
        quiet = at_rate(suite, meter, peak / 4, extent.quiet_seconds)
        watched = live.measure(suite, meter, peak / 4, extent.quiet_seconds, extent.seconds)
        log_bytes = meter.log_bytes_an_event()
        ingested = ingest.measure(suite, meter, "footfall", extent.fill_seconds)
    with fresh_suite() as suite:
        contexts = context.measure(suite, Meter(suite), extent.quiet_seconds)
    with fresh_suite() as few, fresh_suite() as many:
        known = visitors.measure(few, many, extent.known_visitors, extent.seconds)
    used = memory.measure(extent.visits)
    seconds = time.monotonic() - started
    return Results(all_rounds, quiet, ingested, known, watched, contexts, used, log_bytes, seconds)


def one_round(suite: Suite, meter: Meter, floor_url: str, rounds: Rounds, seconds: int) -> None:
    """First the floor, with the whole suite held, then the suite. All is worked off before the next round.

    Else each profile would be measured while history works off what the one before has left.
    """
    with meter.holding(*PROGRAMS):
        rounds.floor.append(run(floor_url, rounds.profile, seconds))
    before = meter.state()
    rounds.suite.append(run(suite.url, rounds.profile, seconds))
    cost = meter.state().since(before)
    rounds.waiting = meter.waiting_entries()["history"]
    meter.drain(*GROUPS)
    rounds.costs.append(replace(cost, cpu_us=meter.state().since(before).cpu_us))


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
    parser.add_argument("--context", action="store_true", help="only contexts of customers; prints")
    parser.add_argument("--ingest", action="store_true", help="only history's rate of ingest; prints")
    arguments = parser.parse_args()
    is_quick, extent = arguments.quick, QUICK if arguments.quick else FULL
    if arguments.context:
        with fresh_suite() as suite:
            print(report.context_text(context.measure(suite, Meter(suite), extent.quiet_seconds)))
        return
    if arguments.ingest:
        with fresh_suite() as suite:
            print(report.ingest_text(ingest.measure(suite, Meter(suite), "footfall", extent.fill_seconds)))
        return
    results = measure(extent)
    for section, place in ((report.text(results), page.PERFORMANCE), (scaling.text(results), page.SCALING)):
        print(section)
        if not is_quick:
            page.write(section, "make bench", place)


if __name__ == "__main__":
    main()
