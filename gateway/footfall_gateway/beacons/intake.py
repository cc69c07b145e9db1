"""Sends beacons to the collector in batches, and distributes the outcomes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch, IgnoredReason
from footfall_eventlog.events import TRANSITION_KINDS
from footfall_servicekit import logs, tracing
from prometheus_client import Counter

from footfall_gateway import metrics
from footfall_gateway.addresses import network
from footfall_gateway.beacons.batcher import Batcher, Bounds, QueueFullError
from footfall_gateway.beacons.envelope import Envelope, IgnoredUserId, Rejection, shortened_id, to_int64
from footfall_gateway.beacons.fair_lane import FairLane
from footfall_gateway.problem import Problem
from footfall_gateway.recent import RECENT

_CONTEXT_BYTES = 256
"""Approximate size of a request's own fields (user agent, origin, address) on the wire."""
_FULL_RETRY_S = 1

REASONS = {
    number: name.removeprefix("REJECT_REASON_").lower() for name, number in collector.RejectReason.items() if number
}
"""Names of the reasons for a rejection, in answers and metrics."""
IGNORED_REASONS = {
    number: name.removeprefix("IGNORED_REASON_").lower() for name, number in IgnoredReason.items() if number
}
"""Names of the reasons why a user id names no person, in answers."""
_stored = metrics.EVENTS.labels("stored", "")
_suppressed = metrics.EVENTS.labels("suppressed", "")
_unavailable = metrics.EVENTS.labels("unavailable", "")


def now_ms() -> int:
    """The server's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Sender:
    """The context that the events of one request share: fields of footfall.event.v1.EventContext."""

    received_ms: int
    origin: str = ""
    user_agent: str = ""
    address: str = ""
    traceparent: str = ""
    global_privacy_control: bool = False
    keeps_times: bool = False
    is_staff: bool = False


class Beacon(NamedTuple):
    """A decoded beacon with its sender."""

    sender: Sender
    envelope: Envelope


Finding = Rejection | IgnoredUserId
"""What the collector reports of an event other than that it is stored."""


class Outcome(NamedTuple):
    """The outcome of a beacon's events. `ignored` are stored events whose user ids name no person."""

    accepted: int
    rejections: list[Rejection]
    ignored: list[IgnoredUserId]


class Intake:
    """Stores events of beacons and of POSTs.

    The collector needs much longer for a large body than for a page's few events, and before it answers a SignIn,
    UserInfo or SignOut, it waits for identity. Both kinds of beacons are therefore sent apart, so that they do not
    delay the others. Large bodies are sent for a limited share of the time, because all services behind the gateway
    need longer for them, and their addresses take turns.
    """

    def __init__(
        self,
        collect: Callable[[collector.CollectRequest], Awaitable[collector.CollectResponse]],
        bounds: Bounds,
        large_size: int,
        large_share: float,
    ) -> None:
        """A body of more than `large_size` bytes is large, and such are sent for `large_share` of the time.

        The `bounds` apply to each of the three kinds of beacons.
        """
        self._collect = collect
        self._large_size = large_size
        self._batcher: Batcher[Beacon, list[Finding]] = Batcher(self._send, bounds)
        self._identifying_batcher: Batcher[Beacon, list[Finding]] = Batcher(self._send, bounds)
        self._large_lane: FairLane[Beacon, list[Finding]] = FairLane(self._send, bounds, large_share)

    async def store(self, sender: Sender, envelope: Envelope, size: int) -> Outcome:
        """Return when every event is on disk or rejected. `size`: bytes of the body.

        Raises:
            Problem: 503, no event is known to be stored. The beacon may be sent again.

        """
        return self.outcome(envelope, await self.begin(sender, envelope, size))

    def begin(self, sender: Sender, envelope: Envelope, size: int) -> asyncio.Future[list[Finding]]:
        """Begin to store a beacon. The future returns the findings for `outcome`.

        Raises:
            Problem: 503, too much is waiting. The future raises as `store` does.

        """
        for rejection in envelope.rejections:
            metrics.EVENTS.labels("rejected", rejection.reason).inc()
            RECENT.note_refused(rejection.reason, envelope.site or "", "", rejection.message)
        count = len(envelope.events)
        if not count:
            refused = asyncio.get_running_loop().create_future()
            refused.set_result([])
            return refused
        try:
            findings = self._submit(Beacon(sender, envelope), count, size)
        except QueueFullError:
            _unavailable.inc(count)
            raise Problem(503, "too many events are waiting; try again", retry_s=_FULL_RETRY_S) from None
        if tracing.is_on():
            _trace(sender, count, findings)
        return findings

    def _submit(self, beacon: Beacon, count: int, size: int) -> asyncio.Future[list[Finding]]:
        queued_size = size + _CONTEXT_BYTES
        if size > self._large_size:
            return self._large_lane.submit(network(beacon.sender.address), beacon, count, queued_size)
        for event in beacon.envelope.events:
            if event.event_name in TRANSITION_KINDS:
                return self._identifying_batcher.submit(beacon, count, queued_size)
        return self._batcher.submit(beacon, count, queued_size)

    def outcome(self, envelope: Envelope, findings: list[Finding]) -> Outcome:
        """The outcome of a beacon, given what the collector reported of its events. To be called once."""
        if envelope.dropped:  # a sender that misses the response reports it again
            metrics.CLIENT_DROPPED_EVENTS.inc(envelope.dropped)
        rejections, ignored = envelope.rejections, []
        if findings:
            rejections = sorted(rejections + [found for found in findings if isinstance(found, Rejection)])
            ignored = [found for found in findings if isinstance(found, IgnoredUserId)]
        return Outcome(len(envelope.events) + len(envelope.rejections) - len(rejections), rejections, ignored)

    async def close(self) -> None:
        """Refuse new beacons, and return when the others have their outcome."""
        ways = (self._batcher, self._identifying_batcher, self._large_lane)
        await asyncio.gather(*(way.close() for way in ways))

    async def _send(self, beacons: list[Beacon]) -> list[list[Finding]]:
        with tracing.work("send a batch", (sender.traceparent for sender, _ in beacons), "client"):
            return await self._send_batch(beacons)

    async def _send_batch(self, beacons: list[Beacon]) -> list[list[Finding]]:
        request = collector.CollectRequest(batch=batch_of(beacons))
        count = len(request.batch.events)
        metrics.BATCH_EVENTS.observe(count)
        try:
            response = await self._collect_checked(request, count)
        except Problem:
            _unavailable.inc(count)
            raise
        if not response.outcomes:
            _stored.inc(count)
            return [[] for _ in beacons]
        for outcome in response.outcomes:
            _counter(outcome).inc()
        outcomes = iter(response.outcomes)
        return [_findings(beacon.envelope, outcomes) for beacon in beacons]

    async def _collect_checked(self, request: collector.CollectRequest, count: int) -> collector.CollectResponse:
        with metrics.COLLECT_SECONDS.time():
            response = await self._collect(request)
        if response.stored_count != count and len(response.outcomes) != count:
            raise Problem(503, "the event log did not confirm every event; send them again", retry_s=_FULL_RETRY_S)
        return response


def _trace(sender: Sender, count: int, findings: asyncio.Future[list[Finding]]) -> None:
    """Begin the span of a beacon, if it is traced, and end it with its outcome. Its batch is sent later.

    An event of a request to an API belongs to the trace of that request.
    """
    if request := logs.traceparent.get():
        sender.traceparent = request
        return
    span, sender.traceparent = tracing.begin_outside("beacon", sender.traceparent, events=count)
    if span:
        findings.add_done_callback(lambda done: span.end(failed=done.cancelled() or done.exception() is not None))


def batch_of(beacons: list[Beacon]) -> EventBatch:
    """The beacons as one batch: a context for each, and the events in order."""
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
            staff=sender.is_staff,
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
                timestamp_ms=to_int64(event.timestamp or 0),
                data_json=bytes(event.data),
                site=event.site,
                context_index=index,
            )
    return batch


def _findings(envelope: Envelope, outcomes: Iterator[collector.Outcome]) -> list[Finding]:
    findings: list[Finding] = []
    for event, position, outcome in zip(envelope.events, envelope.positions, outcomes, strict=False):
        event_id = shortened_id(event.event_id)
        if outcome.ignored_reason:
            reason = IGNORED_REASONS.get(outcome.ignored_reason, "ignored")
            findings.append(IgnoredUserId(position, event_id, reason, outcome.message))
        elif outcome.status == collector.OUTCOME_STATUS_REJECTED:
            findings.append(Rejection(position, event_id, _reason(outcome), outcome.message))
            site = event.site or envelope.site or ""
            RECENT.note_refused(_reason(outcome), site, event.event_name or "", outcome.message)
        elif outcome.status not in (collector.OUTCOME_STATUS_STORED, collector.OUTCOME_STATUS_SUPPRESSED):
            findings.append(Rejection(position, event_id, "unavailable", "event: not stored, send it again", True))
    return findings


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
    return REASONS.get(outcome.reason, "rejected")
