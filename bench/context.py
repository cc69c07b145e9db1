"""Contexts of customers: how long `/api/v1/context` takes beside beacons, and the CPU of a call."""

import asyncio
import random
import re
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
from footfall_eventlog.stream import PAYLOAD_FIELD

from bench.live import Delays
from bench.load import Load, Profile, run
from bench.meter import Meter
from tests.tools.history import entry
from tests.tools.suite import PROGRAMS, Suite
from tests.tools.visits import Event, event, new_id, now_ms

CALLS_A_SECOND: Final = 50
EVENTS_A_SECOND: Final = 200
PROFILE: Final = Profile("context", 1, 16, sign_in_share=0.05)
PEOPLE: Final = 100
VISITS: Final = (600_000, 20_000_000)
"""How long ago the visits of a person began, in milliseconds: one goes on, the other one was earlier that day."""
PAGES_A_VISIT: Final = 12
EXPECTED: Final = (1, 1, 10, 8)
"""Identities, live visits, pages and business events of an answer."""


@dataclass(frozen=True)
class Contexts:
    """Delays of calls beside beacons, how many had not everything, and the CPU of a call without beacons.

    The CPU is in microseconds, by program.
    """

    load: Load
    delays: Delays
    incomplete: int
    cpu_us: dict[str, float]


def measure(suite: Suite, meter: Meter, seconds: int) -> Contexts:
    """Let people visit the site, then ask for them in turn, beside beacons and without."""
    asyncio.run(_fill(suite, meter.redis))
    meter.drain("history", "identity", "identity-live")
    asyncio.run(_calls(suite, 2))  # to warm up
    load, calls = asyncio.run(_beside_beacons(suite, seconds))
    meter.drain("history", "identity")
    before = meter.state().cpu_s
    alone = asyncio.run(_calls(suite, seconds))
    after = meter.state().cpu_s
    cpu_us: dict[str, float] = {name: (after[name] - before[name]) / len(alone) * 1e6 for name in PROGRAMS}
    incomplete = sum(not is_complete for _, is_complete in calls)
    return Contexts(load, Delays.of([took_ms for took_ms, _ in calls]), incomplete, cpu_us)


def _phone(number: int) -> str:
    return f"+49301{number:07}"


def _visit(number: int, at_ms: int) -> Iterator[Event]:
    """The events of a visit of a person: pages and business events, of which the first come before the sign-in."""
    visit_id = str(uuid.uuid4())
    for page in range(PAGES_A_VISIT):
        about = {"pageID": new_id(), "url": f"https://www.shop.example/section-{page}/{number}.html"}
        entered_ms = at_ms + page * 20_000
        yield event("PageEntered", visit_id, entered_ms, data={"title": f"Article {page}"}, **about)
        if page == 1:
            yield event("SignIn", visit_id, entered_ms + 1_000, f"person-{number}@shop.example", **about)
        if page % 3 == 0:
            yield event("AddToCart", visit_id, entered_ms + 2_000, data={"sku": f"A-{page}"}, **about)
        yield event("PageExited", visit_id, entered_ms + 19_000, **about)


async def _fill(suite: Suite, redis: Any) -> None:
    async with suite.http() as http:
        for number in range(PEOPLE):
            contact = {"emailAddresses": [f"person-{number}@shop.example"], "phoneNumbers": [_phone(number)]}
            (await http.put(f"/api/v1/contacts/c-{number}", json=contact)).raise_for_status()
    # Into the log, as if each event had been received when it happened.
    now = now_ms()
    for number in range(PEOPLE):
        for age_ms in VISITS:
            events = [*_visit(number, now - age_ms)]
            batch = entry(events, received_time_ms=events[-1]["timestamp"])
            redis.xadd("log:{p00}", {PAYLOAD_FIELD: batch.SerializeToString()})


async def _beside_beacons(suite: Suite, seconds: int) -> tuple[Load, list[tuple[float, bool]]]:
    pause_ms = PROFILE.connections / EVENTS_A_SECOND * 1000
    beacons = asyncio.to_thread(run, suite.url, PROFILE, seconds, pause_ms=pause_ms)
    return await asyncio.gather(beacons, _calls(suite, seconds))


async def _calls(suite: Suite, seconds: int) -> list[tuple[float, bool]]:
    """Ask at a fixed rate for one person after another, also while earlier answers are late."""
    chance = random.Random(5)  # noqa: S311 - who is asked for is no secret
    caller = _Caller(suite)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in count():
            due_s = started + number / CALLS_A_SECOND
            if due_s - started >= seconds:
                break
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.append(group.create_task(_call(caller, chance.randrange(PEOPLE), due_s)))
    caller.close()
    return [task.result() for task in tasks]


async def _call(caller: "_Caller", number: int, due_s: float) -> tuple[float, bool]:
    """Ask for one person; return the milliseconds since the call was due, and whether everything was there."""
    answer = await caller.get(f"/api/v1/context?phone={quote(_phone(number), safe='')}")
    took_ms = (time.perf_counter() - due_s) * 1000
    found = msgspec.json.decode(answer)
    counts = len(found["identities"]), len(found["visits"]), len(found["pages"]), len(found["events"])
    return took_ms, counts == EXPECTED and not found["unavailableParts"]


class _Caller:
    """Asks the gateway over connections that it keeps. httpx would take more of the same cores than the gateway."""

    def __init__(self, suite: Suite) -> None:
        self._url = urlsplit(suite.url)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        given = b64encode(":".join(suite.credentials).encode()).decode()
        self._head = f" HTTP/1.1\r\nHost: {self._url.netloc}\r\nAuthorization: Basic {given}\r\n\r\n"

    async def get(self, path: str) -> bytes:
        """Return the body of a 200. Raises RuntimeError for another status."""
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()
        reader, writer = (
            self._free.pop() if self._free else await asyncio.open_connection(self._url.hostname, self._url.port)
        )
        writer.write(f"GET {path}{self._head}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not head.startswith(b"HTTP/1.1 200 ") or not length:
            raise RuntimeError(f"not answered: {head!r}")
        body = await reader.readexactly(int(length[1]))
        self._free.append((reader, writer))
        return body

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._free:
            writer.close()
