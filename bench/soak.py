"""Growth of memory under steady traffic: how fast each program still grows when its caches are full.

`make soak` measures and writes docs/dev/performance.md; `python -m bench.soak --quick` takes a minute and only prints.
"""

import argparse
import time
from dataclasses import dataclass
from statistics import linear_regression

from bench.load import Profile, run
from bench.meter import Meter
from bench.page import measured, table, write
from bench.suite import fresh_suite
from bench.visitors import make
from tests.tools.suite import PROGRAMS, Suite

PROFILE = Profile("steady", 4, 64, sign_in_share=0.05)
EVENTS_A_SECOND = 1_000
"""Less than history stores on two cores, so that the log is trimmed."""
KNOWN_VISITS = 20_000
"""More than history remembers, so that it forgets."""
PASSERS_BY = 2_000
"""Visits in each slice that bring one page and do not come back: Redis gives their memory back."""
SETTINGS = {"LOG_RETENTION_MINUTES": "1", "VISIT_IDLE_MINUTES": "1", "IDENTITY_ANONYMOUS_RETENTION_MINUTES": "1"}
SLICE_S = 10


@dataclass(frozen=True)
class Extent:
    """Seconds until everything bounded is full, and seconds that are measured."""

    warm_up_s: int
    measured_s: int


FULL = Extent(warm_up_s=150, measured_s=420)
QUICK = Extent(warm_up_s=20, measured_s=40)


@dataclass(frozen=True)
class Growth:
    """Resident memory of a program: bytes at the start of what was measured and at its end, and bytes a second."""

    start: float
    end: float
    slope: float

    @classmethod
    def of(cls, samples: list[tuple[float, int]]) -> "Growth":
        """The line through samples of (seconds, bytes) by least squares."""
        times, sizes = zip(*samples, strict=True)
        slope, at_zero = linear_regression(times, sizes)
        return cls(at_zero + slope * times[0], at_zero + slope * times[-1], slope)


@dataclass(frozen=True)
class Soak:
    """By program, how its memory grows; entries that history had yet to read; visits in Redis at both ends."""

    growths: dict[str, Growth]
    unread: int
    visits: int
    visits_later: int


def measure(suite: Suite, extent: Extent) -> Soak:
    """Send steady traffic, and sample memory after the warm-up."""
    meter = Meter(suite)
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in PROGRAMS}
    visits: list[int] = []
    pause_ms = PROFILE.connections * PROFILE.events / EVENTS_A_SECOND * 1000
    passers_by = KNOWN_VISITS
    for passed_s in range(0, extent.warm_up_s + extent.measured_s, SLICE_S):
        make(suite, range(passers_by, passers_by + PASSERS_BY), days=0, are_known=False)
        passers_by += PASSERS_BY
        run(suite.url, PROFILE, SLICE_S, pause_ms=pause_ms, known_visits=KNOWN_VISITS)
        if passed_s >= extent.warm_up_s:
            state = meter.state()
            for name in PROGRAMS:
                samples[name].append((state.at_s, state.memory[name]))
            visits.append(sum(1 for _ in meter.redis.scan_iter("visit:*", count=1_000)))
    growths = {name: Growth.of(each) for name, each in samples.items()}
    return Soak(growths, meter.waiting_entries()["history"], visits[0], visits[-1])


def text(soak: Soak, extent: Extent, seconds: float) -> str:
    """The measured section, in Markdown."""
    rows = [
        [name, f"{each.start / 2**20:.1f}", f"{each.end / 2**20:.1f}", f"{each.slope / 2**10:+.1f}"]
        for name, each in soak.growths.items()
    ]
    seen = KNOWN_VISITS + PASSERS_BY * (extent.warm_up_s + extent.measured_s) // SLICE_S
    return "\n".join(
        [
            measured(seconds),
            f"{EVENTS_A_SECOND:,} events a second, {PROFILE.events} a beacon, of {KNOWN_VISITS:,} visits;"
            " the log is kept for 1 minute after it is read.",
            f"Every {SLICE_S} s also {PASSERS_BY:,} anonymous visits of one page, which Redis keeps for 2 minutes.",
            f"Resident memory after {extent.warm_up_s} s and {extent.measured_s} s later, and the slope of the line"
            f" through a sample every {SLICE_S} s.",
            f"Visits in Redis after {extent.warm_up_s + SLICE_S} s: {soak.visits:,}; at the end: {soak.visits_later:,},"
            f" of {seen:,}.",
            f"Entries that history had yet to read at the end: {soak.unread:,}.",
            "",
            *table("program|MiB|MiB later|KiB/s", rows),
        ]
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute; prints and leaves the page as it is")
    extent = QUICK if parser.parse_args().quick else FULL
    started = time.monotonic()
    with fresh_suite(**SETTINGS) as suite:
        soak = measure(suite, extent)
    section = text(soak, extent, time.monotonic() - started)
    print(section)
    if extent is FULL:
        write(section, "make soak")


if __name__ == "__main__":
    main()
