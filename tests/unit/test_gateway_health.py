"""What the reports of processes say together: numbers over restarts, and what a person must do."""

from typing import Any

import msgspec
import pytest
from footfall_eventlog.process_records import SLICE_MS, About, Report, Run
from footfall_gateway.api_v1.health_findings import SystemHealth, system_health

NOW = 1_800_000_000_000
SLICE = NOW // SLICE_MS * SLICE_MS
SERVING = dict.fromkeys(("collector", "identity", "history"), "")
KINDS = ("gateway", "collector", "identity", "history")


def run_of(kind: str, number: int = 1, *, ago_ms: int = 1_000, start_ms: int = NOW - 60_000, **more: Any) -> Run:
    """A run that has reported `ago_ms` ago; keywords: slices, numbers, notes, is_last."""
    slices = more.pop("slices", {})
    notes = {name: msgspec.Raw(msgspec.json.encode(note)) for name, note in more.pop("notes", {}).items()}
    report = Report(NOW - ago_ms, notes=notes, **more)
    return Run(f"{kind}-{number}", About(kind, "host", "1.0.0", start_ms), report, slices)


def health(*runs: Run, **reasons: str) -> SystemHealth:
    return system_health([*runs], SERVING | reasons, NOW)


def state(found: SystemHealth) -> dict[str, str]:
    return {part.name: part.state for part in found.parts}


def test_all_is_well_without_problems() -> None:
    found = health(*map(run_of, KINDS))
    assert (found.word, found.problems) == ("All well", [])
    assert set(state(found).values()) == {"ok"}
    assert [part.processes for part in found.parts] == [1, 1, 1, 1, None, None]


@pytest.mark.parametrize(
    ("reasons", "failed", "unknown"),
    [
        ({"history": "it does not answer (DEADLINE_EXCEEDED)"}, {"history"}, {"mongodb"}),
        ({"history": "MongoDB does not answer"}, {"history", "mongodb"}, set()),
        ({"identity": "it does not answer (UNAVAILABLE)"}, {"identity"}, set()),
        ({"collector": "Redis is at maxmemory"}, {"collector", "redis"}, set()),
    ],
)
def test_a_part_that_fails_is_named_with_what_it_means_and_what_to_do(
    reasons: dict[str, str], failed: set[str], unknown: set[str]
) -> None:
    found = health(*map(run_of, KINDS), **reasons)
    assert {name for name, one in state(found).items() if one == "failed"} == failed
    assert {name for name, one in state(found).items() if one == "unknown"} == unknown
    assert {problem.part for problem in found.problems} == failed
    for problem in found.problems:
        assert problem.commands
        assert next(iter(reasons.values())) in problem.text
    for part in found.parts:
        assert (part.beacons == part.queries == "as usual") == (part.state != "failed")


def test_without_redis_the_parts_are_named_and_counts_are_not_known() -> None:
    found = system_health(None, SERVING | {"collector": "Redis does not answer"}, NOW)
    assert state(found)["redis"] == "failed"
    assert (found.events, found.speed, found.starts, found.since) == (None, None, None, None)
    assert found.backlog.history_lag_seconds is None


def test_counts_are_sums_over_processes_and_restarts() -> None:
    dead = run_of(
        "gateway",
        1,
        ago_ms=900_000,
        start_ms=NOW - 7_200_000,
        slices={SLICE - 2 * SLICE_MS: {"events/stored/": 5, "events/rejected/too_old": 2}},
        notes={"refused": {"too_old": {"time_ms": 1, "site": "shop", "event_name": "A", "message": "older"}}},
    )
    notes = {"refused": {"too_old": {"time_ms": 2, "site": "", "event_name": "B", "message": "newer"}}}
    alive = [run_of("gateway", n, slices={SLICE: {"events/stored/": 1, "beacons/503": 3}}, notes=notes) for n in (2, 3)]
    history = run_of("history", slices={SLICE: {"history_events/duplicate": 4}})
    found = health(dead, *alive, history)
    events = found.events
    assert events
    assert (events.stored, events.duplicate, events.beacons_refused) == (7, 4, {"503": 6})
    [refused] = events.refused
    assert refused.example
    assert (refused.reason, refused.count, refused.example.message, refused.example.site) == (
        "too_old",
        2,
        "newer",
        None,
    )
    assert [(one.stored, one.refused) for one in events.slices] == [(5, 2), (0, 0), (2, 0)]
    assert found.since == NOW - 7_200_000
    assert found.starts
    assert {(one.part, one.before) for one in found.starts} == {
        ("gateway", "died"),
        ("gateway", None),
        ("history", None),
    }
    assert found.parts[0].processes == 2


def test_what_a_person_must_do_comes_with_commands() -> None:
    numbers = {"lag_seconds": 61.0, "dead_letters": 2.0, "oldest_dead_letter": 5.0, "gaps": 1.0}
    found = health(
        run_of("history", numbers=numbers, slices={SLICE: {"lost_entries/log:{p00}/history": 1}}),
        run_of("collector", numbers={"log_bytes": 51.0, "log_bound_bytes": 100.0}),
    )
    pages = [problem.page.partition("#")[2] for problem in found.problems]
    assert pages == ["history-lags", "log-full", "dead-letters", "gaps", "a-store-is-restored-from-a-backup"]
    assert [problem.count for problem in found.problems] == [61, 51, 2, 1, 1]
    assert found.word == "5 things need you"
    assert found.backlog.oldest_dead_letter_time == 5_000
    replaying = "footfall-history dead-letters replay --all"
    assert any(replaying in command for problem in found.problems for command in problem.commands)


def test_a_silent_process_is_not_believed() -> None:
    found = health(run_of("history", ago_ms=20_000, numbers={"lag_seconds": 0.0}))
    assert found.backlog.history_lag_seconds is None
    assert next(part for part in found.parts if part.name == "history").processes is None


def test_of_slow_requests_the_slowest_of_the_last_day_are_shown() -> None:
    def slow(seconds: float, time_ms: int) -> dict[str, Any]:
        return {"seconds": seconds, "time_ms": time_ms, "operation": "getVisit", "status": 200, "request_id": "r"}

    buckets = {"query_seconds/0.1": 94, "query_seconds/0.5": 99, "query_seconds/+Inf": 100}
    old = SLICE - 12 * SLICE_MS
    one = run_of("gateway", 1, slices={SLICE: buckets, old: {"query_seconds/10.0": 1_000, "query_seconds/+Inf": 1_000}})
    notes = {"slowest": [slow(0.9, NOW - 5), slow(0.8, NOW - 2 * 86_400_000), slow(0.2, NOW)]}
    found = health(one, run_of("gateway", 2, notes=notes))
    assert found.speed
    assert found.speed.query_p95_milliseconds == 500
    assert found.speed.beacon_p95_milliseconds is None
    assert [each.milliseconds for each in found.speed.slowest] == [900, 200]


def test_a_relay_is_no_part_of_every_suite_and_its_outlets_are_problems_of_their_own() -> None:
    everything = [*map(run_of, KINDS)]
    well = run_of("relay", numbers={"lag_seconds": 299.0, "dead_letters": 0.0, "paused": 1.0})
    assert health(*everything, well).problems == []
    behind = run_of(
        "relay", numbers={"lag_seconds": 301.0, "dead_letters": 2.0}, slices={SLICE: {"outlet_lost_entries/crm": 7}}
    )
    found = health(*everything, behind)
    assert [(one.code, one.part, one.count) for one in found.problems] == [
        ("outlets_lag", "relay", 301),
        ("outlets_lost", "relay", 7),
        ("outlet_dead_letters", "relay", 2),
    ]
    died = run_of("relay", ago_ms=60_000)
    assert [one.code for one in health(*everything, died).problems] == ["relay_silent"]
    assert health(*everything, run_of("relay", ago_ms=60_000, is_last=True)).problems == []
