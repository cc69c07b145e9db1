"""The command `footfall-policy`: checks an identity policy, and tries it on stored visits, before it counts."""

import argparse
import asyncio
import os
import sqlite3
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from footfall_eventlog.events import USER_ID_KEYS
from footfall_eventlog.identity_policy import IdentityPolicy, IdentityPolicyError
from footfall_eventlog.sites import SitesFileError
from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load
from footfall_timeline import LaterVersionError

from footfall_history.arguments import add_visits
from footfall_history.policies.page import to_html
from footfall_history.policies.report import MAX_JUDGED, MAX_LISTED, MOST_JUDGED, summary, to_json
from footfall_history.policies.running import Trial, try_policy
from footfall_history.policies.simulator import Counts, Range
from footfall_history.settings import HistorySettings
from footfall_history.storage import TRANSIENT_STORE_ERRORS

_REPORT_EVERY_S: Final = 5.0


def main() -> None:
    """Run the command `footfall-policy`. Exit codes: 0 done, 1 failed, 2 the policy or an argument is wrong."""
    options = _parser().parse_args()
    try:
        policy = IdentityPolicy.load(options.policy, options.user_id_keys)
    except IdentityPolicyError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.exit(options.run(policy, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="footfall-policy", description="Manage identity policies.")
    parser.add_argument("--version", action="version", version=f"footfall-policy {version('footfall-history')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser(
        "check",
        help="check a file",
        description="Check a file for IDENTITY_POLICY_FILE. Exits with 2 and names line and rule of what is wrong.",
    )
    check.add_argument("policy", type=Path, metavar="file", help="the file")
    check.set_defaults(run=_check, user_id_keys=USER_ID_KEYS)
    simulate = commands.add_parser(
        "simulate",
        help="try a file on stored visits",
        description="Run the stored visits of a time under a policy, and report what it changes. Writes nothing into "
        "the stores. The reports contain personal data.",
        epilog="Needs the environment variables of the history service.",
    )
    simulate.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the file to try")
    add_visits(simulate, about_rate="visits per second at most; half of the time it always pauses")
    simulate.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    simulate.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    simulate.add_argument(
        "--examples", type=_count, default=5, metavar="COUNT", help="visits of each kind of change (default: 5)"
    )
    simulate.add_argument(
        "--largest", type=_count, default=100, metavar="COUNT", help="identities of each kind of change (default: 100)"
    )
    simulate.add_argument(
        "--links",
        type=partial(_count, most=MOST_JUDGED),
        default=MAX_JUDGED,
        metavar="COUNT",
        help=f"identities whose links to contacts are compared at most (default: {MAX_JUDGED})",
    )
    simulate.add_argument(
        "--user-id-keys",
        type=_keys,
        default=USER_ID_KEYS,
        metavar="KEYS",
        help="COLLECTOR_USER_ID_KEYS, if it is set and the file gives none",
    )
    simulate.set_defaults(run=_simulate)
    return parser


def _count(text: str, most: int = MAX_LISTED) -> int:
    if not (text.isdecimal() and int(text) <= most):
        raise argparse.ArgumentTypeError(f"must be 0 to {most:,}")
    return int(text)


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise argparse.ArgumentTypeError("must be keys, separated by commas")
    return keys


def _check(policy: IdentityPolicy, _options: argparse.Namespace) -> int:
    sys.stdout.write(f"The policy is right. Decisions will record the version {policy.version}.\n")
    return 0


def _simulate(policy: IdentityPolicy, options: argparse.Namespace) -> int:
    settings = load(HistorySettings)
    logs.configure("history", "critical")  # errors are written to standard error instead
    to_ms = time.time_ns() // 1_000_000 if options.to_ms is None else options.to_ms
    visits = Range(options.from_ms, to_ms, options.sites)
    trial = Trial(policy, visits, options.examples, options.largest, options.rate, options.links)
    try:
        report = asyncio.run(try_policy(settings, trial, _Progress().report))
        for file, content in ((options.json, to_json), (options.html, to_html)):
            if file:
                _write(file, content(report))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
    except (RefusalError, LaterVersionError, SitesFileError) as error:
        sys.stderr.write(f"{error}\n")
    except (*TRANSIENT_STORE_ERRORS, TimeoutError):
        sys.stderr.write("MongoDB does not answer. Check MONGO_URL and run the command again.\n")
    except sqlite3.OperationalError as error:
        sys.stderr.write(
            f"The temporary file of identities cannot be written ({error}). Set TMPDIR to another folder.\n"
        )
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'TMPDIR'}: cannot be written: {error.strerror}\n")
    else:
        sys.stdout.write(summary(report))
        return 0
    return 1


class _Progress:
    """Reports on standard error how far a simulation is and how fast, now and then."""

    def __init__(self) -> None:
        self._started = self._reported_at = time.monotonic()

    def report(self, counts: Counts, *, is_last: bool) -> None:
        """Report if it is time to."""
        now = time.monotonic()
        if is_last or now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            seconds = max(now - self._started, 0.001)
            until = datetime.fromtimestamp(counts.last_start_ms / 1000, UTC).isoformat(timespec="seconds")
            sys.stderr.write(
                f"{counts.visits:,} visits with {counts.events:,} events that identify, until {until}: "
                f"{counts.visits / seconds:,.0f} visits/s, {counts.events / seconds:,.0f} events/s\n"
            )


def _write(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read: it contains personal data. Raises OSError."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        output.write(content)


if __name__ == "__main__":
    main()
