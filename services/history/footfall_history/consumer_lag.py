"""Measures how far history is behind the event log."""

import time

import structlog

from footfall_history import metrics
from footfall_history.event_log import EventLog

_log = structlog.get_logger()


class ConsumerLag:
    """The age of the oldest log entry that history has not handled, as a metric and as a log line above a limit."""

    def __init__(self, log: EventLog, limit_s: int) -> None:
        self._log = log
        self._limit_s = limit_s
        self._is_behind = False

    async def update(self) -> None:
        """Measure all partitions. Raises TRANSIENT_LOG_ERRORS."""
        oldest_ms = [
            at_ms for number in range(self._log.partitions) if (at_ms := await self._log.oldest_unhandled_ms(number))
        ]
        lag_s = max(0.0, time.time() - min(oldest_ms) / 1000) if oldest_ms else 0.0
        metrics.LAG_SECONDS.set(lag_s)
        is_behind = lag_s > self._limit_s
        if is_behind and not self._is_behind:
            _log.error("history is behind the log", seconds=round(lag_s))
        elif self._is_behind and not is_behind:
            _log.info("history is no longer behind the log")
        self._is_behind = is_behind
