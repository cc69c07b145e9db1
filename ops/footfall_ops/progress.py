"""Lines on standard error that say how far a command is, now and then."""

import sys
import time
from collections.abc import Callable
from typing import Final

_EVERY_S: Final = 5.0


def say(line: str) -> None:
    """Write a line for the operator."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Progress:
    """Writes the line that `describe` makes, at most every five seconds."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._said_at = time.monotonic()

    def report(self) -> None:
        """Write the line if it is time to."""
        now = time.monotonic()
        if now - self._said_at >= _EVERY_S:
            self._said_at = now
            say(self._describe())
