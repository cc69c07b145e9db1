"""The commands of the relay: the state of outlets, pause and resume, dead letters."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis
from footfall_servicekit import logs
from footfall_servicekit.command_line import Command
from footfall_servicekit.settings import load

from footfall_relay.dead_letters import PER_STEP, replay
from footfall_relay.outlets_file import Outlet, read_outlets
from footfall_relay.positions import Positions
from footfall_relay.settings import RelaySettings
from footfall_relay.stamping import HistoryUnavailableError, Stamper

Run = Callable[[RelaySettings, Positions, argparse.Namespace], Awaitable[int]]


def open_positions(settings: RelaySettings, holder: str) -> Positions:
    """What the relay keeps in Redis."""
    return Positions(
        PartitionedRedis(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms),
        holder,
        known_days=settings.live_retention_days,
        max_dead_letters=settings.max_dead_letters,
        dead_letter_days=settings.dead_letter_days,
    )


def open_stamper(settings: RelaySettings) -> Stamper:
    """What asks history and identity."""
    return Stamper(
        settings.history_target,
        settings.identity_target,
        settings.client_tls,
        history_timeout_ms=settings.history_timeout_ms,
        identity_timeout_ms=settings.identity_timeout_ms,
        erasure_key=settings.erasure_secret,
    )


async def _outlets(settings: RelaySettings, positions: Positions, _: argparse.Namespace) -> int:
    paused = await positions.paused()
    for name, outlet in read_outlets(settings.file, allow_http=settings.allow_http).items():
        lags = [await positions.lag_s(name, number) for number in positions.redis.numbers]
        says = "paused by the file" if outlet.paused else "paused by command" if name in paused else "goes on"
        kind = type(outlet).__name__.lower()
        sys.stdout.write(f"{name}: {kind}, {says}, {max(lags):.0f} s behind, {await positions.count_dead(name)} dead\n")
    return 0


async def _pause(settings: RelaySettings, positions: Positions, options: argparse.Namespace) -> int:
    _outlet_of(settings, options.outlet)
    await positions.pause(options.outlet, is_paused=True)
    sys.stdout.write(f"{options.outlet} is paused. The event log keeps {settings.relay_hold_minutes} minutes for it.\n")
    return 0


async def _resume(settings: RelaySettings, positions: Positions, options: argparse.Namespace) -> int:
    outlet = _outlet_of(settings, options.outlet)
    await positions.pause(options.outlet, is_paused=False)
    left = ", when the outlets file no longer pauses it" if outlet.paused else ""
    sys.stdout.write(f"{options.outlet} goes on{left}.\n")
    return 0


async def _dead_letters(settings: RelaySettings, positions: Positions, options: argparse.Namespace) -> int:
    outlet = _outlet_of(settings, options.outlet)
    if options.action == "list":
        for letter in await positions.dead(outlet.name, PER_STEP):
            about, at = letter.reference, datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat("T", "seconds")
            what = f"{about.visit_id}/{about.event_id}" if about.event_id else about.erasure_id
            sys.stdout.write(f"{at} {about.kind} {what}: {letter.reason}\n")
        sys.stdout.write(f"{await positions.count_dead(outlet.name)} dead letters.\n")
        return 0
    if options.action == "discard":
        count = await positions.count_dead(outlet.name)
        await positions.remove_dead(outlet.name, await positions.dead(outlet.name, count))
        sys.stdout.write(f"Discarded {count} dead letters.\n")
        return 0
    stamper, delivered, gone, refused = open_stamper(settings), 0, 0, 0
    try:
        async for step in replay(outlet, positions, stamper):
            delivered, gone, refused = delivered + step.delivered, gone + step.gone, refused + len(step.refused)
    finally:
        await stamper.close()
    sys.stdout.write(f"Delivered {delivered}; {gone} are no longer stored; {refused} were refused again and stay.\n")
    return 1 if refused else 0


def _outlet_of(settings: RelaySettings, name: str) -> Outlet:
    outlet = read_outlets(settings.file, allow_http=settings.allow_http).get(name)
    if outlet is None:
        sys.exit(f"The outlets file has no outlet {name}.")
    return outlet


@asynccontextmanager
async def _opened(settings: RelaySettings) -> AsyncIterator[Positions]:
    positions = open_positions(settings, "command")
    try:
        yield positions
    finally:
        await positions.redis.aclose()


def _command(name: str, about: str, run: Run, *, actions: tuple[str, ...] = (), names_outlet: bool = True) -> Command:
    def start(arguments: list[str]) -> int:
        parser = argparse.ArgumentParser(prog=f"footfall-relay {name}", description=f"{about}.".capitalize())
        if actions:
            parser.add_argument("action", choices=actions)
        if names_outlet:
            parser.add_argument("outlet", help="its name in the outlets file")
        options = parser.parse_args(arguments)
        logs.configure("relay", "error")
        return asyncio.run(_run(run, options))

    return Command(about, start)


async def _run(run: Run, options: argparse.Namespace) -> int:
    settings = load(RelaySettings)
    async with _opened(settings) as positions:
        try:
            return await run(settings, positions, options)
        except TRANSIENT_ERRORS as error:
            sys.stderr.write(f"Redis does not answer ({type(error).__name__}).\n")
        except HistoryUnavailableError as error:
            sys.stderr.write(f"History does not answer ({error}).\n")
        return 1


COMMANDS: Final = {
    "outlets": _command("outlets", "list the outlets and how far behind they are", _outlets, names_outlet=False),
    "pause": _command("pause", "pause an outlet; the relay notices within a second", _pause),
    "resume": _command("resume", "let an outlet go on", _resume),
    "dead-letters": _command(
        "dead-letters",
        "list, replay or discard what an outlet did not take",
        _dead_letters,
        actions=("list", "replay", "discard"),
    ),
}
