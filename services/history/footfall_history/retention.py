"""Removes events and interactions whose retention is over, and visits without events.

TTL indexes are not used: one on events would be a further index to write with each event. The indexes that queries need
serve here as well.
"""

import time
from typing import Final

import structlog
from footfall_timeline import order_key

from footfall_history import metrics
from footfall_history.storage import Store

# A visit stores the time of its last event once a day. One more day, and nearly every visit is looked at only once.
_TOUCHED_WITHIN_MS: Final = 86_400_000

_log = structlog.get_logger()


async def sweep(store: Store, retention_ms: int) -> None:
    """Remove events that happened longer ago than `retention_ms` and a day, and the visits left without events.

    Interactions that began longer ago than that are removed, too.

    Several processes may do so concurrently. Raises TRANSIENT_STORE_ERRORS.
    """
    until_ms = time.time_ns() // 1_000_000 - retention_ms - _TOUCHED_WITHIN_MS
    removed = await store.remove_before(until_ms)
    await store.remove_interactions({"order_key": {"$lt": order_key(until_ms, "")}})
    metrics.EXPIRED.inc(removed)
    if removed:
        _log.info("removed expired events", events=removed)
