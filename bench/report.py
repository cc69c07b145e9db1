"""Turns what `make bench` has measured into text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from bench.ingest import Ingest
from bench.load import Load, Profile
from bench.meter import Cost
from bench.page import measured, table
from bench.visitors import FEW, PATH, Visitors
from tests.tools.suite import PROGRAMS


@dataclass
class Rounds:
    """One profile: the floor's and the suite's runs, in turn."""

    profile: Profile
    floor: list[Load] = field(default_factory=list)
    suite: list[Load] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    waiting: int = 0

    @property
    def floor_rate(self) -> float:
        """Requests the floor answers a second."""
        return median(load.rate for load in self.floor)

    @property
    def events_a_second(self) -> float:
        """Events the suite has on disk a second."""
        return median(cost.events / load.seconds for cost, load in zip(self.costs, self.suite, strict=True))

    @property
    def ratio(self) -> float:
        """Events stored for each request the floor answers; the median of the rounds' own ratios."""
        return median(
            cost.events / load.seconds / floor.rate
            for cost, load, floor in zip(self.costs, self.suite, self.floor, strict=True)
        )

    @property
    def failed(self) -> int:
        """Answers that were no 2xx."""
        return sum(load.failed for load in self.suite)


@dataclass(frozen=True)
class Quiet:
    """A run at a quarter of the peak: latency, and how fast each program's memory grew."""

    load: Load
    growth: dict[str, float]


@dataclass(frozen=True)
class Results:
    """Everything one `make bench` has measured."""

    rounds: list[Rounds]
    quiet: Quiet
    ingest: Ingest
    visitors: Visitors
    seconds: float


def text(results: Results) -> str:
    """The measured section, in Markdown."""
    memory = results.rounds[-1].costs[-1].memory
    ingest = results.ingest
    return "\n".join(
        [
            measured(results.seconds),
            "The load generator, the floor, all services and both stores share these cores.",
            "",
            *_goals(results),
            "",
            *table(
                "a beacon|connections|floor, requests/s|stored, events/s"
                "|**events a floor request, median of the rounds' ratios**|p50 / p99 ms"
                "|events a batch|fsyncs/s|entries unread by history|not 2xx",
                [_row(each) for each in results.rounds],
            ),
            "",
            "CPU an event, in µs, by process. `wrk` is the load generator; `history` and `mongo` also work off what",
            "earlier runs left.",
            "",
            *table(
                "|".join(("a beacon", "connections", *PROGRAMS, "wrk")), [_cpu_row(each) for each in results.rounds]
            ),
            "",
            _list("Memory after these runs, MiB", memory, 2**20),
            _list("Growth of memory at that rate, KiB/s", results.quiet.growth, 2**10),
            "(Redis keeps the log until it is trimmed; history remembers 10,000 visits.)",
            "",
            f"CPU an event with {FEW:,} and with {results.visitors.many:,} known visitors, in µs, medians:"
            f" {_known_visitors(results.visitors)}.",
            "",
            f"Without indexes but `_id` the bare server takes {ingest.bare_without_indexes:,.0f} documents a second.",
            f"CPU of ingest a document: history {ingest.cpu_us['history']:.0f} µs,",
            f"the MongoDB-wire server {ingest.cpu_us['mongo']:.0f} µs.",
        ]
    )


def _goals(results: Results) -> list[str]:
    quiet, ingest, visitors = results.quiet, results.ingest, results.visitors
    rows = [
        ("Single-event beacons stored at 512 connections ÷ floor", f"{results.rounds[1].ratio:.2f}", "≥ 0.25, aim 0.5"),
        *(
            (
                f"Events stored in beacons of 10 at {rounds.profile.connections} connections ÷ floor requests",
                f"{rounds.ratio:.2f}",
                "≥ 1.0, aim 2.0",
            )
            for rounds in results.rounds[2:4]
        ),
        (
            f"p50 / p99 of a beacon of one event at {quiet.load.rate:,.0f}/s",
            f"{quiet.load.p50_ms:.1f} / {quiet.load.p99_ms:.1f} ms",
            "p99 ≤ 25 ms",
        ),
        (
            f"History ingest ({ingest.history:,.0f}/s, {ingest.documents:,} documents) ÷ bare `insert_many` of the same"
            f" with the same indexes ({ingest.bare:,.0f}/s)",
            f"{ingest.history / ingest.bare:.2f}",
            "≥ 0.5, aim 0.8",
        ),
        ("Redis memory a live visit, one in twenty signed in", f"{visitors.bytes_each:.0f} bytes", "≤ 500"),
        (
            f"CPU of {', '.join(PATH)} an event with {visitors.many:,} known visitors ÷ with {FEW:,}",
            f"{visitors.ratio:.2f}",
            "≤ 1.15",
        ),
    ]
    return table("|measured|goal", rows)


def _known_visitors(visitors: Visitors) -> str:
    def middle(rounds: list[dict[str, float]], name: str) -> float:
        return median(each[name] for each in rounds)

    figures = [f"{name} {middle(visitors.few_us, name):.1f} and {middle(visitors.many_us, name):.1f}" for name in PATH]
    return ", ".join(figures)


def _list(title: str, figures: Mapping[str, float], unit: int) -> str:
    return f"{title}: {', '.join(f'{name} {figure / unit:.0f}' for name, figure in figures.items())}."


def _row(rounds: Rounds) -> list[str]:
    p50, p99 = (median(getattr(load, name) for load in rounds.suite) for name in ("p50_ms", "p99_ms"))
    return [
        rounds.profile.name,
        f"{rounds.profile.connections}",
        f"{rounds.floor_rate:,.0f}",
        f"{rounds.events_a_second:,.0f}",
        f"**{rounds.ratio:.2f}**",
        f"{p50:.0f} / {p99:.0f}",
        f"{median(cost.events_a_batch for cost in rounds.costs):.0f}",
        f"{median(cost.fsyncs_a_second for cost in rounds.costs):.0f}",
        f"{rounds.waiting:,}",
        f"{rounds.failed}",
    ]


def _cpu_row(rounds: Rounds) -> list[str]:
    by_program = [median(cost.cpu_us[name] for cost in rounds.costs) for name in PROGRAMS]
    wrk = median(load.cpu_s / max(cost.events, 1) * 1e6 for cost, load in zip(rounds.costs, rounds.suite, strict=True))
    figures = [f"{each:.1f}" for each in (*by_program, wrk)]
    return [rounds.profile.name, f"{rounds.profile.connections}", *figures]
