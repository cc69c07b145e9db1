"""The process of one trial of a policy: `trials` starts it, gives it an order, and reads how far it is and the report.

It ends with exit code 0, with UNAVAILABLE_CODE if a store did not answer, or with another one and a stack.
"""

import asyncio
import sys
import time
from typing import Final

import msgspec
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_servicekit import logs
from footfall_servicekit.settings import load
from footfall_timeline import LaterVersionError

from footfall_history.policies.report import to_json
from footfall_history.policies.running import Trial, try_policy
from footfall_history.policies.simulator import Counts, Range
from footfall_history.policies.trials import UNAVAILABLE_CODE, Order, Progress
from footfall_history.settings import HistorySettings
from footfall_history.storage import TRANSIENT_STORE_ERRORS

_TELL_EVERY_S: Final = 1.0


class _Teller:
    """Writes a line about the progress: at first, in the end, and about every second."""

    def __init__(self) -> None:
        self._told_at = 0.0

    def tell(self, counts: Counts, *, is_last: bool) -> None:
        """Write a line if it is time to."""
        if is_last or time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            _write_line(Progress(counts.visits + counts.staff_visits, counts.events, counts.last_start_ms))


def _write_line(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    """Read an order from standard input, run it, and write to standard output."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    settings = load(HistorySettings)
    logs.configure("history", "critical")
    policy = IdentityPolicy.parse(order.policy, "policy", order.user_id_keys)
    visits = Range(order.from_ms, order.to_ms, order.sites)
    trial = Trial(policy, visits, order.max_examples, order.max_identities, order.rate or None, order.max_judged)
    try:
        report = asyncio.run(try_policy(settings, trial, _Teller().tell))
    except (*TRANSIENT_STORE_ERRORS, TimeoutError, LaterVersionError):
        return UNAVAILABLE_CODE
    content = to_json(report)
    _write_line(Progress(report.visits + report.staff_visits, report.events, report_bytes=len(content)))
    sys.stdout.buffer.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
