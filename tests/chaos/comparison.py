"""Compares the confirmed events with what the suite has stored."""

import asyncio
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from footfall.history.v1.history_service_pb2 import ListEventsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2 import GetVisitorRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.reference import Reference
from tests.tools.suite import Suite

STATES: Final = {1: "ANONYMOUS", 2: "RECOGNIZED", 3: "AUTHENTICATED"}
LOG: Final = "log:{p00}"
_CONCURRENT_VISITS: Final = 8


class Differences(NamedTuple):
    """Counts that must all be 0.

    - `missing`: confirmed events that history has not stored.
    - `twice`: events that are stored more than once.
    - `unknown`: stored events that were never sent.
    - `wrong_attributions`: events with another state, identity or session than the reference has.
    - `wrong_states`: visits whose live state is not that after their last event.
    """

    missing: int = 0
    twice: int = 0
    unknown: int = 0
    wrong_attributions: int = 0
    wrong_states: int = 0

    def plus(self, other: "Differences") -> "Differences":
        """The sums of the counts."""
        return Differences(*map(sum, zip(self, other, strict=True)))


async def drain(suite: Suite, timeout_s: float) -> float:
    """Wait until identity and history have handled the whole log. Returns the seconds. Raises AssertionError."""
    started = time.monotonic()
    async with Redis.from_url(suite.redis_url) as redis:

        async def waiting() -> None:
            groups = {about["name"]: about for about in await redis.xinfo_groups(LOG)}
            left = {
                name: groups[name]["lag"] or groups[name]["pending"]
                for name in (b"identity", b"identity-live", b"history")
            }
            left[b"slow visits"] = await redis.zcard("slow:{p00}")
            assert not any(left.values()), f"entries still to be read: {left}"

        await eventually(waiting, timeout=timeout_s, every=0.1)
    return time.monotonic() - started


async def compare(suite: Suite, reference: Reference) -> Differences:
    """Compare every visit in history, and its live state, with the reference."""
    differences = Differences()
    turns = asyncio.Semaphore(_CONCURRENT_VISITS)
    async with suite.channel("history") as history, suite.channel("identity") as identity:
        stubs = HistoryServiceStub(history), IdentityServiceStub(identity)

        async def compare_one(visit_id: str) -> Differences:
            async with turns:
                return await _compare_visit(*stubs, reference, visit_id)

        for found in await asyncio.gather(*map(compare_one, reference.visits)):
            differences = differences.plus(found)
    return differences


async def _compare_visit(history: Any, identity: Any, reference: Reference, visit_id: str) -> Differences:
    walk = reference.walk(visit_id)
    answer = await history.ListEvents(ListEventsRequest(visit_id=visit_id, page_size=1_000), timeout=10)
    counts = Counter(stored.event.event_id for stored in answer.events)
    visitor = (await identity.GetVisitor(GetVisitorRequest(visit_id=visit_id), timeout=10)).visitor
    return Differences(
        missing=len(walk.stamps.keys() - counts),
        twice=sum(count > 1 for count in counts.values()),
        unknown=len(counts.keys() - walk.stamps),
        wrong_attributions=sum(
            walk.stamps.get(stored.event.event_id) != _triple(stored.stamp)
            for stored in answer.events
            if stored.event.event_id in walk.stamps
        ),
        wrong_states=int(_triple(visitor) != walk.last),
    )


def _triple(message: Any) -> tuple[str, str, str]:
    return STATES[message.state], message.identity_id, message.session_id
