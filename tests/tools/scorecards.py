"""Random visits of several websites, what the log brings of them, and the count of their scorecards by plain Python.

The count shares no code with Footfall: it takes the reference model's walk of each visit.
"""

import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

import httpx
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_history.storage.store import Store
from footfall_timeline import normalize_uuid

from tests.tools.batches import batch, context
from tests.tools.eventually import eventually
from tests.tools.history import logged
from tests.tools.reference import Reference, Sent
from tests.tools.suite import Suite
from tests.tools.visits import now_ms, random_visit

REASONS = {
    "undefined": "IGNORED_REASON_PLACEHOLDER",
    " N/A ": "IGNORED_REASON_PLACEHOLDER",
    "info@shop.example": "IGNORED_REASON_PLACEHOLDER",  # of a policy file, so it is not named
    "{{user.id}}": "IGNORED_REASON_TEMPLATE",
    "": "IGNORED_REASON_BLANK",
}
"""User ids of no person, with the reason that admission gives."""
NAMED = {"undefined": "undefined", " N/A ": "n/a"}
"""The placeholders of the default list among them."""
DELAYS_MS = (20, 2_000, 299_000, 301_000, 3_700_000, 90_000_000)
PEOPLE = [f"person-{number}@shop.example" for number in range(9)]


class Copy(NamedTuple):
    """An event as it arrived with one request."""

    event: Event
    received_ms: int


@dataclass
class Website:
    """What was sent from one website: the reference model of it, and all copies of its events."""

    name: str
    model: Reference = field(default_factory=Reference)
    devices: dict[str, str] = field(default_factory=dict)
    proven: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)

    def visit(self, chance: random.Random, devices: list[str], age_ms: int) -> None:
        """A random visit on one of these devices that began so long ago; "" is a device that is not known."""
        device = chance.choice(devices)
        for sent in random_visit(chance, PEOPLE, age_ms=age_ms):
            more: dict[str, Any] = {"site": self.name, "global_visit_id": device}
            is_named = sent["eventName"] in {"SignIn", "UserInfo"}
            if is_named and chance.random() < 0.2:
                user = sent["data"]["userID"] = chance.choice([*REASONS])
                reason = event_pb2.IgnoredReason.Value(REASONS[user])
                more |= {"ignored_reason": reason, "transition": 0, "identity_id": "", "assurance": 0}
            elif sent["eventName"] == "SignIn" and chance.random() < 0.4:
                more["assurance"] = event_pb2.ASSURANCE_PROVEN
            self._send(logged(sent, **more), sent, chance)
            self.devices[normalize_uuid(sent["visitID"])] = device

    def _send(self, event: Event, sent: dict[str, Any], chance: random.Random) -> None:
        model = self.model.visits.setdefault(event.visit_id, {})
        user = sent["data"].get("userID", "")
        is_ignored = bool(event.ignored_reason)
        model[event.event_id] = Sent(
            event.event_time_ms, event.event_id, event.event_name, "" if is_ignored else user, {}, "", is_ignored
        )
        if is_ignored:
            self.ignored[event.event_id] = user
        if event.assurance == event_pb2.ASSURANCE_PROVEN:
            self.proven.add(event.event_id)
        received_ms = event.event_time_ms + chance.choices(DELAYS_MS, [20, 20, 1, 1, 1, 1])[0]
        self.copies.append(Copy(event, received_ms))
        if chance.random() < 0.05:  # the same entry of the log, read again
            self.copies.append(Copy(event, received_ms))
        if chance.random() < 0.05:
            again = Event()
            again.CopyFrom(event)
            if event.event_name == "AddToCart" and chance.random() < 0.5:
                again.data_json = b'{"other":1}'
            self.copies.append(Copy(again, received_ms + chance.choice([1, 400_000])))

    def counted(self) -> dict[str, dict[str, Any]]:
        """The counts of each day, with the names of `Tally.document`."""
        days: dict[str, list[str]] = defaultdict(list)
        for visit_id in self.model.visits:
            first_ms = min(sent.at_ms for sent in self.model.visits[visit_id].values())
            days[datetime.fromtimestamp(first_ms / 1000, UTC).strftime("%Y-%m-%d")].append(visit_id)
        return {day: self._count(visits) for day, visits in days.items()}

    def _count(self, visits: list[str]) -> dict[str, Any]:
        states, reasons, placeholders, late = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
        proven = ignored = repeated = conflicts = 0
        waits: list[float] = []
        identities, devices = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for visit_id in visits:
            walk, events = self.model.walk(visit_id), sorted(self.model.visits[visit_id].values())
            seen = {state for state, _, _ in walk.stamps.values()}
            states[next(one for one in ("AUTHENTICATED", "RECOGNIZED", "ANONYMOUS") if one in seen)] += 1
            proven += any(event.event_id in self.proven for event in events)
            naming = [event.at_ms for event in events if event.user]
            if naming:
                waits.append((naming[0] - events[0].at_ms) / 1000)
            if device := self.devices[visit_id]:
                for person in walk.scopes:
                    identities[device].add(person)
                    devices[person].add(device)
            users = [self.ignored[event.event_id] for event in events if event.event_id in self.ignored]
            ignored += bool(users)
            reasons.update({REASONS[user] for user in users})
            placeholders.update({NAMED[user] for user in users if user in NAMED})
            copies = [copy for copy in self.copies if copy.event.visit_id == visit_id]
            longest = max((copy.received_ms - copy.event.event_time_ms) / 1000 for copy in copies)
            late[next((name for name, s in (("day", 86_400), ("hour", 3_600), ("5 min", 300)) if longest > s), "")] += 1
            by_id = defaultdict[str, list[Copy]](list)
            for copy in copies:
                by_id[copy.event.event_id].append(copy)
            repeated += any(len({copy.received_ms for copy in same}) > 1 for same in by_id.values())
            conflicts += any(len({copy.event.data_json for copy in same}) > 1 for same in by_id.values())
        return {
            "states": [states[name] for name in ("ANONYMOUS", "RECOGNIZED", "AUTHENTICATED")],
            "proven": proven,
            "recognition": up_to(waits, 1, 10, 60, 300, 1_800, 3_600),
            "identities_per_device": up_to([len(found) for found in identities.values()], 1, 2, 3, 5, 10, 20),
            "devices_per_identity": up_to([len(found) for found in devices.values()], 1, 2, 3, 5, 10, 20),
            "ignored": ignored,
            "ignored_by_reason": sorted(
                [str(event_pb2.IgnoredReason.Value(name)), count] for name, count in reasons.items()
            ),
            "placeholders": sorted([name, count] for name, count in placeholders.items()),
            "late": [late[name] for name in ("5 min", "hour", "day")],
            "repeated": repeated,
            "conflicts": conflicts,
        }


def up_to(values: list[Any], *bounds: int) -> list[int]:
    """How many values are at most each bound and more than the one before, and how many are more than all."""
    edges = [float("-inf"), *bounds, float("inf")]
    return [sum(low < value <= high for value in values) for low, high in pairwise(edges)]


def arriving(websites: list[Website], chance: random.Random) -> list[EventBatch]:
    """All copies in random order, in entries of one to five, each with the request that brought it."""
    copies = [copy for website in websites for copy in website.copies]
    chance.shuffle(copies)
    entries = []
    while copies:
        part = [copies.pop() for _ in range(min(len(copies), chance.randint(1, 5)))]
        events = []
        for number, copy in enumerate(part):
            event = Event()
            event.CopyFrom(copy.event)
            event.context_index = number
            events.append(event)
        entries.append(batch(*events, contexts=[context(received_time_ms=copy.received_ms) for copy in part]))
    return entries


def random_websites(chance: random.Random, *, visits: int = 12) -> list[Website]:
    """Two websites with random visits of the last days, on few devices. Their names are of no other test."""
    devices = ["", *(str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(4))]
    websites = [Website(f"{name}-{uuid.uuid4().hex[:8]}") for name in ("bank", "shop")]
    for website in websites:
        for _ in range(visits):
            website.visit(chance, devices, age_ms=chance.randint(26, 80) * 3_600_000)
    return websites


def day_of_ms(at_ms: int | None = None) -> str:
    """The day of a time, of now by default, in UTC."""
    return datetime.fromtimestamp((now_ms() if at_ms is None else at_ms) / 1000, UTC).strftime("%Y-%m-%d")


async def recount(suite: Suite, day: str) -> None:
    """Let history count a day again now, as after an import: without a reason it does so once a day."""
    store = Store.open(suite.mongo_url, suite.environment.get("MONGO_DATABASE", "footfall"), 20_000)
    await store.note_changed_days([day], now_ms())
    await store.close()
    suite.kill("history")


async def send_past(http: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    """Let a page send events of the past by a clock that is right, and wait until history has them."""
    answer = await http.post("/beacon", json={"sentAt": now_ms(), "events": [*events]})
    assert answer.is_success, answer.text

    async def stored() -> None:
        for event in events:
            assert (await http.get(f"/server/data/events/{event['eventID']}")).status_code == 200

    await eventually(stored, timeout=20)
