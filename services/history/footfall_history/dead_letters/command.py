"""Turns `footfall-history dead-letters ...` into letters listed, shown, repaired, replayed and discarded."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_history.dead_letters import repair
from footfall_history.dead_letters.queue import DeadLetters, DeadLettersFullError, Letter
from footfall_history.dead_letters.repair import RepairError
from footfall_history.event_log import Log, Unavailable
from footfall_history.settings import DAY_MS, HistorySettings

_PATIENCE_S: Final = 10.0

Command = Callable[[DeadLetters, argparse.Namespace], Awaitable[int]]


def run_dead_letters(arguments: list[str]) -> int:
    """Carry out one command; the exit code: 0 done, 1 not (all) done, 2 not understood."""
    options = _parser().parse_args(arguments)
    settings = load(HistorySettings)
    options.max_age_ms = settings.max_event_age_days * DAY_MS
    logs.configure("history", "critical")  # what goes wrong is told below
    try:
        return asyncio.run(_run(settings, options))
    except (*Unavailable, TimeoutError):
        sys.stderr.write("Redis does not answer\n")
    except DeadLettersFullError:
        sys.stderr.write("too many letters lie in that partition: replay or discard some\n")
    except (RepairError, RefusalError) as error:
        sys.stderr.write(f"{error}\n")
    return 1


async def _run(settings: HistorySettings, options: argparse.Namespace) -> int:
    log = Log(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await log.check()
        command: Command = options.run
        letters = DeadLetters(
            log,
            kept_ms=settings.retention_days * DAY_MS,
            bound=settings.dead_letters_bound,
            bound_of_visit=settings.dead_letters_of_visit,
        )
        return await command(letters, options)
    finally:
        await log.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="footfall-history dead-letters", description="What could not be stored.")
    commands = parser.add_subparsers(required=True)

    listing = commands.add_parser("list", help="print time put aside, id and reason of each, oldest first")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="print one, without what may be about a person")
    show.add_argument("id")
    show.add_argument("--data", action="store_true", help="print all of the event")
    show.set_defaults(run=_show)

    fix = commands.add_parser("repair", help="change one, to be replayed; its new id is printed")
    fix.add_argument("id")
    pair = "FIELD=JSON"
    fix.add_argument("--set", action="append", type=_pair, default=[], metavar=pair, help="set a field; repeatable")
    fix.add_argument("--drop", action="append", default=[], metavar="FIELD", help="drop a field; repeatable")
    fix.add_argument("--event", metavar="FILE", help="take this event instead, as printed by show --data; -: stdin")
    fix.set_defaults(run=_repair)

    for name, command, words in (
        ("replay", _replay, "append these to the log again, for history and identity to read"),
        ("discard", _discard, "remove these for good"),
    ):
        several = commands.add_parser(name, help=words, allow_abbrev=False)  # `--a` must not mean everything
        which = several.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", nargs="*", default=[], metavar="id")
        which.add_argument("--all", action="store_true")
        several.set_defaults(run=command)
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be FIELD=JSON")
    return name, value


async def _list(letters: DeadLetters, _options: argparse.Namespace) -> int:
    async for letter in _all(letters):
        _print(_line(letter))
    return 0


async def _show(letters: DeadLetters, options: argparse.Namespace) -> int:
    letter = await _found(letters, options.id)
    sys.stderr.write(f"{_line(letter)}\n")
    if letter.batch:
        _print(repair.shown(letter.batch.events[0], is_whole=options.data).decode())
    return 0


async def _repair(letters: DeadLetters, options: argparse.Namespace) -> int:
    letter = await _found(letters, options.id)
    old = letter.batch
    if options.event:
        event = _given(options.event)
    elif old:
        event = repair.changed(old.events[0], dict(options.set), options.drop)
    else:
        raise RepairError("it holds no event: give one by --event")
    event.context_index = 0
    new = EventBatch(contexts=old.contexts if old else [EventContext(received_time_ms=letter.aside_ms)], events=[event])
    repair.check_change(old, new)
    _print(await letters.replace(letter, new, f"repaired; it was: {letter.reason}"))
    return 0


def _given(file: str) -> Event:
    try:
        return repair.read(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except OSError as error:
        raise RepairError(f"{file}: {error.strerror}") from None


async def _replay(letters: DeadLetters, options: argparse.Namespace) -> int:
    """Put back what history can store now.

    What happened longer ago than admission accepts is not: identity, which has forgotten its visit, would begin it anew
    with this event alone, and a stored twin of it may have expired.
    """
    exit_code = 0
    async for letter in _asked_for(letters, options):
        try:
            _check_replay(letter, options.max_age_ms)
        except RepairError as error:
            sys.stderr.write(f"{letter.id}: not replayed: {error}\n")
            exit_code = 1
        else:
            if await letters.replay(letter):
                _print(letter.id)
    return exit_code


def _check_replay(letter: Letter, max_age_ms: int) -> None:
    if letter.batch is None:
        raise RepairError("it holds no event")
    repair.check(letter.batch)
    if letter.batch.events[0].event_time_ms < time.time_ns() // 1_000_000 - max_age_ms:
        raise RepairError("it happened longer ago than MAX_EVENT_AGE_DAYS")


async def _discard(letters: DeadLetters, options: argparse.Namespace) -> int:
    async for letter in _asked_for(letters, options):
        await letters.remove([letter])
        _print(letter.id)
    return 0


async def _asked_for(letters: DeadLetters, options: argparse.Namespace) -> AsyncIterator[Letter]:
    if options.all:
        async for letter in _all(letters):
            yield letter
    for letter_id in options.ids:
        yield await _found(letters, letter_id)


async def _all(letters: DeadLetters) -> AsyncIterator[Letter]:
    for number in range(letters.partitions):
        async for letter in letters.each(number):
            yield letter


async def _found(letters: DeadLetters, letter_id: str) -> Letter:
    letter = await letters.find(letter_id)
    if letter is None:
        raise RepairError(f"no letter has the id {letter_id}")
    return letter


def _line(letter: Letter) -> str:
    put_aside = datetime.fromtimestamp(letter.aside_ms / 1000, UTC).isoformat(timespec="seconds")
    return f"{put_aside}\t{letter.id}\t{letter.reason}"


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
