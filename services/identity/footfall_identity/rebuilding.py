"""Builds live state again from history when Redis has lost some of it.

Merging is idempotent and commutative, so this goes on beside the readers of the event log, in any number of processes,
and also when nothing is missing. What history has not read yet is still in the log, which identity reads as well.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

import structlog
from footfall.history.v1.history_service_pb2 import LiveVisit
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog
from footfall_timeline import LaterVersionError

from footfall_identity import metrics
from footfall_identity.erasure import Eraser
from footfall_identity.history_client import HistoryClient, HistoryUnavailableError
from footfall_identity.log_consumers import RecordConsumer
from footfall_identity.visit_record import VisitUpdate
from footfall_identity.visitor_store import VisitorStore

# A partition is read again for events that history was storing meanwhile: they may be of entries that Redis has lost.
# Times in seconds after the first reading. History stores most of them soon; a reader of the log has 10 s for a batch.
_SOON_AGAIN_S: Final = (1.0, 3.0)
_LAST_AGAIN_S: Final = 10.0
_RETRY_S: Final = 1.0

_log = structlog.get_logger()
_failures = FailureLog("live state cannot be built again yet", "work")


class Rebuilder:
    """Rebuilds partitions in turns. One that is requested during a turn is read from then on, and has the next turn."""

    def __init__(self, history: HistoryClient, visitors: VisitorStore, records: RecordConsumer, eraser: Eraser) -> None:
        self._history = history
        self._visitors = visitors
        self._records = records
        self._eraser = eraser
        self._wanted: set[int] = set()
        self._turn = asyncio.Lock()

    async def rebuild(self, number: int) -> None:
        """Return when the live state of a partition is rebuilt; waits until history and the stores answer."""
        self._wanted.add(number)
        metrics.REBUILDING.set(len(self._wanted))
        async with self._turn:
            if number not in self._wanted:  # the turn before has included it
                return
            numbers = sorted(self._wanted)
            _log.warning("Redis may have lost live state; building it again from history", partitions=numbers)
            began = time.monotonic()
            await self._rebuild_until_done(numbers, writes_records=False)  # live state first: records take longer
            ended = time.monotonic()
            for at_s in (*(soon_s for soon_s in _SOON_AGAIN_S if soon_s > ended - began), _LAST_AGAIN_S):
                await asyncio.sleep(max(0.0, ended + at_s - time.monotonic()))
                count = await self._rebuild_until_done(sorted(self._wanted))  # also those requested meanwhile
            self._wanted.difference_update(numbers)
            metrics.REBUILDING.set(len(self._wanted))
            _log.warning("live state is complete again", partitions=numbers, visits=count)

    async def _rebuild_until_done(self, numbers: Collection[int], *, writes_records: bool = True) -> int:
        while True:
            try:
                count = await self._rebuild(numbers, writes_records=writes_records)
            except (HistoryUnavailableError, LaterVersionError, RequestError) as error:
                _failures.failed("live state", reason=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                _failures.worked("live state")
                return count

    async def _rebuild(self, numbers: Collection[int], *, writes_records: bool) -> int:
        """Merge what history knows; return the number of visits. Tombstones first, so that no erased person returns."""
        await self._eraser.restore()
        count = 0
        async for visits in self._history.live_visits(numbers):
            await self._merge(visits, writes_records=writes_records)
            metrics.REBUILT_VISITS.inc(len(visits))
            count += len(visits)
        return count

    async def _merge(self, visits: list[LiveVisit], *, writes_records: bool) -> None:
        updates = [VisitUpdate.of_history(visit) for visit in visits]
        await self._visitors.merge(updates)
        if writes_records:
            await self._records.write_again(update.visit_id for update in updates if update.transitions)
