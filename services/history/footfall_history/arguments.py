"""Types of arguments that several commands have."""

import argparse
import math
from datetime import UTC, datetime


def moment(text: str) -> int:
    """A time as an argument, in ms since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time, such as 2026-11-28T10:00") from None
    return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


def rate(text: str) -> float:
    """A number per second as an argument."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return number
