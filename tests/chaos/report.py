"""The table that `make chaos` prints and writes into docs/ops/reliability.md."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import page
from bench.machine import description
from deploy.embedded import ROOT
from tests.chaos.clients import Ledger
from tests.chaos.comparison import Differences
from tests.chaos.injector import FAULT_INTERVAL_S
from tests.chaos.run import BacklogRun, FaultRun, confirmed_within
from tests.chaos.trial import Trial

PAGE = ROOT / "docs" / "ops" / "reliability.md"

_HEAD = (
    "fault|lasts, s|events sent|acknowledged|missing|twice|wrong|lost with the log"
    "|longest outage, s|not ready after, s|back after, s"
)
_NONE = "-"


@dataclass(frozen=True)
class Row:
    """One row of the table, and in words what is not as promised in it. See `Trial` for the fields."""

    name: str
    what: str
    lasted_s: float
    ledger: Ledger
    differences: Differences
    shortfalls: Sequence[str]
    outage_s: float
    not_ready_after_s: float | None = None
    back_after_s: float | None = None

    def cells(self) -> list[str]:
        """The cells, under the head of the table."""
        found = self.differences
        counts = (self.ledger.sent, self.ledger.acknowledged, found.missing, found.twice, found.wrong)
        times = (self.outage_s, self.not_ready_after_s, self.back_after_s)
        return [
            f"`{self.name}`: {self.what}",
            f"{self.lasted_s:.0f}" if self.lasted_s else _NONE,
            *(f"{count:,}" for count in (*counts, found.lost_with_log)),
            *(_NONE if time is None else f"{time:.1f}" for time in times),
        ]


def trial_row(trial: Trial) -> Row:
    """The row of a fault of the table."""
    return Row(
        trial.fault.name,
        trial.fault.what,
        trial.lasted_s,
        trial.ledger,
        trial.differences,
        trial.shortfalls(),
        trial.outage_s,
        trial.not_ready_after_s,
        trial.back_after_s,
    )


def random_row(run: FaultRun, seconds: float) -> Row:
    """The row of a run under random faults."""
    impossible = confirmed_within(run.ledger, run.injector.log_outages)
    return Row(
        "random",
        f"a random program killed or frozen every {FAULT_INTERVAL_S:.0f} s",
        seconds,
        run.ledger,
        run.differences,
        [
            *run.differences.shortfalls(),
            *run.ledger.shortfalls(),
            *([f"confirmed while Redis was down: {impossible}"] if impossible else []),
        ],
        run.ledger.longest_outage_s(),
    )


def backlog_row(run: BacklogRun) -> Row:
    """The row of a run with a backlog."""
    return Row(
        "backlog",
        f"history stopped while {run.behind:,} events arrive",
        run.fill_s,
        run.ledger,
        run.differences,
        [*run.differences.shortfalls(), *run.ledger.shortfalls()],
        run.ledger.longest_outage_s(),
    )


def backlog_speed(run: BacklogRun) -> str:
    """How fast history worked off its backlog."""
    return (
        f"`backlog`: history handled {run.behind:,} events in {run.drain_s:.0f} s,"
        f" {run.behind / run.drain_s:,.0f} events/s. The log took {run.log_bytes / 2**20:.0f} MiB."
    )


class Report:
    """The rows, which are printed as they are measured, and notes below them."""

    def __init__(self, seed: int) -> None:
        self._started = time.monotonic()
        self._lines = page.table(_HEAD, [])
        self._notes: list[str] = []
        self.failures = 0
        print(f"FOOTFALL_SEED={seed}; {description()}", *self._lines, sep="\n", flush=True)

    def add(self, row: Row) -> None:
        """Add a row, and what is not as promised in it."""
        line = f"| {' | '.join(row.cells())} |"
        self._lines.append(line)
        print(line, flush=True)
        if row.shortfalls:
            self.fail(row.name, "; ".join(row.shortfalls))

    def fail(self, name: str, problem: str) -> None:
        """Add what is not as promised."""
        self.failures += 1
        self.note(f"Not as promised: `{name}`: {problem}.")

    def note(self, note: str) -> None:
        """Add a line below the table."""
        self._notes.append(f"- {note}")

    def print_notes(self) -> None:
        """Print what stands below the table."""
        print("", *self._notes, sep="\n")

    def section(self) -> str:
        """The measured section of the page, in Markdown."""
        return "\n".join([page.measured(time.monotonic() - self._started), "", *self._lines, "", *self._notes])
