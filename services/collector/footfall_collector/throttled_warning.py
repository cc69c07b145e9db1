"""A warning about what may happen many times a second, logged once a minute."""

import time
from typing import Final

import structlog

_log = structlog.get_logger()

INTERVAL_S: Final = 60.0


class ThrottledWarning:
    """One kind of warning: the first is logged at once; those within a minute of it are counted in the next."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next_at = 0.0
        self._held_back = 0

    def warn(self, **fields: object) -> None:
        """Log it, or count it."""
        now = time.monotonic()
        if now < self._next_at:
            self._held_back += 1
            return
        _log.warning(self._text, held_back=self._held_back, **fields)
        self._held_back = 0
        self._next_at = now + INTERVAL_S
