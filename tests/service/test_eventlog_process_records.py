"""Processes report themselves in Redis, so that their counts survive them."""

import asyncio
from typing import Any

import pytest
from footfall_eventlog import process_records
from footfall_eventlog.partitions import TRANSIENT_ERRORS
from footfall_eventlog.process_records import KEPT_MS, SLICE_MS, ProcessRecord, ProcessRecords, Run
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tests.tools.ports import free_ports

START = 1_800_000_000_000 // SLICE_MS * SLICE_MS


class Clock:
    """The time that records see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = START
        monkeypatch.setattr(process_records, "_now_ms", lambda: self.now_ms)


class Reporter:
    """A process with metrics of its own."""

    def __init__(self, url: str, kind: str = "gateway") -> None:
        registry = CollectorRegistry()
        self.events = Counter("events", "Events.", ["outcome"], registry=registry)
        self.seconds = Histogram("seconds", "Seconds.", ["operation"], buckets=(1, 2), registry=registry)
        self.lag = Gauge("lag", "Lag.", ["group"], registry=registry)
        self.record = ProcessRecord(
            kind,
            url,
            counted={"events": self.events, "seconds": self.seconds},
            numbers={"lag": self.lag},
            notes=lambda: {"last": ["x"]},
        )


async def runs(url: str) -> list[Run]:
    records = ProcessRecords(url)
    try:
        return await records.runs()
    finally:
        await records.close()


def total(found: list[Run], name: str) -> float:
    return sum(counts.get(name, 0) for run in found for counts in run.slices.values())


async def test_counts_are_kept_by_slice_and_survive_the_process(
    redis_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, first = Clock(monkeypatch), Reporter(redis_database_url)
    first.events.labels("stored").inc(3)
    first.lag.labels("a").set(2)
    first.lag.labels("b").set(3)
    first.seconds.labels("x").observe(0.5)
    first.seconds.labels("y").observe(1.5)
    await first.record.report()
    await first.record.report()  # changes nothing
    clock.now_ms = START + SLICE_MS - 1
    first.events.labels("stored").inc()
    await first.record.report()
    clock.now_ms = START + SLICE_MS + 1
    first.events.labels("stored").inc(10)  # after the last report: of that slice
    await first.record.report()
    first.events.labels("stored").inc(5)
    await first.record.report()  # then it is killed

    second = Reporter(redis_database_url)
    second.events.labels("stored").inc(7)
    await second.record.close()
    [one, other] = await runs(redis_database_url)
    assert {start - START: counts.get("events/stored") for start, counts in one.slices.items()} == {
        0: 14,
        SLICE_MS: 5,
    }
    assert one.slices[START]["seconds/1.0"] == 1
    assert one.slices[START]["seconds/2.0"] == one.slices[START]["seconds/+Inf"] == 2
    assert one.report.numbers == {"lag": 5}
    assert bytes(one.report.notes["last"]) == b'["x"]'
    assert (one.report.is_last, other.report.is_last) == (False, True)
    assert total([one, other], "events/stored") == 26
    await first.record.close()


async def test_what_was_counted_while_redis_was_down_is_reported_afterwards(
    redis_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, reporter = Clock(monkeypatch), Reporter(redis_database_url)
    [unused] = free_ports(1)
    good, bad = reporter.record._redis, Reporter(f"redis://127.0.0.1:{unused}").record._redis
    for number in range(3):
        clock.now_ms = START + number * SLICE_MS
        reporter.events.labels("stored").inc()
        reporter.record._redis = bad
        with pytest.raises(TRANSIENT_ERRORS):
            await reporter.record.report()
    reporter.record._redis = good
    await reporter.record.report()
    assert total(await runs(redis_database_url), "events/stored") == 3
    await reporter.record.close()
    await bad.aclose()


async def test_a_day_of_slices_and_a_limited_number_of_runs_are_kept(
    redis_database_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_records, "_MAX_RUNS", 3)
    clock = Clock(monkeypatch)
    reporters = [Reporter(redis_database_url) for _ in range(5)]
    for reporter in reporters:
        clock.now_ms += 1
        await reporter.record.report()
    assert len(await runs(redis_database_url)) == 3
    last = reporters[-1]
    for _ in range(KEPT_MS // SLICE_MS + 5):
        clock.now_ms += SLICE_MS
        last.events.labels("stored").inc()
        await last.record.report()
    found = await runs(redis_database_url)
    assert len(found) == 1, "the others have not reported for a day"
    assert len(found[0].slices) <= KEPT_MS // SLICE_MS + 1
    assert await redis.hlen(f"{{process}}:{found[0].id}") <= KEPT_MS // SLICE_MS + 4
    await asyncio.gather(*(reporter.record.close() for reporter in reporters))


async def test_a_report_of_another_version_is_left_out(redis_database_url: str, redis: Any) -> None:
    reporter = Reporter(redis_database_url)
    await reporter.record.report()
    [run] = await runs(redis_database_url)
    await redis.hset(f"{{process}}:{run.id}", "report", b'{"later": true}')
    assert await runs(redis_database_url) == []
    await reporter.record.close()
