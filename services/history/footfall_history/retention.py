"""Turns the age of visits into what is removed: events by when they happened, a visit when its last event is gone.

No TTL index does this. One on events would be a fifth index to write with every event, and SecantusDB honours TTL by
reading whole collections under its global lock, once a minute. Here the index that finds visits by their start, and
that of a visit's events, serve as well, and the order of removal is ours.
"""

import time
from typing import Final

import structlog

from footfall_history import metrics
from footfall_history.storage import Store

# A visit notes its last event to the day. Waiting a day longer, nearly every visit is swept once and then gone.
_TOUCHED_WITHIN_MS: Final = 86_400_000

_log = structlog.get_logger()


async def sweep(store: Store, kept_ms: int) -> None:
    """Remove events that happened longer ago than `kept_ms` and a day, and the visits left without any.

    Any number of processes may do so at once. Raises `storage.Unavailable`.
    """
    removed = await store.remove_before(time.time_ns() // 1_000_000 - kept_ms - _TOUCHED_WITHIN_MS)
    metrics.EXPIRED.inc(removed)
    if removed:
        _log.info("removed what has expired", events=removed)
