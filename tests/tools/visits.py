"""Builders of the events that a page would send, in the envelope of GWE 8.5."""

import random
import time
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

import httpx
from footfall_timeline import Assurance, Kind, Transition, normalize_uuid

from tests.tools.eventually import eventually

Event = dict[str, Any]
AnyEvent = TypeVar("AnyEvent")

PEOPLE = ["ann@shop.example", "Bob", "o'neil/çelik #7 100%", "42"]
KINDS = {"UserInfo": Kind.USER_INFO, "SignIn": Kind.SIGN_IN, "SignOut": Kind.SIGN_OUT}


def now_ms() -> int:
    """The time now, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """An id as the tracker spells it: 32 upper-case hex digits."""
    return uuid.uuid4().hex.upper()


def event(name: str, visit_id: str, at_ms: int, user: str | None = None, **more: Any) -> Event:
    """One event of a visit; `user` becomes `data.userID`, `more` are further keys of the envelope."""
    data = more.pop("data", {}) | ({"userID": user} if user is not None else {})
    return {
        "eventName": name,
        "eventID": new_id(),
        "pageID": "8D116ECE173847D9BD9C172411E20B8F",
        "timestamp": at_ms,
        "category": "loans;cars",
        "url": "https://shop.example/loans",
        "languageCode": "en-US",
        "visitID": visit_id,
        "data": data,
    } | more


async def live_state(http: httpx.AsyncClient, visit_id: str, **headers: str) -> dict[str, Any]:
    """The live state of a visit, which a visit that names no person has a moment after its beacon is answered."""

    async def found() -> dict[str, Any]:
        answer = await http.get(f"/api/v1/visits/{visit_id}/visitor", headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return await eventually(found)


def random_visit(
    chance: random.Random, known: Sequence[str] = PEOPLE, *, longest: int = 24, age_ms: int = 3_600_000
) -> list[Event]:
    """The events of one visit in order: pages and clicks, among them people signing in and out as they like.

    It began `age_ms` ago.
    """
    visit_id = str(uuid.uuid4())  # of no seed: tests with the same one share suites
    people = chance.sample(known, chance.randint(1, 3))
    at_ms = now_ms() - age_ms
    events = [event("VisitStarted", visit_id, at_ms)]
    for _ in range(chance.randint(2, longest)):
        # Now and then two events in the same millisecond, so that the event id decides.
        at_ms += chance.choice([0, 1, 250, 4_000])
        name = chance.choice(["PageEntered", "PageExited", "AddToCart", "UserInfo", "SignIn", "SignOut"])
        user = chance.choice(people) if name in {"UserInfo", "SignIn"} else None
        events.append(event(name, visit_id, at_ms, user))
    return events


def scattered(events: list[AnyEvent], chance: random.Random) -> list[list[AnyEvent]]:
    """The events as a bad network brings them: shuffled, some twice, in beacons of one to four."""
    arriving = events + chance.sample(events, chance.randint(0, len(events) // 2))
    chance.shuffle(arriving)
    beacons = []
    while arriving:
        size = chance.randint(1, 4)
        beacons.append(arriving[:size])
        arriving = arriving[size:]
    return beacons


def transitions(events: list[Event]) -> list[Transition]:
    """What the events do to their visit's timeline, as admission sees it without a sign-in key."""
    return [
        Transition(
            e["timestamp"],
            normalize_uuid(e["eventID"]),
            KINDS[e["eventName"]],
            Assurance.CLAIMED if "userID" in e["data"] else Assurance.NONE,
            e["data"].get("userID", ""),
        )
        for e in events
        if e["eventName"] in KINDS
    ]
