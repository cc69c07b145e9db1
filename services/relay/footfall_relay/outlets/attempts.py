"""Attempts with pauses that grow, and vary so that outlets do not all come back at the same moment."""

import asyncio
import random
import time
from typing import Final

from footfall_servicekit.failure_log import FailureLog

from footfall_relay import metrics

_failing = FailureLog("an outlet does not take messages; it is tried again", "outlet")
_SPREAD: Final = (0.5, 1.0)


class Attempts:
    """The attempts to deliver the same messages."""

    def __init__(self, outlet: str, *, first_pause_s: float, last_pause_s: float, give_up_s: float) -> None:
        self._outlet = outlet
        self._pause_s = first_pause_s
        self._last_pause_s = last_pause_s
        self._give_up_at = time.monotonic() + give_up_s

    async def failed(self, reason: str, *, retry_after_s: float = 0.0, is_last: bool = False) -> bool:
        """Wait after an attempt that failed; return whether there shall be another one. No wait after the last one."""
        metrics.FAILURES.labels(self._outlet, reason).inc()
        _failing.failed(self._outlet, reason=reason)
        if is_last or time.monotonic() >= self._give_up_at:
            return False
        pause_s = self._pause_s * random.uniform(*_SPREAD)  # noqa: S311  # jitter is no secret
        await asyncio.sleep(max(pause_s, min(retry_after_s, self._last_pause_s)))
        self._pause_s = min(self._pause_s * 2, self._last_pause_s)
        return True

    def worked(self) -> None:
        """Note the end."""
        _failing.worked(self._outlet)
