"""What the load runs compute from what they see."""

import os
from pathlib import Path

import pytest

from bench import page
from bench.load import SCRIPT, Load, Profile
from bench.machine import description, usage
from bench.meter import Cost, State
from bench.report import Rounds
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
    assert Visitors(9, 1.0, few, many).ratio == 1.4


def test_growth_is_the_line_through_the_samples() -> None:
    assert Growth.of([(0.0, 100), (10.0, 300), (20.0, 200), (30.0, 400)]) == Growth(start=130, end=370, slope=8)


def test_only_what_is_between_the_marks_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def marked(command: str, section: str) -> str:
        return f"<!-- measured: `{command}` writes this -->\n{section}\n<!-- end of what `{command}` writes -->\n"

    before, after = f"before\n{marked('make bench', 'another')}", f"between\n{marked('make benches', 'another')}after\n"
    file = tmp_path / "performance.md"
    file.write_text(before + marked("make bench-history", "old") + after)
    monkeypatch.setattr(page, "PAGE", file)
    page.write("new", "make bench-history")
    assert file.read_text() == before + marked("make bench-history", "new") + after


def test_a_process_has_used_something() -> None:
    used = usage(os.getpid())
    assert used.cpu_s > 0
    assert used.memory > 1_000_000


def test_the_machine_and_the_versions_are_named() -> None:
    assert all(word in description() for word in ("cores", "GiB", "Python", "grpcio", "SecantusDB"))


def test_known_visits_are_uuids_as_the_load_script_writes_them() -> None:
    assert visit_id(255) == "00000000-0000-4000-8000-0000000000ff"
    assert "'00000000-0000-4000-8000-%012x'" in SCRIPT.read_text()
