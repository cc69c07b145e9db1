"""What this gateway has seen lately and operators ask for: an example of what was refused, and the slowest requests."""

import time
from typing import Final

import msgspec

_DAY_MS: Final = 86_400_000
_MAX_SLOWEST: Final = 10
_MAX_TEXT: Final = 200


class RefusedEvent(msgspec.Struct, frozen=True):
    """An event that was refused, without what it says: `site` as sent, `message` says which field broke which rule."""

    time_ms: int
    site: str
    event_name: str
    message: str


class SlowRequest(msgspec.Struct, frozen=True, order=True):
    """A request that took long."""

    seconds: float
    time_ms: int
    operation: str
    status: int
    request_id: str


class Recent:
    """The last refused event of each reason, and the slowest requests of the last day."""

    def __init__(self) -> None:
        self.refused: dict[str, RefusedEvent] = {}
        self._slowest: list[SlowRequest] = []

    def note_refused(self, reason: str, site: str, event_name: str, message: str) -> None:
        """Take note of a refused event."""
        texts = (text[:_MAX_TEXT] for text in (site, event_name, message))
        self.refused[reason] = RefusedEvent(_now_ms(), *texts)

    def note_answered(self, operation: str, status: int, seconds: float, request_id: str) -> None:
        """Take note of an answered request."""
        if len(self._slowest) == _MAX_SLOWEST and seconds <= self._slowest[-1].seconds:
            return
        request = SlowRequest(round(seconds, 4), _now_ms(), operation, status, request_id)
        self._slowest = sorted([*self.slowest, request], reverse=True)[:_MAX_SLOWEST]

    @property
    def slowest(self) -> list[SlowRequest]:
        """The slowest requests of the last day, the slowest first."""
        since_ms = _now_ms() - _DAY_MS
        return [request for request in self._slowest if request.time_ms >= since_ms]


RECENT: Final = Recent()
"""Of this process, as its metrics are."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
