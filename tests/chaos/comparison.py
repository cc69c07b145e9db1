"""Compares the confirmed events with what the suite has stored."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Collection
from typing import Any, Final, NamedTuple

import grpc
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1.history_service_pb2 import ListEventsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2 import GetVisitorRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.checkpoint_store import CheckpointStore
from footfall_eventlog.log import GROUPS, HISTORY_GROUP, stream_key
from footfall_eventlog.stream import PAYLOAD_FIELD
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.reference import Reference
from tests.tools.suite import Suite

STATES: Final = {1: "ANONYMOUS", 2: "RECOGNIZED", 3: "AUTHENTICATED"}
LOG: Final = stream_key(0)
_CONCURRENT_VISITS: Final = 8


class Differences(NamedTuple):
    """Counts that must all be 0, except `lost_with_log` after a fault of the log.

    - `missing`: confirmed events that history has not stored, except those in `lost_with_log`.
    - `twice`: events that are stored more than once.
    - `unknown`: stored events that were never sent.
    - `wrong_attributions`: events with another state, identity or session than the reference has.
    - `wrong_states`: visits whose live state is not that after their last event.
    - `lost_with_log`: confirmed events that the log lost before history had stored them.
    """

    missing: int = 0
    twice: int = 0
    unknown: int = 0
    wrong_attributions: int = 0
    wrong_states: int = 0
    lost_with_log: int = 0

    @property
    def wrong(self) -> int:
        """The events and visits that history or live state has, but not as the reference has them."""
        return self.unknown + self.wrong_attributions + self.wrong_states

    def shortfalls(self) -> list[str]:
        """The counts that must be 0 and are not, in words."""
        counts = self._replace(lost_with_log=0)._asdict()
        return [f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items() if count]

    def plus(self, other: "Differences") -> "Differences":
        """The sums of the counts."""
        return Differences(*map(sum, zip(self, other, strict=True)))


async def drain(suite: Suite, timeout_s: float) -> float:
    """Wait until identity and history have handled the whole log. Returns the seconds. Raises AssertionError.

    Before, both have to notice that MongoDB is another process: if it has gone back, they read the log again.
    """
    started = time.monotonic()
    async with Redis.from_url(suite.redis_url) as redis, AsyncMongoClient[Any](suite.mongo_url) as mongo:
        checkpoints = [mongo["footfall"][f"{name}_checkpoints"] for name in ("identity", "history")]

        async def waiting() -> None:
            for collection in checkpoints:
                server = await CheckpointStore(collection, None).server()
                known = [one["server"] async for one in collection.find()]
                assert known == [server] * len(known), f"MongoDB of {collection.name}: {known}, and now {server}"
            groups = {about["name"].decode(): about for about in await redis.xinfo_groups(LOG)}
            assert groups.keys() >= {*GROUPS}, f"groups of readers: {groups.keys()}"
            left = {name: groups[name]["lag"] or groups[name]["pending"] for name in GROUPS}
            left["slow visits"] = await redis.zcard("slow:{p00}")
            assert not any(left.values()), f"entries still to be read: {left}"

        await eventually(waiting, timeout=timeout_s, every=0.1)
    return time.monotonic() - started


async def events_only_in_log(redis: Any) -> set[str]:
    """The ids of the events in the log that history has not acknowledged. `redis` is a client."""
    [about] = [group for group in await redis.xinfo_groups(LOG) if group["name"] == HISTORY_GROUP.encode()]
    oldest = (await redis.xpending(LOG, HISTORY_GROUP))["min"]
    entries = await redis.xrange(LOG, min=oldest or b"(" + about["last-delivered-id"])
    batches = [EventBatch.FromString(fields[PAYLOAD_FIELD]) for _, fields in entries]
    return {event.event_id for batch in batches for event in batch.events}


async def compare(suite: Suite, reference: Reference, only_in_log: Collection[str] = ()) -> Differences:
    """Compare every visit in history, and its live state, with the reference.

    `only_in_log` has the ids of events that the log has lost, and that history had not stored.
    """
    differences = Differences()
    turns = asyncio.Semaphore(_CONCURRENT_VISITS)
    async with suite.channel("history") as history, suite.channel("identity") as identity:
        stubs = HistoryServiceStub(history), IdentityServiceStub(identity)

        async def compare_one(visit_id: str) -> Differences:
            async with turns:
                return await _compare_visit(*stubs, reference, visit_id, only_in_log)

        for found in await asyncio.gather(*map(compare_one, reference.visits)):
            differences = differences.plus(found)
    return differences


async def _compare_visit(
    history: Any, identity: Any, reference: Reference, visit_id: str, only_in_log: Collection[str]
) -> Differences:
    found = await _found(history.ListEvents(ListEventsRequest(visit_id=visit_id, page_size=1_000), timeout=10))
    events = found.events if found else []
    live = await _found(identity.GetVisitor(GetVisitorRequest(visit_id=visit_id), timeout=10))
    counts = Counter(stored.event.event_id for stored in events)
    sent = reference.visits[visit_id]
    absent = sent.keys() - counts
    # History attributes by the transitions that it has stored; live state may know more.
    stored_part = Reference(visits={visit_id: {each: sent[each] for each in sent.keys() - absent}})
    walk, whole = stored_part.walk(visit_id), reference.walk(visit_id)
    right_states = {whole.last, walk.last if counts else None}
    return Differences(
        missing=len(absent.difference(only_in_log)),
        twice=sum(count > 1 for count in counts.values()),
        unknown=len(counts.keys() - sent),
        wrong_attributions=sum(
            walk.stamps.get(stored.event.event_id) != _triple(stored.stamp)
            for stored in events
            if stored.event.event_id in sent
        ),
        wrong_states=int((live and _triple(live.visitor)) not in right_states),
        lost_with_log=len(absent.intersection(only_in_log)),
    )


async def _found(call: Awaitable[Any]) -> Any | None:
    """The answer of a call; None for NOT_FOUND."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


def _triple(message: Any) -> tuple[str, str, str]:
    return STATES[message.state], message.identity_id, message.session_id
