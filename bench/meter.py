"""What a load run costs the programs of a running suite."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from bench.machine import usage
from tests.tools.suite import PROGRAMS, Program, Suite

GROUPS = ("history", "identity", "identity-live")
DRAIN_SECONDS = 90.0


@dataclass(frozen=True)
class State:
    """What the suite has done up to a moment: CPU seconds and bytes by program, and running totals."""

    at_s: float
    cpu_s: dict[str, float]
    memory: dict[str, int]
    events: float
    batches: float
    redis_turns: int

    def since(self, before: "State") -> "Cost":
        """What happened in between."""
        seconds = self.at_s - before.at_s
        events = self.events - before.events
        return Cost(
            events=int(events),
            cpu_us={name: (self.cpu_s[name] - before.cpu_s[name]) / max(events, 1) * 1e6 for name in self.cpu_s},
            events_a_batch=events / max(self.batches - before.batches, 1),
            fsyncs_a_second=(self.redis_turns - before.redis_turns) / seconds,
            memory=self.memory,
        )


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    `cpu_us` is by program and accepted event. `fsyncs_a_second` is the most there can have been: Redis fsyncs once a
    turn of its loop, if that wrote anything.
    """

    events: int
    cpu_us: dict[str, float]
    events_a_batch: float
    fsyncs_a_second: float
    memory: dict[str, int]


class Meter:
    """Looks at a suite whose programs do not restart meanwhile."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._pids = {name: suite.pid(name) or 0 for name in PROGRAMS}
        self.redis: Any = Redis.from_url(suite.redis_url)  # its commands are typed as sync or async

    def state(self) -> State:
        """The state now."""
        used = {name: usage(pid) for name, pid in self._pids.items()}
        samples = _gateway_samples(self._suite.url)
        return State(
            time.monotonic(),
            {name: each.cpu_s for name, each in used.items()},
            {name: each.memory for name, each in used.items()},
            samples["footfall_gateway_events_total", "stored"],
            samples["footfall_gateway_batch_events_count", ""],
            self.redis.info("stats")["eventloop_cycles"],
        )

    def waiting_entries(self) -> dict[str, int]:
        """By consumer group, the entries of the log that it has not acknowledged."""
        groups = {about["name"].decode(): about for about in self.redis.xinfo_groups("log:{p00}")}
        return {name: (groups[name]["lag"] or 0) + groups[name]["pending"] for name in GROUPS}

    def log_bytes_an_event(self) -> float:
        """Redis memory of the log by event. Only while nothing has been trimmed."""
        return float(self.redis.memory_usage("log:{p00}", samples=0) / self.state().events)

    def drain(self, *groups: str) -> float:
        """Wait until these groups of consumers have read the whole log; return the seconds. Raises TimeoutError."""
        started = time.monotonic()
        while any(self.waiting_entries()[name] for name in groups):
            if time.monotonic() > started + DRAIN_SECONDS:
                raise TimeoutError(f"the log is not drained: {self.waiting_entries()}")
            time.sleep(0.02)
        return time.monotonic() - started

    @contextmanager
    def holding(self, *programs: Program) -> Iterator[None]:
        """Hold these programs, so that what they still have to do takes nothing from what is measured meanwhile."""
        for program in programs:
            os.kill(self._pids[program], signal.SIGSTOP)
        try:
            yield
        finally:
            for program in programs:
                os.kill(self._pids[program], signal.SIGCONT)


def _gateway_samples(url: str) -> dict[tuple[str, str], float]:
    """By name and outcome."""
    samples = [
        sample
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=10).text)
        for sample in family.samples
    ]
    return {(sample.name, sample.labels.get("outcome", "")): sample.value for sample in samples}
