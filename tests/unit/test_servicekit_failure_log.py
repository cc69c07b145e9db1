"""Failures that repeat are logged when they begin, from time to time with their number, and when they end."""

from collections.abc import Iterator
from typing import Any

import pytest
from footfall_servicekit import failure_log
from footfall_servicekit.failure_log import FailureLog
from structlog.testing import capture_logs

Line = dict[str, Any]


class Clock:
    """The time in seconds, which a test sets."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all logs; their interval is 30 s."""
    clock = Clock()
    monkeypatch.setattr(failure_log, "time", clock)
    monkeypatch.setattr(FailureLog, "interval_s", 30.0)
    return clock


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    """The lines that have been written."""
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]  # each is a mutable mapping


def test_an_outage_has_a_line_at_its_begin_one_in_each_interval_and_one_at_its_end(
    clock: Clock, lines: list[Line]
) -> None:
    log = FailureLog("the store does not answer", "store")
    log.worked("Redis")
    for _ in range(560):  # eight a second
        log.failed("Redis", error="TimeoutError", details={"pause_s": 1})
        clock.now += 0.125
    log.worked("Redis")  # too soon after the last failure to be the end
    clock.now += 10
    log.worked("Redis")
    log.worked("Redis")
    about = {"store": "Redis", "error": "TimeoutError"}
    begin = {"event": "the store does not answer", "log_level": "warning", "pause_s": 1, **about}
    assert [line | {"duration_s": round(line.get("duration_s", 0))} for line in lines] == [
        begin | {"duration_s": 0},
        begin | {"count": 241, "duration_s": 30},
        begin | {"count": 481, "duration_s": 60},
        {"event": "the store does not answer (ended)", "log_level": "info", "count": 560, "duration_s": 70, **about},
    ]


def test_failures_between_successes_are_one_outage(clock: Clock, lines: list[Line]) -> None:
    log = FailureLog("calls fail", "method")
    for _ in range(29):
        log.failed("Get", code="UNAVAILABLE")
        clock.now += 0.5
        log.worked("Get")
        clock.now += 0.5
    assert len(lines) == 1


def test_a_failure_long_after_a_success_is_another_outage(clock: Clock, lines: list[Line]) -> None:
    log = FailureLog("the store does not answer", "store")
    for seconds in (2, 3_600, 0):  # as at a start, where the first success is the last call for long
        log.failed("Redis")
        clock.now += 1
        log.worked("Redis")
        clock.now += seconds
    assert [(line["event"].endswith("(ended)"), line.get("count"), line.get("duration_s")) for line in lines] == [
        (False, None, None),
        (True, 2, 4),
        (False, None, None),
    ]


def test_what_fails_and_why_are_outages_of_their_own_up_to_a_limit(clock: Clock, lines: list[Line]) -> None:
    log = FailureLog("calls fail", "method")
    for number in range(1_000):
        for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            log.failed(f"Get{number}", code=code)
    assert [(line["method"], line.get("code")) for line in lines] == [
        *((f"Get{number}", code) for number in range(25) for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")),
        ("others", None),
    ]
    clock.now += 10
    log.worked("Get3")
    assert [(line["event"], line["method"]) for line in lines[51:]] == [
        ("calls fail (ended)", "Get3"),
        ("calls fail (ended)", "Get3"),
        ("calls fail (ended)", "others"),
    ]
    clock.now += 30  # what has not failed for so long makes room
    log.failed("Set", code="UNAVAILABLE")
    assert lines[-1]["method"] == "Set"


def test_the_stack_is_that_of_the_failure_that_is_logged(clock: Clock, lines: list[Line]) -> None:
    log = FailureLog("work failed", "work", "error")
    errors = [ValueError("first"), ValueError("second"), ValueError("third")]
    for error, seconds in zip(errors, (1, 40, 1), strict=True):
        log.failed("sweep", exc_info=error, error="ValueError")
        clock.now += seconds
    assert [(line["log_level"], line["exc_info"], line.get("count")) for line in lines] == [
        ("error", errors[0], None),
        ("error", errors[2], 3),
    ]
