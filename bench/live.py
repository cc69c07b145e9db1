"""The live stream: how long after the answer to a beacon its message arrives, and what a watcher costs."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

import httpx
import msgspec

from bench.load import Profile, run
from bench.meter import Meter
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

PROFILE = Profile("live", 1, 64, sign_in_share=0.05)
SITE: Final = "watched"
"""The site of the timed beacons, so that their stream has no other messages."""
PROBES_A_SECOND: Final = 20
LAST_MESSAGE_S: Final = 10.0
ROUNDS: Final = 4


@dataclass(frozen=True)
class Delays:
    """Milliseconds from the answer to a beacon until a client of the live stream has the message."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, delays_ms: Sequence[float]) -> "Delays":
        """Return the percentiles of these delays."""
        cuts = quantiles(delays_ms, n=100, method="inclusive")
        return cls(cuts[49], cuts[98])


@dataclass(frozen=True)
class Live:
    """Delays of transitions and of other events, and CPU an event without and with a watcher, at `rate` beacons/s.

    The CPU is in microseconds, by round and program.
    """

    rate: float
    transitions: Delays
    events: Delays
    without_us: list[dict[str, float]]
    with_us: list[dict[str, float]]


def measure(suite: Suite, meter: Meter, rate: float, delay_seconds: int, cost_seconds: int) -> Live:
    """Time beacons beside others at this rate, then send the others alone, without and with a watcher in turn."""
    pause_ms = PROFILE.connections / rate * 1000
    transitions, events = asyncio.run(_delays(suite, pause_ms, delay_seconds))
    without_us: list[dict[str, float]] = []
    with_us: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        for costs, is_watched in ((without_us, False), (with_us, True)):
            before = meter.state()
            asyncio.run(_load(suite, pause_ms, cost_seconds, is_watched=is_watched))
            meter.drain("history")
            costs.append(meter.state().since(before).cpu_us)
    return Live(rate, transitions, events, without_us, with_us)


async def _load(suite: Suite, pause_ms: float, seconds: int, *, is_watched: bool) -> None:
    load = asyncio.to_thread(run, suite.url, PROFILE, seconds, pause_ms=pause_ms)
    if not is_watched:
        await load
        return
    async with _stream(suite) as stream:
        reading = asyncio.create_task(_read_all(stream))
        await load
        reading.cancel()


@asynccontextmanager
async def _stream(suite: Suite, **parameters: str) -> AsyncIterator[httpx.Response]:
    async with suite.http(timeout=None) as http, http.stream("GET", "/api/v1/live", params=parameters) as stream:
        stream.raise_for_status()
        yield stream


async def _read_all(stream: httpx.Response) -> None:
    async for _ in stream.aiter_raw():
        pass


async def _delays(suite: Suite, pause_ms: float, seconds: int) -> tuple[Delays, Delays]:
    """Return the delays of transitions and of events without one."""
    answered_s: dict[str, float] = {}
    arrived_s: dict[str, float] = {}
    transitions: set[str] = set()
    async with _stream(suite, site=SITE) as stream, suite.http() as http:
        reading = asyncio.create_task(_note_arrivals(stream, arrived_s))
        load = asyncio.create_task(_load(suite, pause_ms, seconds, is_watched=False))
        while not load.done():
            is_transition = len(answered_s) % 2 == 0
            sent = _probe(is_transition=is_transition)
            (await http.post("/beacon", json=[sent])).raise_for_status()
            answered_s[sent["visitID"]] = time.perf_counter()
            if is_transition:
                transitions.add(sent["visitID"])
            await asyncio.sleep(1 / PROBES_A_SECOND)
        await load
        await eventually(lambda: answered_s.keys() <= arrived_s.keys(), timeout=LAST_MESSAGE_S)
        reading.cancel()
    delays = {visit: max(0.0, arrived_s[visit] - answered_s[visit]) * 1000 for visit in answered_s}
    return (
        Delays.of([delay for visit, delay in delays.items() if visit in transitions]),
        Delays.of([delay for visit, delay in delays.items() if visit not in transitions]),
    )


def _probe(*, is_transition: bool) -> dict[str, Any]:
    """Return the only event of a new visit."""
    visit_id = str(uuid.uuid4())
    if is_transition:
        return event("SignIn", visit_id, now_ms(), f"visitor-{visit_id}@shop.example", site=SITE)
    return event("PageEntered", visit_id, now_ms(), site=SITE)


async def _note_arrivals(stream: httpx.Response, arrived_s: dict[str, float]) -> None:
    """Note when the message of each visit arrives: the change of its state if it has one, else its event."""
    name = ""
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = msgspec.json.decode(line.removeprefix("data: "))
            if name == "transition":
                if "STATE" in data["changes"]:
                    arrived_s.setdefault(data["visitor"]["visitId"], time.perf_counter())
            elif data["event"]["eventName"] != "SignIn":
                arrived_s.setdefault(data["event"]["visitID"], time.perf_counter())
