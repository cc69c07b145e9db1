"""The command `footfall-history dead-letters`: list, show, repair, replay and discard."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.settings import DAY_MS
from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_history.dead_letters import repair
from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue, DeadLettersFullError
from footfall_history.dead_letters.repair import RepairError
from footfall_history.event_log import TRANSIENT_LOG_ERRORS, EventLog
from footfall_history.settings import HistorySettings

_TIMEOUT_S: Final = 10.0


def run_dead_letters(arguments: list[str]) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed in whole or in part, 2 usage error."""
    options = _parser().parse_args(arguments)
    settings = load(HistorySettings)
    options.max_age_ms = settings.max_event_age_days * DAY_MS
    logs.configure("history", "critical")  # errors are written to standard error instead
    try:
        return asyncio.run(_run(settings, options))
    except (*TRANSIENT_LOG_ERRORS, TimeoutError):
        sys.stderr.write("Redis does not answer. Check REDIS_URL and try again.\n")
    except DeadLettersFullError:
        sys.stderr.write("The partition has too many dead letters. Replay or discard some first.\n")
    except (RepairError, RefusalError) as error:
        sys.stderr.write(f"{error}\n")
    return 1


async def _run(settings: HistorySettings, options: argparse.Namespace) -> int:
    log = EventLog(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await log.check()
        queue = DeadLetterQueue(
            log,
            retention_ms=settings.event_retention_days * DAY_MS,
            max_per_partition=settings.max_dead_letters,
            max_per_visit=settings.max_dead_letters_per_visit,
        )
        exit_code: int = await options.run(queue, options)
        return exit_code
    finally:
        await log.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="footfall-history dead-letters", description="Handle events that could not be stored."
    )
    commands = parser.add_subparsers(required=True)

    listing = commands.add_parser("list", help="print time of creation, id and reason of each, oldest first")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="print one, without fields that may be about a person")
    show.add_argument("id")
    show.add_argument("--data", action="store_true", help="print all fields of the event")
    show.set_defaults(run=_show)

    fix = commands.add_parser("repair", help="change the event of one and print its new id; replay it afterwards")
    fix.add_argument("id")
    pair = "FIELD=JSON"
    fix.add_argument("--set", action="append", type=_pair, default=[], metavar=pair, help="set a field; repeatable")
    fix.add_argument("--drop", action="append", default=[], metavar="FIELD", help="remove a field; repeatable")
    fix.add_argument("--event", metavar="FILE", help="replace the event by one as `show --data` prints it; -: stdin")
    fix.set_defaults(run=_repair)

    for name, command, words in (
        ("replay", _replay, "append these to the event log again, for history and identity to read"),
        ("discard", _discard, "remove these permanently"),
    ):
        several = commands.add_parser(name, help=words, allow_abbrev=False)  # `--a` must not be taken for --all
        which = several.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="id")
        which.add_argument("--all", action="store_true", help="all dead letters")
        several.set_defaults(run=command)
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be FIELD=JSON")
    return name, value


async def _list(queue: DeadLetterQueue, _options: argparse.Namespace) -> int:
    async for letter in queue.everything():
        _print(_line(letter))
    return 0


async def _show(queue: DeadLetterQueue, options: argparse.Namespace) -> int:
    letter = await _find(queue, options.id)
    sys.stderr.write(f"{_line(letter)}\n")
    if letter.batch:
        _print(repair.to_json(letter.batch.events[0], is_whole=options.data).decode())
    return 0


async def _repair(queue: DeadLetterQueue, options: argparse.Namespace) -> int:
    letter = await _find(queue, options.id)
    if options.event:
        new = repair.repaired(letter, _read_event(options.event))
    else:
        new = repair.repaired_by(letter, dict(options.set), options.drop)
    _print(await queue.replace(letter, new, repair.reason_after(letter)))
    return 0


def _read_event(file: str) -> Event:
    try:
        return repair.from_json(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except OSError as error:
        raise RepairError(f"{file}: {error.strerror}") from None


async def _replay(queue: DeadLetterQueue, options: argparse.Namespace) -> int:
    """Replay interactions and events that history can store now, except events older than admission accepts.

    Identity has forgotten the visit of such an event and would begin a new one, and a duplicate that history stored may
    have expired.
    """
    exit_code = 0
    async for letter in _selected(queue, options):
        if problem := repair.why_not_replayed(letter, options.max_age_ms):
            sys.stderr.write(f"{letter.id}: not replayed: {problem}\n")
            exit_code = 1
        elif await queue.replay(letter):
            _print(letter.id)
    return exit_code


async def _discard(queue: DeadLetterQueue, options: argparse.Namespace) -> int:
    async for letter in _selected(queue, options):
        await queue.remove([letter])
        _print(letter.id)
    return 0


async def _selected(queue: DeadLetterQueue, options: argparse.Namespace) -> AsyncIterator[DeadLetter]:
    if options.all:
        async for letter in queue.everything():
            yield letter
    for letter_id in options.ids:
        yield await _find(queue, letter_id)


async def _find(queue: DeadLetterQueue, letter_id: str) -> DeadLetter:
    letter = await queue.find(letter_id)
    if letter is None:
        raise RepairError(f"There is no dead letter {letter_id}. `dead-letters list` prints all ids.")
    return letter


def _line(letter: DeadLetter) -> str:
    created = datetime.fromtimestamp(letter.created_ms / 1000, UTC).isoformat(timespec="seconds")
    return f"{created}\t{letter.id}\t{letter.reason}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
