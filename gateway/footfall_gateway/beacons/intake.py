"""Turns the beacons that leave together into one Collect, and its answer into the outcome of each beacon."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from prometheus_client import Counter

from footfall_gateway import metrics
from footfall_gateway.beacons.envelope import Envelope, Rejection, echo, fitting
from footfall_gateway.beacons.group_commit import Bounds, FullError, GroupCommit
from footfall_gateway.problem import Problem

_CONTEXT_BYTES = 256
"""About what a request's own fields (user agent, origin, address) take on the wire."""
_FULL_RETRY_S = 1
_MS = 1_000_000

_REASONS = {number: name.removeprefix("REJECT_REASON_").lower() for name, number in collector.RejectReason.items()}
_stored = metrics.EVENTS.labels("stored", "")
_suppressed = metrics.EVENTS.labels("suppressed", "")
_unavailable = metrics.EVENTS.labels("unavailable", "")


def now_ms() -> int:
    """The server's clock, in milliseconds since the epoch."""
    return time.time_ns() // _MS


@dataclass(slots=True)
class Sender:
    """What the events of one request have in common: fields of footfall.event.v1.EventContext."""

    received_ms: int
    origin: str = ""
    user_agent: str = ""
    address: str = ""
    traceparent: str = ""
    global_privacy_control: bool = False
    keeps_times: bool = False


class Beacon(NamedTuple):
    """A decoded beacon on its way to the collector."""

    sender: Sender
    envelope: Envelope


class Outcome(NamedTuple):
    """What became of a beacon's events."""

    accepted: int
    rejections: list[Rejection]


class Intake:
    """The one way in for events, whether by beacon or by POST.

    A large body takes the collector much longer than one of a page with a few events, and anybody may send many. So
    these share no group with the others, and have one flight of their own instead of all of theirs.
    """

    def __init__(
        self,
        collect: Callable[[collector.CollectRequest], Awaitable[collector.CollectResponse]],
        bounds: Bounds,
        large_size: int,
    ) -> None:
        """A body of more than `large_size` bytes is large. `bounds` hold for each of the two kinds."""
        self._collect = collect
        self._large_size = large_size
        self._commit: GroupCommit[Beacon, list[Rejection]] = GroupCommit(self._send, bounds)
        self._commit_large: GroupCommit[Beacon, list[Rejection]] = GroupCommit(
            self._send, replace(bounds, groups_in_flight=1)
        )

    async def store(self, sender: Sender, envelope: Envelope, size: int) -> Outcome:
        """Return when every event is on disk or rejected. `size` is that of the body, in bytes.

        Raises:
            Problem: 503, when it is not known of any event that it is stored. Sending the same again is safe.

        """
        for rejection in envelope.rejections:
            metrics.EVENTS.labels("rejected", rejection.reason).inc()
        refused: list[Rejection] = []
        if envelope.events:
            try:
                waiting = self.begin(sender, envelope, size)
            except Problem:
                _unavailable.inc(len(envelope.events))
                raise
            refused = await waiting
        return self.outcome(envelope, refused)

    def begin(self, sender: Sender, envelope: Envelope, size: int) -> asyncio.Future[list[Rejection]]:
        """Begin to store what has events, without waiting. The future holds what `outcome` needs, or raises as `store`.

        Raises:
            Problem: 503, when too much is waiting.

        """
        commit = self._commit if size <= self._large_size else self._commit_large
        try:
            return commit.submit(Beacon(sender, envelope), len(envelope.events), size + _CONTEXT_BYTES)
        except FullError:
            raise Problem(503, "too many events are waiting", retry_s=_FULL_RETRY_S) from None

    def outcome(self, envelope: Envelope, refused: list[Rejection]) -> Outcome:
        """What became of a beacon, now that it is known what the collector refused of it. To be called once."""
        if envelope.dropped:  # told again when the answer is lost
            metrics.CLIENT_DROPPED_EVENTS.inc(envelope.dropped)
        rejections = sorted(envelope.rejections + refused) if refused else envelope.rejections
        return Outcome(len(envelope.events) + len(envelope.rejections) - len(rejections), rejections)

    async def close(self) -> None:
        """Take nothing more, and return when all that was taken has its outcome."""
        await asyncio.gather(self._commit.close(), self._commit_large.close())

    async def _send(self, beacons: list[Beacon]) -> list[list[Rejection]]:
        request = collector.CollectRequest(batch=batch_of(beacons))
        count = len(request.batch.events)
        metrics.BATCH_EVENTS.observe(count)
        try:
            response = await self._answer(request, count)
        except Problem:
            _unavailable.inc(count)
            raise
        if response.stored_count == count:
            _stored.inc(count)
            return [[] for _ in beacons]
        for outcome in response.outcomes:
            _counter(outcome).inc()
        outcomes = iter(response.outcomes)
        return [_rejections(beacon.envelope, outcomes) for beacon in beacons]

    async def _answer(self, request: collector.CollectRequest, count: int) -> collector.CollectResponse:
        with metrics.COLLECT_SECONDS.time():
            response = await self._collect(request)
        if response.stored_count != count and len(response.outcomes) != count:  # no outcome is no promise
            raise Problem(503, "the event log gave no clear answer", retry_s=_FULL_RETRY_S)
        return response


def batch_of(beacons: list[Beacon]) -> EventBatch:
    """The beacons as one batch: a context each, events in order."""
    batch = EventBatch()
    add_context, add_event = batch.contexts.add, batch.events.add
    for index, (sender, envelope) in enumerate(beacons):
        add_context(
            received_time_ms=sender.received_ms,
            sent_time_ms=envelope.sent_ms,
            site=envelope.site,
            origin=sender.origin,
            user_agent=sender.user_agent,
            address=sender.address,
            traceparent=sender.traceparent,
            global_privacy_control=sender.global_privacy_control,
            keeps_times=sender.keeps_times,
        )
        for event in envelope.events:
            add_event(
                event_id=event.event_id,
                event_name=event.event_name,
                visit_id=event.visit_id,
                global_visit_id=event.global_visit_id,
                browser_page_id=event.page_id,
                category=event.category,
                url=event.url,
                language_code=event.language_code,
                timestamp_ms=fitting(event.timestamp or 0),
                data_json=bytes(event.data),
                site=event.site,
                context_index=index,
            )
    return batch


def _rejections(envelope: Envelope, outcomes: Iterator[collector.Outcome]) -> list[Rejection]:
    rejections = []
    for event, position, outcome in zip(envelope.events, envelope.positions, outcomes, strict=False):
        event_id = echo(event.event_id)
        if outcome.status == collector.OUTCOME_STATUS_REJECTED:
            rejections.append(Rejection(position, event_id, _reason(outcome), outcome.message))
        elif outcome.status not in (collector.OUTCOME_STATUS_STORED, collector.OUTCOME_STATUS_SUPPRESSED):
            rejections.append(Rejection(position, event_id, "unavailable", "event: not stored, send it again", True))
    return rejections


def _counter(outcome: collector.Outcome) -> Counter:
    match outcome.status:
        case collector.OUTCOME_STATUS_STORED:
            return _stored
        case collector.OUTCOME_STATUS_SUPPRESSED:
            return _suppressed
        case collector.OUTCOME_STATUS_REJECTED:
            return metrics.EVENTS.labels("rejected", _reason(outcome))
        case _:
            return _unavailable


def _reason(outcome: collector.Outcome) -> str:
    return _REASONS.get(outcome.reason, "rejected")
