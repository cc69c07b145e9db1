"""Log lines of failures that repeat: one at the beginning, some with their number, and one at the end."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

import structlog

_MOST_OUTAGES: Final = 50
"""Outages of one log at the same time. The failures of further ones are counted together."""
_OTHERS: Final = "others"

_log = structlog.get_logger()


@dataclass(slots=True)
class _Outage:
    what: str
    why: Mapping[str, object]
    began: float
    last_failure: float
    next_line: float
    count: int = 1
    worked_again: float = 0.0  # the first success after the last failure; 0: none yet


class FailureLog:
    """The lines about one kind of failure. Failures of the same thing for the same reason are one outage.

    The first failure of an outage is logged immediately. While it goes on, one failure in each `interval_s` is logged
    with the number of failures so far (`count`) and the time since the first one (`duration_s`).

    The end is logged after a third of `interval_s` without a failure: with the first success then, or with the next
    failure if there was a success before. So a dependency that fails now and then is one outage, and does not begin and
    end with every call.
    """

    interval_s: ClassVar[float] = 30.0
    """Of all logs in this process: set from the settings when the process starts."""

    def __init__(self, event: str, what: str, level: Literal["warning", "error"] = "warning") -> None:
        """Log `event` at `level`. `what` is the name of the field that says what failed, such as `method`."""
        self._event = event
        self._field = what
        self._level = level
        self._outages: dict[tuple[str, ...], _Outage] = {}

    def failed(
        self,
        what: str,
        *,
        exc_info: BaseException | None = None,
        details: Mapping[str, object] = MappingProxyType({}),
        **why: str,
    ) -> None:
        """Note a failure. `why` has few different values; `details` and `exc_info` are those of the failure logged."""
        now = time.monotonic()
        key = (what, *why.values())
        self._end_old(key, now)
        if key not in self._outages and len(self._outages) >= _MOST_OUTAGES:
            self._forget_old(now)
            if len(self._outages) >= _MOST_OUTAGES:
                key, what, why = (_OTHERS,), _OTHERS, {}
        outage = self._outages.get(key)
        if outage is None:
            self._outages[key] = _Outage(what, why, now, now, now + self.interval_s)
            self._write({self._field: what, **why, **details}, exc_info)
            return
        outage.count += 1
        outage.last_failure, outage.worked_again = now, 0.0
        if now >= outage.next_line:
            outage.next_line = now + self.interval_s
            self._write({**self._summary(outage, now), **details}, exc_info)

    def worked(self, what: str) -> None:
        """Note a success. It costs next to nothing while there is no outage."""
        if not self._outages:
            return
        now = time.monotonic()
        for key, outage in [*self._outages.items()]:
            if outage.what in (what, _OTHERS):
                outage.worked_again = outage.worked_again or now
                self._end_old(key, now)

    def _end_old(self, key: tuple[str, ...], now: float) -> None:
        outage = self._outages.get(key)
        if outage and outage.worked_again and now - outage.last_failure >= self.interval_s / 3:
            del self._outages[key]
            _log.info(f"{self._event} (ended)", **self._summary(outage, outage.worked_again))

    def _summary(self, outage: _Outage, until: float) -> dict[str, object]:
        numbers = {"count": outage.count, "duration_s": round(until - outage.began, 1)}
        return {self._field: outage.what, **outage.why, **numbers}

    def _forget_old(self, now: float) -> None:
        for key, outage in [*self._outages.items()]:
            if now >= outage.next_line and now - outage.last_failure >= self.interval_s:
                del self._outages[key]

    def _write(self, fields: Mapping[str, Any], exc_info: BaseException | None) -> None:
        stack = {"exc_info": exc_info} if exc_info else {}
        getattr(_log, self._level)(self._event, **fields, **stack)
