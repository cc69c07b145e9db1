"""The outcomes of the last appends to the event log, for readiness and a metric."""

import time
from typing import Final

from footfall_collector import metrics

_RECENT_S: Final = 0.5  # as often as readiness is asked for


class AppendOutcomes:
    """Why appends fail, if they do. An append is confirmed if it was stored in at least one partition."""

    def __init__(self) -> None:
        self._reason = ""
        self._confirmed_at = self._failed_at = float("-inf")

    def note_append(self, reason: str) -> None:
        """Note an append: confirmed if the reason is empty."""
        if reason:
            self._failed_at = time.monotonic()
        else:
            self._confirmed_at = time.monotonic()
        self.note_probe(reason)

    def note_probe(self, reason: str) -> None:
        """Note a write that shows whether an append would be confirmed."""
        if bool(reason) != bool(self._reason):
            metrics.APPENDS_FAIL_SINCE.set(time.time() if reason else 0)
        self._reason = reason

    def recent(self) -> str | None:
        """Empty if an append of the last half second was confirmed, the reason if all have failed, None without any."""
        since = time.monotonic() - _RECENT_S
        if self._confirmed_at >= since:
            return ""
        return self._reason if self._failed_at >= since else None
