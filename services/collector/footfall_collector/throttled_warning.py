"""A log warning that is written at most once a minute, however often its cause occurs."""

import time
from typing import Final

import structlog

_log = structlog.get_logger()

INTERVAL_S: Final = 60.0


class ThrottledWarning:
    """The first warning is logged immediately; the next line counts those suppressed within a minute (`suppressed`)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next_at = 0.0
        self._suppressed = 0

    def warn(self, **fields: object) -> None:
        """Log a line with these fields, or count it as suppressed."""
        now = time.monotonic()
        if now < self._next_at:
            self._suppressed += 1
            return
        _log.warning(self._text, suppressed=self._suppressed, **fields)
        self._suppressed = 0
        self._next_at = now + INTERVAL_S
