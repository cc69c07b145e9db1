"""Turns a batch as sent into entries of the log and an outcome for each event: admit, append, resolve."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Final

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1.event_pb2 import EventBatch
from footfall_timeline import partition

from footfall_collector import metrics
from footfall_collector.admission import Admission
from footfall_collector.event_log import EventLog
from footfall_collector.identity_client import Resolver

_NOWHERE: Final = -1
_STORED = collector.Outcome(status=collector.OUTCOME_STATUS_STORED)
_UNAVAILABLE = collector.Outcome(
    status=collector.OUTCOME_STATUS_UNAVAILABLE, message="its part of the log did not take it; send it again"
)
_HELD_BACK = collector.Outcome(
    status=collector.OUTCOME_STATUS_UNAVAILABLE, message="its site has its share of the log; send it again later"
)


class Pipeline:
    """What happens to a batch. Batches may run side by side."""

    def __init__(self, admission: Admission, log: EventLog, resolver: Resolver, partitions: int) -> None:
        self._admission = admission
        self._log = log
        self._resolver = resolver
        self._partitions = partitions

    async def collect(self, batch: EventBatch, resolve_timeout_s: Callable[[], float]) -> collector.CollectResponse:
        """Store a batch, which is used up by it, and say what became of each event.

        `resolve_timeout_s` says, once the events are stored, how long the caller can wait for identity. Raises
        LogFullError and LogUnavailableError.
        """
        metrics.BATCH_EVENTS.observe(len(batch.events))
        turned_away = await self._admit(batch)
        places = self._places(batch, turned_away)
        weights = _weights(batch, places)
        held_back = await self._log.held_back(weights)
        if held_back:
            for position, event in enumerate(batch.events):
                if places[position] != _NOWHERE and event.site in held_back:
                    places[position], turned_away[position] = _NOWHERE, _HELD_BACK
            weights = {site: weight for site, weight in weights.items() if site not in held_back}
        entries = split(batch, places)
        stored: Mapping[int, str] = {}
        if entries:
            try:
                serialized = {place: entry.SerializeToString() for place, entry in entries.items()}
                stored = await self._log.append(serialized, weights)
            except BaseException:  # also a caller who is gone: nobody hears that it is stored
                metrics.EVENTS_UNAVAILABLE.inc(len(places))
                raise
        answer = _answer(places, turned_away, entries.keys() - stored.keys())
        if stored:
            events = chain.from_iterable(entries[place].events for place in stored)
            await self._resolver.resolve(events, resolve_timeout_s())
        return answer

    async def _admit(self, batch: EventBatch) -> dict[int, collector.Outcome]:
        """Admit a batch; between the slices of a large one others have the loop for as long as the slice had it.

        A single turn of the loop would not do: a call takes many, each of which would wait for a slice.
        """
        turned_away: dict[int, collector.Outcome] = {}
        begun = time.thread_time()  # not the clock: it goes on while others have the processor
        for _ in self._admission.admit_in_slices(batch, time.time_ns() // 1_000_000, turned_away):
            await asyncio.sleep(time.thread_time() - begun)
            begun = time.thread_time()
        return turned_away

    def _places(self, batch: EventBatch, turned_away: Iterable[int]) -> list[int]:
        """Return the partition of each event, in their order; that of one not to be logged is nowhere."""
        if self._partitions == 1:
            places = [0] * len(batch.events)
        else:
            places = [partition(event.visit_id, self._partitions) for event in batch.events]
        for position in turned_away:
            places[position] = _NOWHERE
        return places


def _weights(batch: EventBatch, places: Sequence[int]) -> dict[str, int]:
    """By site, how much its events that are somewhere weigh beside those of the others."""
    sites = {event.site for event, place in zip(batch.events, places, strict=True) if place != _NOWHERE}
    if len(sites) <= 1:
        return dict.fromkeys(sites, 1)
    weights = dict.fromkeys(sites, 0)
    for event, place in zip(batch.events, places, strict=True):
        if place != _NOWHERE:
            weights[event.site] += event.ByteSize()
    return weights


def split(batch: EventBatch, places: Sequence[int]) -> dict[int, EventBatch]:
    """Return one batch for each place that is somewhere, with its events in order and the contexts they came with.

    Uses up the batch.
    """
    if len(set(places)) == 1:
        return {} if places[0] == _NOWHERE else {places[0]: batch}
    contexts, events = [*batch.contexts], [*batch.events]
    batch.ClearField("contexts")
    batch.ClearField("events")  # what is left, if anything, is fields that only later versions know
    entries: dict[int, EventBatch] = {}
    context_indices: dict[tuple[int, int], int] = {}
    for event, place in zip(events, places, strict=True):
        if place == _NOWHERE:
            continue
        entry = entries.get(place)
        if entry is None:
            entry = entries[place] = EventBatch()
            entry.CopyFrom(batch)
        index = context_indices.get((place, event.context_index))
        if index is None:
            index = context_indices[place, event.context_index] = len(entry.contexts)
            entry.contexts.append(contexts[event.context_index])
        event.context_index = index
        entry.events.append(event)
    return entries


def _answer(
    places: Sequence[int], turned_away: Mapping[int, collector.Outcome], refused: Set[int]
) -> collector.CollectResponse:
    """Say what became of each event, and count it."""
    stored_count = sum(place != _NOWHERE and place not in refused for place in places)
    metrics.EVENTS_STORED.inc(stored_count)
    response = collector.CollectResponse(stored_count=stored_count)
    if stored_count == len(places):
        return response
    metrics.EVENTS_UNAVAILABLE.inc(len(places) - len(turned_away) - stored_count)
    for outcome in turned_away.values():
        if outcome.status == collector.OUTCOME_STATUS_SUPPRESSED:
            metrics.EVENTS_SUPPRESSED.inc()
        elif outcome.status == collector.OUTCOME_STATUS_UNAVAILABLE:
            metrics.EVENTS_UNAVAILABLE.inc()
        else:
            metrics.EVENTS_REJECTED[outcome.reason].inc()
    response.outcomes.extend(
        turned_away.get(position) or (_UNAVAILABLE if place in refused else _STORED)
        for position, place in enumerate(places)
    )
    return response
