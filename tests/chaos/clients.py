"""Turns visits into beacons that are sent until they are answered 2xx, as the tracker sends them, and notes answers."""

import asyncio
import math
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import httpx
from footfall_timeline import normalize_uuid

from tests.tools.reference import Reference, Sent
from tests.tools.suite import Suite
from tests.tools.visits import PEOPLE, Event, event, now_ms, random_visit, scattered

MOST_EVENTS: Final = 100  # of one request, as the tracker has it
ANSWER_TIMEOUT_S: Final = 15.0
# Shorter than the tracker's 1 s and 60 s, so that a run of a minute has many retries.
FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 3.0
NO_ANSWER: Final = 0


class Answer(NamedTuple):
    """One request by the monotonic clock in seconds, its status, and the seconds to wait that came with it."""

    began: float
    ended: float
    status: int
    retry_after_s: int

    @property
    def is_fit(self) -> bool:
        """Whether it is one that docs/api/beacons.md knows for a beacon without faults."""
        return self.status in {204, NO_ANSWER} or (self.status in {429, 503} and self.retry_after_s >= 1)


@dataclass
class Ledger:
    """What all clients of a run have had confirmed, and what they were answered."""

    reference: Reference = field(default_factory=Reference)
    answers: list[Answer] = field(default_factory=list)
    longest_outage_s: float = 0.0

    @property
    def acknowledged(self) -> int:
        """Events that were answered 2xx, each counted once."""
        return sum(map(len, self.reference.visits.values()))

    def confirm(self, events: Iterable[Event]) -> None:
        """Note events as promised to be stored."""
        for each in events:
            event_id, user = normalize_uuid(each["eventID"]), each["data"].get("userID", "")
            sent = Sent(each["timestamp"], event_id, each["eventName"], user, each["data"])
            self.reference.visits.setdefault(each["visitID"], {})[event_id] = sent


class Client:
    """One browser: what was not answered 2xx it keeps, and sends the same again later."""

    def __init__(self, suite: Suite, ledger: Ledger, beacons: Iterator[list[Event]], pause_s: float) -> None:
        """Send what `beacons` brings, with so long a pause between requests while all is well."""
        self._suite = suite
        self._ledger = ledger
        self._beacons = beacons
        self._pause_s = pause_s
        self._waiting: list[Event] = []
        self._failures = 0
        self._failing_since = 0.0

    async def run(self, leaving: asyncio.Event) -> None:
        """Send until told to leave, or until there is nothing more; return when all that was begun is confirmed."""
        async with self._suite.http(auth=None, timeout=ANSWER_TIMEOUT_S) as http:
            while True:
                if not leaving.is_set():
                    self._waiting += next(self._beacons, [])
                if not self._waiting:
                    return
                await asyncio.sleep(await self._send(http, self._waiting[:MOST_EVENTS]))

    async def _send(self, http: httpx.AsyncClient, events: list[Event]) -> float:
        """Send one request; return the seconds until the next."""
        began = time.monotonic()
        try:
            # Without `sentAt`: a gateway frozen for long makes a clock seem wrong, and the reference corrects none.
            answer = await http.post("/beacon", json=events)
            status, retry_after_s = answer.status_code, int(answer.headers.get("Retry-After", 0))
        except httpx.TransportError:
            status, retry_after_s = NO_ANSWER, 0
        self._ledger.answers.append(Answer(began, ended := time.monotonic(), status, retry_after_s))
        if status == 204:
            self._ledger.confirm(events)
            self._waiting = self._waiting[len(events) :]
            if self._failures:
                self._ledger.longest_outage_s = max(self._ledger.longest_outage_s, ended - self._failing_since)
            self._failures = 0
            return self._pause_s
        self._failing_since = self._failing_since if self._failures else began
        growing = min(FIRST_PAUSE_S * 2**self._failures, MAX_PAUSE_S)
        self._failures += 1
        return float(max(growing, retry_after_s))


def random_beacons(chance: random.Random) -> Iterator[list[Event]]:
    """Random visits without end: shuffled, some events twice, a few in each beacon. Nobody else knows their people."""
    people = [f"{person} {uuid.uuid4().hex}" for person in PEOPLE]
    while True:
        yield from scattered(random_visit(chance, people), chance)


def shopping_beacons(chance: random.Random, events: int) -> Iterator[list[Event]]:
    """So many events of visits as a shop has them: twenty events, one in three signs in. As many in a beacon as fit."""
    waiting: list[Event] = []
    for _ in range(math.ceil(events / 20)):
        waiting += _shopping_visit(chance)
        while len(waiting) >= MOST_EVENTS:
            yield waiting[:MOST_EVENTS]
            waiting = waiting[MOST_EVENTS:]
    if waiting:
        yield waiting


def _shopping_visit(chance: random.Random) -> list[Event]:
    visit_id, at_ms = str(uuid.UUID(int=chance.getrandbits(128), version=4)), now_ms() - 60_000
    names = ["VisitStarted", *["PageEntered", "AddToCart", "PageExited"] * 6, "PageEntered"]
    if chance.random() < 1 / 3:
        names[3], names[-2] = "SignIn", "SignOut"
    person = f"person {chance.randrange(10_000)}"
    return [
        event(name, visit_id, at_ms + 1_000 * number, person if name == "SignIn" else None)
        for number, name in enumerate(names)
    ]
