"""Turns what was confirmed and what the suite now says into how much of it is not as promised."""

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
_AT_ONCE: Final = 8


class Verdict(NamedTuple):
    """Counts of events, and of visits for `wrong_states`. All must be 0.

    `missing`: confirmed and not in history. `twice`: there more than once. `unknown`: there and never sent.
    `wrong_stamps`: stored with another state, identity or session than the reference has. `wrong_states`: visits whose
    live state is another than that after their last event.
    """

    missing: int = 0
    twice: int = 0
    unknown: int = 0
    wrong_stamps: int = 0
    wrong_states: int = 0

    def plus(self, other: "Verdict") -> "Verdict":
        """The sums."""
        return Verdict(*map(sum, zip(self, other, strict=True)))


async def drain(suite: Suite, timeout_s: float) -> float:
    """Wait until identity and history are done with the whole log; return the seconds. Raises AssertionError."""
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


async def judge(suite: Suite, reference: Reference) -> Verdict:
    """Compare every visit in history, and its live state, with the reference."""
    verdict = Verdict()
    turns = asyncio.Semaphore(_AT_ONCE)
    async with suite.channel("history") as history, suite.channel("identity") as identity:
        stubs = HistoryServiceStub(history), IdentityServiceStub(identity)

        async def judge_one(visit_id: str) -> Verdict:
            async with turns:
                return await _judge_visit(*stubs, reference, visit_id)

        for found in await asyncio.gather(*map(judge_one, reference.visits)):
            verdict = verdict.plus(found)
    return verdict


async def _judge_visit(history: Any, identity: Any, reference: Reference, visit_id: str) -> Verdict:
    walk = reference.walk(visit_id)
    answer = await history.ListEvents(ListEventsRequest(visit_id=visit_id, page_size=1_000), timeout=10)
    counts = Counter(stored.event.event_id for stored in answer.events)
    visitor = (await identity.GetVisitor(GetVisitorRequest(visit_id=visit_id), timeout=10)).visitor
    return Verdict(
        missing=len(walk.stamps.keys() - counts),
        twice=sum(count > 1 for count in counts.values()),
        unknown=len(counts.keys() - walk.stamps),
        wrong_stamps=sum(
            walk.stamps.get(stored.event.event_id) != _triple(stored.stamp)
            for stored in answer.events
            if stored.event.event_id in walk.stamps
        ),
        wrong_states=int(_triple(visitor) != walk.last),
    )


def _triple(message: Any) -> tuple[str, str, str]:
    return STATES[message.state], message.identity_id, message.session_id
