"""The steps of one Collect call: admit the events, append them to the log, send the identifying ones to identity."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Final

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import EventBatch, IgnoredReason
from footfall_timeline import partition

from footfall_collector import metrics
from footfall_collector.admission import SLICE_BYTES, SMALL_SLICE_BYTES, Admission
from footfall_collector.event_log import EventLog
from footfall_collector.service_clients import IdentityClient

_NOT_LOGGED: Final = -1
_LARGE_BEACON_BYTES: Final = 32 * 1024
"""Beacons of a batch count as large if they are larger than this on average. Fifty usual events are smaller."""
_MIN_PAUSE_S: Final = 0.001
_STORED = collector.Outcome(status=collector.OUTCOME_STATUS_STORED)
_IGNORED = {
    reason: collector.Outcome(
        status=collector.OUTCOME_STATUS_STORED,
        ignored_reason=reason,
        message=f"data: the user id {what}; it is ignored",
    )
    for reason, what in {
        event_pb2.IGNORED_REASON_BLANK: "is blank",
        event_pb2.IGNORED_REASON_PLACEHOLDER: "is a placeholder, not a person's",
        event_pb2.IGNORED_REASON_TEMPLATE: "is a template that was not filled",
        event_pb2.IGNORED_REASON_EMPTY_HASH: "is the hash of an empty text",
    }.items()
}
_UNAVAILABLE = collector.Outcome(
    status=collector.OUTCOME_STATUS_UNAVAILABLE, message="the event log did not store it; send it again"
)
_SITE_OVER_SHARE = collector.Outcome(
    status=collector.OUTCOME_STATUS_UNAVAILABLE,
    message="its site takes its whole share of the event log; send it again later",
)


class Pipeline:
    """Stores batches. Calls may run concurrently."""

    def __init__(self, admission: Admission, log: EventLog, identity: IdentityClient, partitions: int) -> None:
        self._admission = admission
        self._log = log
        self._identity = identity
        self._partitions = partitions

    async def collect(self, batch: EventBatch, resolve_timeout_s: Callable[[], float]) -> collector.CollectResponse:
        """Store a batch and return the outcome of each event. The batch is consumed: its messages are changed or moved.

        `resolve_timeout_s` is called after the append and returns how many seconds the caller can wait for identity.
        Raises LogFullError, LogUnavailableError and LogRejectedError.
        """
        metrics.BATCH_EVENTS.observe(len(batch.events))
        excluded = await self._admit(batch)
        ignored = _ignored_user_ids(batch, excluded.keys())
        partitions = self._assign_partitions(batch, excluded)
        site_bytes = _site_bytes(batch, partitions)
        sites_over_share = await self._log.sites_over_share(site_bytes)
        if sites_over_share:
            for position, event in enumerate(batch.events):
                if partitions[position] != _NOT_LOGGED and event.site in sites_over_share:
                    partitions[position], excluded[position] = _NOT_LOGGED, _SITE_OVER_SHARE
            site_bytes = {site: size for site, size in site_bytes.items() if site not in sites_over_share}
        entries = split_by_partition(batch, partitions)
        stored: Mapping[int, str] = {}
        if entries:
            try:
                serialized = {number: entry.SerializeToString() for number, entry in entries.items()}
                stored = await self._log.append(serialized, site_bytes)
            except BaseException:  # includes a cancelled call: its caller does not learn that the events are stored
                metrics.EVENTS_UNAVAILABLE.inc(len(partitions))
                raise
        response = _response(partitions, excluded, ignored, entries.keys() - stored.keys())
        if stored:
            events = chain.from_iterable(entries[number].events for number in stored)
            await self._identity.resolve_events(events, resolve_timeout_s())
        return response

    async def _admit(self, batch: EventBatch) -> dict[int, collector.Outcome]:
        """Admit a batch in slices. Those of large beacons are small, and after each follows a pause as long as it took.

        `sleep(0)` would not do: another call needs many turns of the event loop, and each would wait for a slice. But
        it does for a batch of small beacons: most calls are such batches, and pauses would only delay them.
        """
        excluded: dict[int, collector.Outcome] = {}
        has_large_beacons = batch.ByteSize() > _LARGE_BEACON_BYTES * len(batch.contexts)
        slice_bytes = SMALL_SLICE_BYTES if has_large_beacons else SLICE_BYTES
        started = time.thread_time()  # CPU time: the clock also runs while other processes have the processor
        for _ in self._admission.admit_in_slices(batch, time.time_ns() // 1_000_000, excluded, slice_bytes):
            # The timer of the event loop counts in milliseconds, and takes less than half of one for none.
            pause_s = max(time.thread_time() - started, _MIN_PAUSE_S) if has_large_beacons else 0
            await asyncio.sleep(pause_s)
            started = time.thread_time()
        return excluded

    def _assign_partitions(self, batch: EventBatch, excluded: Iterable[int]) -> list[int]:
        """Return the partition of each event in order, _NOT_LOGGED for an excluded one."""
        if self._partitions == 1:
            partitions = [0] * len(batch.events)
        else:
            partitions = [partition(event.visit_id, self._partitions) for event in batch.events]
        for position in excluded:
            partitions[position] = _NOT_LOGGED
        return partitions


def _ignored_user_ids(batch: EventBatch, excluded: Set[int]) -> dict[int, IgnoredReason.ValueType]:
    """Return why user ids were ignored, by position of the event. Count ignored attributes, and events of staff."""
    ignored: dict[int, IgnoredReason.ValueType] = {}
    for position, event in enumerate(batch.events):
        if event.policy_version and position not in excluded:
            metrics.IGNORED_ATTRIBUTES.inc(len(event.ignored_keys))
            if reason := event.ignored_reason:
                ignored[position] = reason
        if (staff_reason := event.staff_reason) and position not in excluded:
            metrics.STAFF_EVENTS[staff_reason].inc()
    return ignored


def _site_bytes(batch: EventBatch, partitions: Sequence[int]) -> dict[str, int]:
    """Return the bytes that each site adds to the log; 1 for a single site, because only proportions count."""
    logged = [event for event, number in zip(batch.events, partitions, strict=True) if number != _NOT_LOGGED]
    site_bytes = dict.fromkeys((event.site for event in logged), 0)
    if len(site_bytes) == 1:
        return dict.fromkeys(site_bytes, 1)
    for event in logged:
        site_bytes[event.site] += event.ByteSize()
    return site_bytes


def split_by_partition(batch: EventBatch, partitions: Sequence[int]) -> dict[int, EventBatch]:
    """Return one batch for each partition, with its events in order and their contexts. Consumes the given batch.

    Events with partition -1 are left out.
    """
    if len(set(partitions)) == 1:
        return {} if partitions[0] == _NOT_LOGGED else {partitions[0]: batch}
    contexts, events = [*batch.contexts], [*batch.events]
    batch.ClearField("contexts")
    batch.ClearField("events")  # fields of a later version stay, and are copied into each entry
    entries: dict[int, EventBatch] = {}
    context_indices: dict[tuple[int, int], int] = {}
    for event, number in zip(events, partitions, strict=True):
        if number == _NOT_LOGGED:
            continue
        entry = entries.get(number)
        if entry is None:
            entry = entries[number] = EventBatch()
            entry.CopyFrom(batch)
        index = context_indices.get((number, event.context_index))
        if index is None:
            index = context_indices[number, event.context_index] = len(entry.contexts)
            entry.contexts.append(contexts[event.context_index])
        event.context_index = index
        entry.events.append(event)
    return entries


def _response(
    partitions: Sequence[int],
    excluded: Mapping[int, collector.Outcome],
    ignored: Mapping[int, IgnoredReason.ValueType],
    refused: Set[int],
) -> collector.CollectResponse:
    """Build the response and count the outcomes. `refused` are the partitions that did not store their entry."""
    ignored = {at: reason for at, reason in ignored.items() if at not in excluded and partitions[at] not in refused}
    for reason in ignored.values():
        metrics.IGNORED_USER_IDS[reason].inc()
    stored_count = sum(number != _NOT_LOGGED and number not in refused for number in partitions)
    metrics.EVENTS_STORED.inc(stored_count)
    response = collector.CollectResponse(stored_count=stored_count)
    if stored_count == len(partitions) and not ignored:
        return response
    metrics.EVENTS_UNAVAILABLE.inc(len(partitions) - len(excluded) - stored_count)
    for outcome in excluded.values():
        if outcome.status == collector.OUTCOME_STATUS_SUPPRESSED:
            metrics.EVENTS_SUPPRESSED.inc()
        elif outcome.status == collector.OUTCOME_STATUS_UNAVAILABLE:
            metrics.EVENTS_UNAVAILABLE.inc()
        else:
            metrics.EVENTS_REJECTED[outcome.reason].inc()
    stored = {position: _IGNORED[reason] for position, reason in ignored.items()}
    response.outcomes.extend(
        excluded.get(position) or (_UNAVAILABLE if number in refused else stored.get(position, _STORED))
        for position, number in enumerate(partitions)
    )
    return response
