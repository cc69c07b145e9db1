"""Clients that send beacons until they are answered 2xx, as the tracker does, and record all answers."""

import asyncio
import math
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import httpx
from footfall_timeline import normalize_uuid

from tests.tools.reference import Reference, Sent
from tests.tools.suite import Suite
from tests.tools.visits import PEOPLE, Event, event, now_ms, random_visit, scattered

MAX_EVENTS: Final = 100  # per request, as in the tracker
ANSWER_TIMEOUT_S: Final = 15.0
# Shorter than the tracker's 1 s and 60 s, so that a run of a minute has many retries.
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 3.0
NO_ANSWER: Final = 0
AGE_MS: Final = 120_000
"""How long ago random visits began: they are live, and none of their events is in the future."""


class Answer(NamedTuple):
    """The answer to one request: its times by the monotonic clock in seconds, status, and Retry-After in seconds."""

    began: float
    ended: float
    status: int
    retry_after_s: int

    @property
    def is_documented(self) -> bool:
        """Whether docs/api/beacons.md lists this answer for a valid beacon."""
        return self.status in {204, NO_ANSWER} or (self.status in {429, 503} and self.retry_after_s >= 1)


@dataclass
class Ledger:
    """The confirmed events and all answers of the clients of a run."""

    reference: Reference = field(default_factory=Reference)
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    """The number of events in all requests, repeats included."""

    @property
    def acknowledged(self) -> int:
        """The number of different events that were answered 2xx."""
        return sum(map(len, self.reference.visits.values()))

    def longest_outage_s(self, began: float = 0.0, ended: float = math.inf) -> float:
        """The longest time between two successive confirmations that overlaps this range of the monotonic clock."""
        confirmed = sorted(answer.ended for answer in self.answers if answer.status == 204)
        gaps = [(first, later) for first, later in pairwise(confirmed) if first < ended and later > began]
        return max((later - first for first, later in gaps), default=0.0)

    def shortfalls(self) -> list[str]:
        """What is not as promised of the answers, in words."""
        undocumented = sum(not answer.is_documented for answer in self.answers)
        return [f"undocumented answers to beacons: {undocumented:,}"] if undocumented else []

    def confirm(self, events: Iterable[Event]) -> None:
        """Record events as confirmed."""
        for each in events:
            event_id, user = normalize_uuid(each["eventID"]), each["data"].get("userID", "")
            sent = Sent(each["timestamp"], event_id, each["eventName"], user, each["data"])
            self.reference.visits.setdefault(each["visitID"], {})[event_id] = sent

    async def send(self, http: httpx.AsyncClient, events: list[Event]) -> Answer:
        """Send events in one request. Record them, the answer, and that they are confirmed if the answer is 204."""
        began = time.monotonic()
        self.sent += len(events)
        try:
            # Without `sentAt`: a gateway frozen for long makes a clock seem wrong, and the reference corrects none.
            response = await http.post("/beacon", json=events)
            status, retry_after_s = response.status_code, int(response.headers.get("Retry-After", 0))
        except httpx.TransportError:
            status, retry_after_s = NO_ANSWER, 0
        answer = Answer(began, time.monotonic(), status, retry_after_s)
        self.answers.append(answer)
        if status == 204:
            self.confirm(events)
        return answer


class Client:
    """One browser: it keeps events that were not answered 2xx and sends them again later."""

    def __init__(self, suite: Suite, ledger: Ledger, beacons: Iterator[list[Event]], pause_s: float) -> None:
        """Send `beacons`, with a pause of `pause_s` between confirmed requests."""
        self._suite = suite
        self._ledger = ledger
        self._beacons = beacons
        self._pause_s = pause_s
        self._unconfirmed: list[Event] = []
        self._failures = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until `stopping` is set or there are no more beacons. Returns when all sent events are confirmed."""
        async with self._suite.http(auth=None, timeout=ANSWER_TIMEOUT_S) as http:
            while True:
                if not stopping.is_set():
                    self._unconfirmed += next(self._beacons, [])
                if not self._unconfirmed:
                    return
                await asyncio.sleep(await self._send(http, self._unconfirmed[:MAX_EVENTS]))

    async def _send(self, http: httpx.AsyncClient, events: list[Event]) -> float:
        """Send one request. Returns the seconds until the next."""
        answer = await self._ledger.send(http, events)
        if answer.status == 204:
            self._unconfirmed = self._unconfirmed[len(events) :]
            self._failures = 0
            return self._pause_s
        growing = min(FIRST_PAUSE_S * 2**self._failures, MAX_PAUSE_S)
        self._failures += 1
        return float(max(growing, answer.retry_after_s))


def random_beacons(random_source: random.Random) -> Iterator[list[Event]]:
    """Endless random visits: shuffled, some events twice, a few per beacon. No other visits have these identities."""
    people = [f"{person} {uuid.uuid4().hex}" for person in PEOPLE]
    while True:
        yield from scattered(random_visit(random_source, people, age_ms=AGE_MS), random_source)


def shopping_beacons(random_source: random.Random, events: int) -> Iterator[list[Event]]:
    """Visits of a shop with this many events in all: twenty per visit, a third signs in. Beacons are full."""
    waiting: list[Event] = []
    for _ in range(math.ceil(events / 20)):
        waiting += _shopping_visit(random_source)
        while len(waiting) >= MAX_EVENTS:
            yield waiting[:MAX_EVENTS]
            waiting = waiting[MAX_EVENTS:]
    if waiting:
        yield waiting


def _shopping_visit(random_source: random.Random) -> list[Event]:
    visit_id, at_ms = str(uuid.UUID(int=random_source.getrandbits(128), version=4)), now_ms() - 60_000
    names = ["VisitStarted", *["PageEntered", "AddToCart", "PageExited"] * 6, "PageEntered"]
    if random_source.random() < 1 / 3:
        names[3], names[-2] = "SignIn", "SignOut"
    person = f"person {random_source.randrange(10_000)}"
    return [
        event(name, visit_id, at_ms + 1_000 * number, person if name == "SignIn" else None)
        for number, name in enumerate(names)
    ]
