"""Turns the age of what history has not handled into a metric, and into a line in its log when it falls behind."""

import time

import structlog

from footfall_history import metrics
from footfall_history.event_log import Log

_log = structlog.get_logger()


class Freshness:
    """How far history is behind the log. It says so when that is more than `most_s`, and when it no longer is."""

    def __init__(self, log: Log, most_s: int) -> None:
        self._log = log
        self._most_s = most_s
        self._is_behind = False

    async def tell(self) -> None:
        """Look at every partition. Raises `log.Unavailable`."""
        oldest_ms = [at_ms for number in range(self._log.partitions) if (at_ms := await self._log.oldest_ms(number))]
        behind_s = max(0.0, time.time() - min(oldest_ms) / 1000) if oldest_ms else 0.0
        metrics.BEHIND.set(behind_s)
        if not self._is_behind and behind_s > self._most_s:
            _log.error("history is behind the log", seconds=round(behind_s))
        elif self._is_behind and behind_s <= self._most_s:
            _log.info("history is no longer behind the log")
        self._is_behind = behind_s > self._most_s
