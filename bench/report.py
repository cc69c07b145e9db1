"""The report of `make bench`: its measured section of docs/dev/performance.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.context import CALLS_A_SECOND, Contexts
from bench.ingest import Ingest
from bench.live import Live
from bench.load import Load, Profile
from bench.memory import Memory
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
    live: Live
    contexts: Contexts
    memory: Memory
    log_bytes: float
    seconds: float


def text(results: Results) -> str:
    """The measured section, in Markdown."""
    memory = results.rounds[-1].costs[-1].memory
    return "\n".join(
        [
            measured(results.seconds),
            "The load generator, the floor, all services and both stores share these cores.",
            "",
            *_goals(results),
            "",
            *table(
                "a beacon|connections|floor, requests/s|stored, events/s"
                "|**stored ÷ floor, median of the rounds' own ratios**|p50 / p99 of an answer, ms"
                "|events a batch|fsyncs/s|entries unread by history|not 2xx",
                [_row(each) for each in results.rounds],
            ),
            "",
            "CPU an event, in µs, by process, until all events are stored in history. `wrk` is the load generator.",
            "",
            *table(
                "|".join(("a beacon", "connections", *PROGRAMS, "wrk")), [_cpu_row(each) for each in results.rounds]
            ),
            "",
            _list("Resident memory after these runs, MiB", memory, 2**20),
            _list(
                f"Growth of resident memory at {results.quiet.load.rate:,.0f} events/s, KiB/s",
                results.quiet.growth,
                2**10,
            ),
            "(Redis keeps the log until it is trimmed; history remembers 10,000 visits.)",
            "",
            f"CPU an event with {FEW:,} and with {results.visitors.many:,} known visitors, in µs, medians:"
            f" {_known_visitors(results.visitors)}.",
            "",
            *_watcher(results.live),
            "",
            _context_costs(results.contexts),
            "",
            *_memory(results.memory),
            "",
            *_ingest_costs(results.ingest),
        ]
    )


def ingest_text(ingest: Ingest) -> str:
    """What was measured of ingest alone."""
    return "\n".join([*table("|measured|goal", [_ingest_goal(ingest)]), "", *_ingest_costs(ingest)])


def context_text(contexts: Contexts) -> str:
    """What was measured of contexts alone."""
    return "\n".join([*table("|measured|goal", [_context_goal(contexts)]), "", _context_costs(contexts)])


def _context_goal(contexts: Contexts) -> tuple[str, str, str]:
    return (
        f"p50 / p99 of `/api/v1/context?phone=` at {CALLS_A_SECOND}/s, beside {contexts.load.rate:,.0f} events/s",
        f"{contexts.delays.p50_ms:.0f} / {contexts.delays.p99_ms:.0f} ms, {contexts.incomplete} not complete",
        "p99 ≤ 100 ms",
    )


def _context_costs(contexts: Contexts) -> str:
    return _list("CPU of a context, in µs", contexts.cpu_us, 1)


def _ingest_goal(ingest: Ingest) -> tuple[str, str, str]:
    return (
        f"History ingest ({ingest.history:,.0f}/s, {ingest.documents:,} documents) ÷ bare `insert_many` of the same"
        f" with the same indexes ({ingest.bare:,.0f}/s)",
        f"{ingest.history / ingest.bare:.2f}",
        "≥ 0.8",
    )


def _ingest_costs(ingest: Ingest) -> list[str]:
    return [
        f"Without indexes but `_id` the bare server takes {ingest.bare_without_indexes:,.0f} documents a second.",
        f"CPU of ingest a document: history {ingest.cpu_us['history']:.0f} µs,",
        f"the MongoDB-wire server {ingest.cpu_us['mongo']:.0f} µs, of the bare insert {ingest.cpu_us['bare']:.0f} µs.",
        "",
        *table(
            "what an insert of a document takes less without this index|CPU of the MongoDB-wire server, µs",
            [(name, f"{cost:.0f}") for name, cost in ingest.index_us.items()],
        ),
    ]


def _goals(results: Results) -> list[str]:
    quiet, visitors, live, memory = (
        results.quiet,
        results.visitors,
        results.live,
        results.memory,
    )
    at_least = ("≥ 0.20, aim 0.35", "≥ 0.45, aim 0.6", "≥ 1.2, aim 2.0", "≥ 2.0, aim 3.0")
    rows = [
        *(
            (
                f"Events stored in beacons of {rounds.profile.name} at {rounds.profile.connections} connections ÷ floor"
                " requests",
                f"{rounds.ratio:.2f}",
                goal,
            )
            for rounds, goal in zip(results.rounds, at_least, strict=False)
        ),
        (
            f"p50 / p99 of a beacon of one event at {quiet.load.rate:,.0f}/s",
            f"{quiet.load.p50_ms:.1f} / {quiet.load.p99_ms:.1f} ms",
            "p99 ≤ 15 ms",
        ),
        *(
            (
                f"p50 / p99 from a beacon's answer to {what} in `/api/v1/live` at {live.rate:,.0f}/s",
                f"{delays.p50_ms:.0f} / {delays.p99_ms:.0f} ms",
                goal,
            )
            for what, delays, goal in (
                ("its transition", live.transitions, "p99 ≤ 100 ms"),
                ("its event, without a transition,", live.events, "p99 ≤ 400 ms"),
            )
        ),
        _context_goal(results.contexts),
        _ingest_goal(results.ingest),
        ("Redis memory of a known visit that is no longer recent", f"{memory.known_later:.0f} bytes", "≤ 300"),
        (
            "Redis memory of an anonymous visit given back when it is no longer recent",
            f"{1 - memory.anonymous_left / memory.anonymous_live:.0%}",
            "all",
        ),
        (
            f"CPU of {', '.join(PATH)} an event with {visitors.many:,} known visitors ÷ with {FEW:,}",
            f"{visitors.ratio:.2f}",
            "≤ 1.15",
        ),
    ]
    return table("|measured|goal", rows)


def _watcher(live: Live) -> list[str]:
    programs = [*live.without_us[0]]
    return table(
        "|".join((f"CPU an event at {live.rate:,.0f}/s, in µs, medians", *programs)),
        [
            (name, *(f"{_median_of(rounds, program):.1f}" for program in programs))
            for name, rounds in (
                ("without a client of the live stream", live.without_us),
                ("with a client that gets everything", live.with_us),
            )
        ],
    )


def _memory(memory: Memory) -> list[str]:
    rows = [
        ("recent anonymous visit, with its entry in the list of live visitors", memory.anonymous_live),
        ("anonymous visit that is no longer recent", memory.anonymous_left),
        ("recent known visit with one SignIn, with its entry in the list of live visitors", memory.known_live),
        ("known visit that is no longer recent", memory.known_later),
        ("entry of a known visit in the index of identities, for erasure", memory.index),
    ]
    head = f"Redis memory, measured with {memory.visits:,} visits|bytes"
    return table(head, [(name, f"{each:.0f}") for name, each in rows])


def _median_of(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    return median(each[name] for each in rounds)


def _known_visitors(visitors: Visitors) -> str:
    figures = [
        f"{name} {_median_of(visitors.few_us, name):.1f} and {_median_of(visitors.many_us, name):.1f}" for name in PATH
    ]
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
