"""Builders of admitted events, for tests of identity."""

import json
import random
import uuid
from collections.abc import Iterable
from typing import Any

from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.stream import Entry
from footfall_identity.settings import IdentitySettings
from footfall_identity.visit_record import VisitRecord, visit_updates
from footfall_identity.visitor_store import VisitorStore
from footfall_timeline import Assurance, Kind, Timeline, merge, partition

from tests.tools.visits import now_ms

ERASURE_KEY = "erasure key of the tests"
DAY_MS = 86_400_000
KEEP_MS = 8 * DAY_MS
IDLE_MS = 30 * 60_000
LEAVE_MS = 5_000
SHORT_MS = 120 * 60_000
PARTITIONS = 3
ATTRIBUTE_NAMES = IdentitySettings.model_validate({"never_erase": True}).link_policy.names
"""The default names."""

KINDS = {"UserInfo": Kind.USER_INFO, "SignIn": Kind.SIGN_IN, "SignOut": Kind.SIGN_OUT}


def new_id() -> str:
    """Return a new id in stored form."""
    return str(uuid.uuid4())


def admitted(name: str, visit_id: str, at_ms: int, user: str = "", **more: Any) -> Event:
    """Return one event of a visit. `data` is a dict; other keywords replace fields of the message."""
    data = more.pop("data", {}) | ({"userID": user} if user else {})
    kind = KINDS.get(name)
    fields: dict[str, Any] = {
        "event_id": new_id(),
        "event_name": name,
        "event_type": event_pb2.EVENT_TYPE_SYSTEM,
        "visit_id": visit_id,
        "global_visit_id": "6513270e-269e-4d37-b2a7-4de452e6b438",
        "url": "https://shop.example/loans",
        "site": "default",
        "timestamp_ms": at_ms,
        "event_time_ms": at_ms,
        "data_json": json.dumps(data).encode(),
        "transition": kind.value if kind else 0,
        "identity_id": user,
        "assurance": Assurance.CLAIMED.value if user else 0,
    }
    return Event(**(fields | more))


def random_visit(chance: random.Random, people: list[str], *, length: int = 20) -> list[Event]:
    """Return the events of one visit in order: pages, and people who sign in and out."""
    visit_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    at_ms = now_ms() - 600_000
    events = [admitted("VisitStarted", visit_id, at_ms)]
    for number in range(length):
        at_ms += chance.choice([0, 1, 250, 4_000])  # at equal times, the event id decides
        name = chance.choice(["PageEntered", "UserInfo", "SignIn", "SignOut"])
        user = chance.choice(people) if name in {"UserInfo", "SignIn"} else ""
        data = {chance.choice(["name", "a.b", "$c", "location"]): number} if user else {}
        events.append(admitted(name, visit_id, at_ms, user, url=f"https://shop.example/{number}", data=data))
    return events


def timeline_of(events: Iterable[Event]) -> Timeline:
    """Return the timeline of these events of one visit, by the rules alone."""
    return merge(transition for transition in map(transition_of, events) if transition)


def key(kind: str, visit_id: str) -> str:
    """Return the name of a key of a visit's partition."""
    return f"{kind}:{{p{partition(visit_id, PARTITIONS):02d}}}"


async def resolve(store: VisitorStore, *events: Event) -> list[VisitRecord]:
    """Merge events as ResolveEvents does; return the visits whose timeline changed."""
    changed = await store.merge(visit_updates((event, transition_of(event)) for event in events))
    return [*(await store.get(changed)).values()]


def entry(*events: Event) -> Entry:
    """Return an entry of the log as a consumer gets it."""
    return Entry("1-0", EventBatch(events=events).SerializeToString())


async def append(redis: Any, *events: Event) -> None:
    """Append events to the log, one entry per visit."""
    for visit_id in {event.visit_id: None for event in events}:
        batch = EventBatch(events=[event for event in events if event.visit_id == visit_id])
        await redis.xadd(key("log", visit_id), {"b": batch.SerializeToString()})
