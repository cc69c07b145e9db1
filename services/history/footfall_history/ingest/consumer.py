"""Turns entries of the log into stored events: decodes, stores in batches of a good size, puts aside what cannot be."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator

import prometheus_client
import structlog
from footfall.event.v1.event_pb2 import Erasure, EventBatch
from footfall_servicekit.stream import Entry
from footfall_timeline import normalize_uuid
from google.protobuf.message import DecodeError

from footfall_history import event_log, metrics
from footfall_history.dead_letters import DeadLetters, DeadLettersFullError
from footfall_history.erasure import Eraser
from footfall_history.ingest.attribution import Effort, Stamper
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_history.storage import parts_of

# Large enough to make the cost of a command small beside that of its documents, small enough to be done in a second.
_EVENTS_A_BATCH = 1_000
_HASH_BYTES = 32

_log = structlog.get_logger()

Outcomes = Counter[prometheus_client.Counter]
"""How many events came to which end, to be counted when the entries are done."""


class LogConsumer:
    """Handles entries of the log. Any entry may come again, in any order, to any number of consumers."""

    def __init__(
        self,
        letters: DeadLetters,
        stamper: Stamper,
        eraser: Eraser,
        slow: SlowVisits,
        *,
        effort: Effort,
        attempts: int,
        check_store: Callable[[], Awaitable[None]],
    ) -> None:
        """Leave to `handle_slow` a visit that takes more than `effort`, and what has failed `attempts` times.

        But not while it is the store that fails: then `check_store` raises.
        """
        self._letters = letters
        self._stamper = stamper
        self._eraser = eraser
        self._slow = slow
        self._effort = effort
        self._attempts = attempts
        self._check_store = check_store
        self._failures: Counter[int] = Counter()

    async def handle(self, partition: int, entries: list[Entry]) -> None:
        """Return when every event of these entries is on disk: stored, put aside, or among the slow visits.

        Raises what the stores raise when they do not answer, DeadLettersFullError and SlowVisitsFullError.
        """
        decoded = []
        for entry in entries:
            try:
                decoded.append((entry, EventBatch.FromString(entry.payload)))
            except DecodeError:
                await self._letters.put_entry(partition, entry, "not an EventBatch")
        outcomes: Outcomes = Counter()
        slow: list[tuple[str, EventBatch]] = []
        for part in _parts(batch for _, batch in decoded):
            left = await self._keep_or_leave(partition, part, outcomes)
            slow += parts_of(part, left).items()
        for entry, batch in decoded:
            if batch.HasField("erasure"):
                await self._erase(partition, entry, batch.erasure)
        await self._slow.put(partition, slow)  # last: if anything fails, it is not there once more for each attempt
        self._failures[partition] = 0
        _count(outcomes)

    async def handle_slow(self, partition: int, batches: list[EventBatch]) -> None:
        """The same of what `handle` has put among the slow visits, however long it takes."""
        for batch in batches:
            if batch.HasField("erasure"):
                await self._eraser.apply(partition, batch.erasure)
        outcomes: Outcomes = Counter()
        await self._keep(partition, batches, None, outcomes)
        _count(outcomes)

    async def _keep_or_leave(self, partition: int, part: list[EventBatch], outcomes: Outcomes) -> set[str]:
        """Store what is stored soon; return the visits that are left. All are when it has failed too often.

        The entries that were read first come first again, so failures that follow one another are theirs.
        """
        try:
            return await self._keep(partition, part, self._effort, outcomes)
        except (*event_log.Unavailable, DeadLettersFullError):
            raise
        except Exception as error:
            self._failures[partition] += 1
            if self._failures[partition] < self._attempts:
                raise
            await self._check_store()
            every = {event.visit_id for batch in part for event in batch.events}
            about = {"partition": partition, "visits": len(every), "failures": self._failures[partition]}
            _log.error("set aside visits that cannot be stored together", **about, exc_info=error)
            return every

    async def _keep(
        self, partition: int, part: list[EventBatch], effort: Effort | None, outcomes: Outcomes
    ) -> set[str]:
        """Store the events that can be stored, put aside those that cannot, and return the visits that are left."""
        kept = await self._stamper.keep(part, effort)
        count = sum(event.visit_id not in kept.left for batch in part for event in batch.events)
        unstorable_count = dropped_count = 0
        if kept.unstorable:
            put = await self._letters.put(partition, kept.unstorable)
            unstorable_count, dropped_count = put.new_count, put.dropped_count
            await self._eraser.erase_letters(partition)  # whoever was erased meanwhile may not have seen them
        outcomes[metrics.STORED] += kept.stored_count
        outcomes[metrics.UNSTORABLE] += unstorable_count
        outcomes[metrics.DROPPED] += dropped_count
        outcomes[metrics.DUPLICATE] += count - kept.stored_count - unstorable_count - dropped_count
        return kept.left

    async def _erase(self, partition: int, entry: Entry, erasure: Erasure) -> None:
        """Remember who is erased, so that what is merged from now on is without that person; the rest takes longer."""
        if len(erasure.identity_hash) == _HASH_BYTES and _is_uuid(erasure.erasure_id):
            await self._eraser.remember(erasure)
            name = f"erasure/{erasure.erasure_id}"
            await self._slow.put(partition, [(name, EventBatch(erasure=erasure))], is_first=True)
        else:
            await self._letters.put_entry(partition, entry, "an erasure without a hash or an id")


def _count(outcomes: Outcomes) -> None:
    for outcome, count in outcomes.items():
        outcome.inc(count)


def _is_uuid(text: str) -> bool:
    try:
        return normalize_uuid(text) == text
    except ValueError:
        return False


def _parts(batches: Iterable[EventBatch]) -> Iterator[list[EventBatch]]:
    """The batches in order, in lists of about _EVENTS_A_BATCH events."""
    part: list[EventBatch] = []
    count = 0
    for batch in batches:
        part.append(batch)
        count += len(batch.events)
        if count >= _EVENTS_A_BATCH:
            yield part
            part, count = [], 0
    if part:
        yield part
