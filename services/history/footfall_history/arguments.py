"""Arguments that several commands have."""

import argparse
import math
from datetime import UTC, datetime


def add_visits(command: argparse.ArgumentParser, *, about_rate: str) -> None:
    """Add arguments that say which visits are read, and how fast.

    They are `from_ms` and `to_ms` (ms since the epoch), and `rate` (visits per second), None unless given; and `sites`,
    empty for all.
    """
    command.add_argument("--from", type=_moment, dest="from_ms", metavar="TIME", help="only visits that began since")
    command.add_argument(
        "--to",
        type=_moment,
        dest="to_ms",
        metavar="TIME",
        help="only visits that began before; times are like 2026-11-28 or 2026-11-28T10:00+01:00, in UTC without an "
        "offset",
    )
    command.add_argument("--site", action="append", default=[], dest="sites", help="only of this site; repeatable")
    command.add_argument("--rate", type=_rate, metavar="VISITS", help=about_rate)


def _moment(text: str) -> int:
    """A time in ms since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time, such as 2026-11-28T10:00") from None
    return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))


def _rate(text: str) -> float:
    """A number per second."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return number
