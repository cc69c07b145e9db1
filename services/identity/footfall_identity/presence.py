"""Whether a visitor is on the website now."""

from enum import IntEnum
from typing import NamedTuple


class Presence(IntEnum):
    """Whether a visitor is on the website. The numbers are those of VisitorPresence in the contract."""

    PRESENT = 1
    """A page is open, or none is known to have been closed."""
    LEFT = 2
    """All known pages are closed, for some time."""
    ENDED = 3
    """The visit has ended."""


class PresenceRule(NamedTuple):
    """The times that decide about presence.

    `idle_ms` after its last event a visit has ended. `leave_ms` after the last page was closed the visitor has left.
    """

    idle_ms: int
    leave_ms: int

    def presence(self, *, last_ms: int, open_count: int, last_exit_ms: int, now_ms: int) -> Presence:
        """Return the presence at `now_ms` of a visitor.

        `last_ms` is the time of the last event, `open_count` the number of open pages, and `last_exit_ms` when the last
        of the closed pages was closed; 0 if no page is known to be closed.
        """
        if now_ms - last_ms > self.idle_ms:
            return Presence.ENDED
        has_closed_all = last_exit_ms and not open_count
        return Presence.LEFT if has_closed_all and now_ms - last_exit_ms >= self.leave_ms else Presence.PRESENT
