"""What the load runs compute from what they see."""

import os
import time
from pathlib import Path

import pytest

from bench import history, page
from bench.load import SCRIPT, Load, Profile
from bench.machine import description, usage
from bench.meter import Cost, State
from bench.report import Rounds
from bench.scaling import Costs
from bench.soak import Growth
from bench.visitors import Visitors, visit_id


def state(at_s: float, cpu_s: float, events: int, batches: int) -> State:
    return State(at_s, {"gateway": cpu_s}, {"gateway": 1_000}, events, batches, redis_turns=events)


def load(requests: int, failed: int = 0) -> Load:
    return Load(requests, seconds=2.0, failed=failed, p50_ms=1.0, p99_ms=2.0, max_ms=3.0)


def cost(events: int) -> Cost:
    return Cost(events, cpu_us={}, events_a_batch=1, fsyncs_a_second=1, memory={})


def test_cost_is_by_accepted_event() -> None:
    found = state(12.0, 3.0, 2_100, 30).since(state(10.0, 1.0, 100, 10))
    assert found == Cost(2_000, {"gateway": 1_000.0}, 100, 1_000, {"gateway": 1_000})


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    rounds = Rounds(Profile("one", 1, 64))
    for floor, events in ((1_000, 500), (2_000, 500), (500, 400)):
        rounds.floor.append(load(floor))
        rounds.suite.append(load(events, failed=1))
        rounds.costs.append(cost(events))
    assert rounds.ratio == 0.5
    assert rounds.events_a_second == 250
    assert rounds.failed == 3


def test_many_visitors_are_compared_with_few_round_by_round() -> None:
    few = [{"gateway": 1.0, "valkey": 1.0}, {"gateway": 2.0, "valkey": 2.0}, {"gateway": 5.0, "valkey": 5.0}]
    many = [{"gateway": 1.0, "valkey": 2.0}, {"gateway": 2.0, "valkey": 3.0}, {"gateway": 5.0, "valkey": 9.0}]
    assert Visitors(9, few, many).ratio == 1.4


def test_what_a_load_needs_follows_from_the_costs() -> None:
    costs = Costs({"G": 60.0}, log_bytes=500, anonymous_bytes=500, known_bytes=400)
    assert [costs.replicas("G", load, least=2) for load in (1_000, 100_000, 1_000_000)] == [2, 10, 100]
    assert costs.live_state_bytes(37_000, share_known=0.0) == 1_000 * 7_200 * 500
    assert costs.live_state_bytes(37_000, share_known=1.0) == 1_000 * 777_600 * 400


def test_growth_is_the_line_through_the_samples() -> None:
    assert Growth.of([(0.0, 100), (10.0, 300), (20.0, 200), (30.0, 400)]) == Growth(start=130, end=370, slope=8)


def test_only_what_is_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    def marked(command: str, section: str) -> str:
        return f"<!-- measured: `{command}` writes this -->\n{section}\n<!-- end of what `{command}` writes -->\n"

    before, after = f"before\n{marked('make bench', 'another')}", f"between\n{marked('make benches', 'another')}after\n"
    file = tmp_path / "performance.md"
    file.write_text(before + marked("make bench-history", "old") + after)
    page.write("new", "make bench-history", file)
    assert file.read_text() == before + marked("make bench-history", "new") + after


def test_work_without_progress_ends_and_slow_work_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "STUCK_SECONDS", 0.1)
    progress = history.Progress("events stored")
    for count in range(4):
        time.sleep(0.05)
        progress.report(count)
    time.sleep(0.15)
    with pytest.raises(RuntimeError, match="events stored: no progress"):
        progress.report(3)


def test_a_process_has_used_something() -> None:
    used = usage(os.getpid())
    assert used.cpu_s > 0
    assert used.memory > 1_000_000


def test_the_machine_and_the_versions_are_named() -> None:
    assert all(word in description() for word in ("cores", "GiB", "Python", "grpcio", "SecantusDB"))


def test_known_visits_are_uuids_as_the_load_script_writes_them() -> None:
    assert visit_id(255) == "00000000-0000-4000-8000-0000000000ff"
    assert "'00000000-0000-4000-8000-%012x'" in SCRIPT.read_text()
