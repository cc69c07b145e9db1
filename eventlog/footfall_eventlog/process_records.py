"""What each process reports of itself in Redis: that it runs, its numbers, and what it has counted in the last day.

A run is a process from its start to its end. It has one hash, `{process}:<id>`, and its id is in the sorted set
`{process}:runs` by the time of its last report. Counts are reported for each slice of ten minutes as they are, not what
was added to them. So a report that is repeated changes nothing, and the sum over all runs is right over restarts and
however many processes there are; a process that is killed loses what it has counted since its last report.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NamedTuple

import msgspec
from footfall_servicekit.background import repeat
from prometheus_client.metrics import MetricWrapperBase

from footfall_eventlog.partitions import ANY_ERRORS, redis_client

REPORT_EVERY_S: Final = 5.0
SLICE_MS: Final = 600_000
KEPT_MS: Final = 86_400_000
"""How long a slice is kept, and a run after its last report."""

_TAG: Final = "{process}"
_RUNS: Final = f"{_TAG}:runs"
_MAX_RUNS: Final = 1_000  # a process that cannot start tries again every second
_TIMEOUT_MS: Final = 1_000
_ABOUT: Final = b"about"
_REPORT: Final = b"report"

_encode = msgspec.json.encode

Metrics = Mapping[str, MetricWrapperBase]


class About(msgspec.Struct, frozen=True):
    """What stays the same while a process runs. `kind`: `gateway`, `collector`, `identity`, `history` or `relay`."""

    kind: str
    host: str
    version: str
    start_ms: int


class Report(msgspec.Struct, frozen=True):
    """How a process is at a time. `is_last`: it was asked to stop, and has stopped."""

    time_ms: int
    is_last: bool = False
    numbers: dict[str, float] = {}
    notes: dict[str, msgspec.Raw] = {}
    """Further JSON, by name."""


class Run(NamedTuple):
    """A run as it has reported itself. `slices`: what it has counted, by the time at which the slice began."""

    id: str
    about: About
    report: Report
    slices: dict[int, dict[str, float]]


class ProcessRecord:
    """The reports of this process."""

    def __init__(
        self,
        kind: str,
        redis_url: str,
        *,
        counted: Metrics,
        numbers: Metrics,
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Report what the metrics `counted` count, and the current values of the gauges `numbers`, each by a name.

        Of a counter there is a count for each combination of labels, `name/label/label`; of a histogram for each
        bucket, `name/upper bound`. `notes` returns what else to report, as JSON types.
        """
        self._redis = redis_client(redis_url, _TAG, timeout_ms=_TIMEOUT_MS)
        self._counted = counted
        self._numbers = numbers
        self._notes = notes
        self._id = os.urandom(8).hex()
        self._about = _encode(About(kind, socket.gethostname(), _version_of(kind), _now_ms()))
        self._slice_ms = 0
        self._before: dict[str, float] = {}
        """The counts at the beginning of the current slice."""
        self._unwritten: dict[int, bytes] = {}

    async def run(self) -> None:
        """Background work: report every few seconds."""
        await repeat(REPORT_EVERY_S, ANY_ERRORS, self.report)

    async def report(self, *, is_last: bool = False) -> None:
        """Report now. Raises ANY_ERRORS; the next report makes up for it."""
        now = _now_ms()
        self._count(now)
        unwritten = dict(self._unwritten)
        numbers = {name: sum(_values(metric)) for name, metric in self._numbers.items()}
        notes = {name: msgspec.Raw(_encode(note)) for name, note in self._notes().items()}
        fields = {_ABOUT: self._about, _REPORT: _encode(Report(now, is_last, numbers, notes))}
        key, old_slice = _key(self._id), now // SLICE_MS * SLICE_MS - KEPT_MS
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(key, mapping=fields | {str(start): counts for start, counts in unwritten.items()})
        pipeline.hdel(key, str(old_slice))
        pipeline.pexpire(key, KEPT_MS)
        pipeline.zadd(_RUNS, {self._id: now})
        pipeline.zremrangebyscore(_RUNS, 0, now - KEPT_MS)
        pipeline.zremrangebyrank(_RUNS, 0, -_MAX_RUNS - 1)
        pipeline.pexpire(_RUNS, KEPT_MS)
        await pipeline.execute()
        for start, counts in unwritten.items():
            if self._unwritten[start] == counts and start != self._slice_ms:
                del self._unwritten[start]

    async def close(self) -> None:
        """Report that the process has stopped, if Redis answers, and close the connection."""
        with suppress(*ANY_ERRORS):
            await self.report(is_last=True)
        await self._redis.aclose()

    def _count(self, now: int) -> None:
        """Take over the counts. What was counted since the last report belongs to the slice of that report."""
        counts = dict(_counts(self._counted))
        start = now // SLICE_MS * SLICE_MS
        self._slice_ms = self._slice_ms or start
        news = {name: count - self._before.get(name, 0) for name, count in counts.items()}
        self._unwritten[self._slice_ms] = _encode({name: count for name, count in news.items() if count})
        if start != self._slice_ms:
            self._slice_ms, self._before = start, counts


class ProcessRecords:
    """Reads the reports of all processes."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis_client(redis_url, _TAG, timeout_ms=_TIMEOUT_MS)

    async def runs(self) -> list[Run]:
        """The runs of the last day, the earliest start first. Raises TRANSIENT_ERRORS."""
        ids = [run_id.decode() for run_id in await self._redis.zrange(_RUNS, 0, -1)]
        pipeline = self._redis.pipeline(transaction=False)
        for run_id in ids:
            pipeline.hgetall(_key(run_id))
        found = zip(ids, await pipeline.execute() if ids else [], strict=True)
        runs = [run for run_id, fields in found if fields and (run := _read(run_id, fields))]
        return sorted(runs, key=lambda run: (run.about.start_ms, run.id))

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


def _read(run_id: str, fields: dict[bytes, bytes]) -> Run | None:
    """Decode a run; None if another version has written what this one cannot read."""
    try:
        about = msgspec.json.decode(fields.pop(_ABOUT), type=About)
        report = msgspec.json.decode(fields.pop(_REPORT), type=Report)
        slices = {int(start): msgspec.json.decode(counts, type=dict[str, float]) for start, counts in fields.items()}
    except (KeyError, ValueError, msgspec.DecodeError):
        return None
    since_ms = _now_ms() - KEPT_MS
    return Run(run_id, about, report, {start: counts for start, counts in slices.items() if start >= since_ms})


def _counts(metrics: Metrics) -> Iterator[tuple[str, float]]:
    for name, metric in metrics.items():
        buckets: dict[str, float] = {}
        for family in metric.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    yield "/".join((name, *sample.labels.values())), sample.value
                elif sample.name.endswith("_bucket"):
                    bound = sample.labels["le"]
                    buckets[bound] = buckets.get(bound, 0) + sample.value
        for bound, count in buckets.items():
            yield f"{name}/{bound}", count


def _values(metric: MetricWrapperBase) -> Iterator[float]:
    for family in metric.collect():
        for sample in family.samples:
            yield sample.value


def _version_of(kind: str) -> str:
    try:
        return version(f"footfall-{kind}")
    except PackageNotFoundError:
        return ""


def _key(run_id: str) -> str:
    return f"{_TAG}:{run_id}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
