"""A log event that is written at most once a minute, however often its cause occurs."""

import time
from typing import Final

import structlog

_log = structlog.get_logger()

INTERVAL_S: Final = 60.0


class ThrottledLog:
    """The first line is logged immediately; the next one counts those suppressed within a minute (`suppressed`)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next_at = 0.0
        self._suppressed = 0

    def warn(self, **fields: object) -> None:
        """Log a line with these fields at level warning, or count it as suppressed."""
        if self._is_due():
            _log.warning(self._text, suppressed=self._suppressed, **fields)
            self._suppressed = 0

    def exception(self) -> None:
        """Log a line with the exception that is being handled, at level error, or count it as suppressed."""
        if self._is_due():
            _log.exception(self._text, suppressed=self._suppressed)
            self._suppressed = 0

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_at:
            self._suppressed += 1
            return False
        self._next_at = now + INTERVAL_S
        return True
