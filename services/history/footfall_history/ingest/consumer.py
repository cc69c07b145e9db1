"""Consumes the event log: stores events in batches, and makes dead letters of events that cannot be stored."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import prometheus_client
import structlog
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.admitted import is_valid_erasure
from footfall_eventlog.checkpoint_store import order_of
from footfall_eventlog.interactions import is_valid_interaction
from footfall_eventlog.log import decode
from footfall_eventlog.stream import Entry
from footfall_timeline import LaterVersionError

from footfall_history import metrics
from footfall_history.dead_letters import DeadLetterQueue, DeadLettersFullError
from footfall_history.erasure import Eraser
from footfall_history.event_log import TRANSIENT_LOG_ERRORS
from footfall_history.ingest.attribution import Attributor, EffortLimit
from footfall_history.ingest.interactions import InteractionWriter
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_history.parts import in_parts
from footfall_history.storage import TRANSIENT_STORE_ERRORS, split_by_visit

# As many as a full read of the log usually brings: events that are stored together share commands and reads of visits.
# So many must be stored before another process takes their entries over, also on a busy machine.
_EVENTS_PER_BATCH = 3_000

_log = structlog.get_logger()

Outcomes = Counter[prometheus_client.Counter]
"""Numbers of events by outcome, added to the metrics when the entries are done."""


@dataclass(eq=False)
class LogConsumer:
    """Handles entries of the log. An entry may come again, in any order, to any number of consumers.

    Visits that exceed `effort_limit`, or whose batch has failed `attempts` times, are deferred to `handle_slow`. A
    failure while MongoDB is unavailable does not count: then `check_store`, which waits for the journal, raises.
    `read_again_until` is that of `Checkpoints`: up to which entries of a partition may come again, because MongoDB may
    have gone back.
    """

    dead_letters: DeadLetterQueue
    attributor: Attributor
    eraser: Eraser
    slow: SlowVisits
    interactions: InteractionWriter
    effort_limit: EffortLimit
    attempts: int
    check_store: Callable[[], Awaitable[None]]
    read_again_until: Callable[[int], Awaitable[str]]
    _again_until: dict[int, str] = field(default_factory=dict)
    _failures: Counter[int] = field(default_factory=Counter)

    async def handle(self, partition: int, entries: list[Entry]) -> None:
        """Return when everything in these entries is on disk: stored, a dead letter, or deferred as a slow visit.

        Raises TRANSIENT_STORE_ERRORS, TRANSIENT_LOG_ERRORS, DeadLettersFullError and SlowVisitsFullError.
        """
        await self._notice_set_back(partition, entries)
        decoded = []
        for entry in entries:
            if batch := decode(entry):
                decoded.append((entry, batch))
            else:
                await self.dead_letters.put_entry(partition, entry, "not an EventBatch")
        outcomes: Outcomes = Counter()
        slow: list[tuple[str, EventBatch]] = []
        for part in in_parts((batch for _, batch in decoded), _EVENTS_PER_BATCH, lambda batch: len(batch.events)):
            deferred = await self._store_or_defer(partition, part, outcomes)
            slow += split_by_visit(part, deferred).items()
        for entry, batch in decoded:
            if batch.HasField("erasure"):
                await self._record_erasure(partition, entry, batch.erasure)
        if reported := [(entry, batch.interaction) for entry, batch in decoded if batch.HasField("interaction")]:
            await self._store_interactions(partition, reported)
        await self.slow.put(partition, slow)  # last, so that a failed attempt does not leave a copy there
        self._failures[partition] = 0
        _count(outcomes)

    async def _notice_set_back(self, partition: int, entries: list[Entry]) -> None:
        until = await self.read_again_until(partition)
        if until != self._again_until.get(partition, ""):
            self._again_until[partition] = until
            self.attributor.forget()
        if until and order_of(entries[0].id) <= order_of(until.partition("/")[0]):
            self.attributor.distrust_revisions()

    async def handle_slow(self, partition: int, batches: list[EventBatch]) -> None:
        """Do the same for deferred batches, without a limit on the effort."""
        for batch in batches:
            if batch.HasField("erasure"):
                await self.eraser.apply(partition, batch.erasure)
        outcomes: Outcomes = Counter()
        await self._store(partition, batches, None, outcomes)
        _count(outcomes)

    async def _store_or_defer(self, partition: int, part: list[EventBatch], outcomes: Outcomes) -> set[str]:
        """Store what takes little effort. Returns the deferred visits: all of them after too many failures.

        The oldest unacknowledged entries are always read first, so consecutive failures are about the same entries.
        """
        try:
            return await self._store(partition, part, self.effort_limit, outcomes)
        except (*TRANSIENT_LOG_ERRORS, DeadLettersFullError):
            raise
        except Exception as error:
            self._failures[partition] += 1
            if self._failures[partition] < self.attempts:
                raise
            await self.check_store()
            visits = {event.visit_id for batch in part for event in batch.events}
            details = {"partition": partition, "visits": len(visits), "failures": self._failures[partition]}
            _log.error("deferred visits whose events cannot be stored together", **details, exc_info=error)
            return visits

    async def _store(
        self, partition: int, part: list[EventBatch], effort_limit: EffortLimit | None, outcomes: Outcomes
    ) -> set[str]:
        """Store events, make dead letters of those that cannot be stored, and return the deferred visits."""
        result = await self.attributor.store(part, effort_limit)
        count = sum(event.visit_id not in result.deferred for batch in part for event in batch.events)
        unstorable_count = dropped_count = 0
        if result.unstorable:
            unstorable_count, dropped_count = await self.dead_letters.put(partition, result.unstorable)
            await self.eraser.erase_dead_letters(partition)  # an erasure in the meantime may not have seen them
        outcomes[metrics.STORED] += result.stored_count
        outcomes[metrics.UNSTORABLE] += unstorable_count
        outcomes[metrics.DROPPED] += dropped_count
        outcomes[metrics.DUPLICATE] += count - result.stored_count - unstorable_count - dropped_count
        return result.deferred

    async def _store_interactions(self, partition: int, reported: list[tuple[Entry, InteractionUpdate]]) -> None:
        """Store updates of interactions; one that cannot be stored becomes a dead letter."""
        for entry, update in reported:
            if not is_valid_interaction(update):
                await self.dead_letters.put_entry(partition, entry, "an interaction without an id, a subject or a time")
                continue
            try:
                await self.interactions.write(update)
            except (*TRANSIENT_STORE_ERRORS, LaterVersionError):
                raise
            except Exception as error:
                await self.check_store()  # raises while MongoDB is unavailable
                await self.dead_letters.put_entry(partition, entry, f"an interaction: {type(error).__name__}")
                await self.eraser.erase_dead_letters(partition)  # as for events
        await self.check_store()

    async def _record_erasure(self, partition: int, entry: Entry, erasure: Erasure) -> None:
        """Store the tombstone, so that events merged from now on are erased. The rest takes longer and is deferred."""
        if is_valid_erasure(erasure):
            await self.eraser.record(erasure)
            name = f"erasure/{erasure.erasure_id}"
            await self.slow.put(partition, [(name, EventBatch(erasure=erasure))], is_first=True)
        else:
            await self.dead_letters.put_entry(partition, entry, "an erasure without a hash or an id")


def _count(outcomes: Outcomes) -> None:
    for outcome, count in outcomes.items():
        outcome.inc(count)
