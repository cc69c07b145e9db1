"""Turns `footfall-import ...` into visits in history, from an old server or a file; or into what differs."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Final

from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load
from footfall_timeline import Walls

from footfall_history.identity_client import Identities
from footfall_history.importing.comparison import differences
from footfall_history.importing.importer import Importer, Progress
from footfall_history.importing.rest_client import RestClient, StoppedError, read_credentials
from footfall_history.importing.sources import OldServer, PastFile, Source
from footfall_history.ingest import Stamper
from footfall_history.settings import DAY_MS, HistorySettings
from footfall_history.storage import IMPORTED, Store, Tombstones, Unavailable

_PATIENCE_S: Final = 10.0
_PROGRESS: Final = Path("footfall-import.progress")
_BY_IDENTITY: Final = (
    "This server lists visits by identity alone: those that never named anybody are not brought. "
    "--visit-ids FILE brings any whose ids are known.\n"
)

Command = Callable[[argparse.Namespace], Awaitable[bool]]


def main() -> None:
    """Carry out the command; the entry point `footfall-import`.

    The exit code: 0 done, 1 not (all) done, or there are differences, 2 not understood.
    """
    options = _parser().parse_args()
    try:
        is_done = _run(options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        is_done = False
    sys.exit(0 if is_done else 1)


def _run(options: argparse.Namespace) -> bool:
    is_done = False
    try:
        is_done = asyncio.run(options.run(options))
    except* (StoppedError, RefusalError, ConnectionError) as errors:
        sys.stderr.write(f"{_first(errors)}\n")
    except* (*Unavailable, TimeoutError):
        sys.stderr.write("MongoDB does not answer\n")
    return is_done


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="footfall-import",
        description="Bring what another server knows of visits into history. Nothing of it is ever live.",
        epilog="`server` and `file` need the environment of the history service. What was brought stays, and comes "
        "only once: the same command again goes on where it was, or brings what is new.",
    )
    parser.add_argument("--version", action="version", version=f"footfall-import {version('footfall-history')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    server = commands.add_parser("server", help="bring visits through the History REST API of a server")
    server.add_argument("url", help="for instance https://gwe.example.com:9443, or with /backend/data behind it")
    _add_credentials(server, "--credentials")
    server.add_argument("--visit-ids", type=Path, metavar="FILE", help="bring these visits alone: an id a line")
    server.set_defaults(run=_bring_from_server)

    file = commands.add_parser("file", help="bring visits from a file of JSON lines")
    file.add_argument("file", type=Path, help="a line is an event, or a visit with its `events`, as that API has them")
    file.set_defaults(run=_bring_from_file)

    for bringing in server, file:
        bringing.add_argument("--site", default="", help="the website of all these visits; else as told, or `default`")
        bringing.add_argument(
            "--progress", type=Path, default=_PROGRESS, metavar="FILE", help="how far it is (default: %(default)s)"
        )

    compare = commands.add_parser("compare", help="print what two servers say differently of one day's visits")
    for name in ("old", "new"):
        compare.add_argument(f"--{name}", required=True, metavar="URL")
        _add_credentials(compare, f"--{name}-credentials")
    compare.add_argument("--day", required=True, type=date.fromisoformat, help="YYYY-MM-DD, in UTC")
    compare.set_defaults(run=_compare)

    for asking in server, compare:
        asking.add_argument("--ca", type=Path, metavar="FILE", help="authorities (PEM) of the servers' certificates")
        asking.add_argument(
            "--rate", type=_rate, default=50.0, help="requests a second to a server, at most (default: 50)"
        )
    return parser


def _add_credentials(parser: argparse.ArgumentParser, name: str) -> None:
    words = "holds user:password (Basic) or Bearer KEY; without it nothing is sent"
    parser.add_argument(name, type=Path, metavar="FILE", help=words)


def _rate(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise ValueError
    return rate


async def _bring_from_server(options: argparse.Namespace) -> bool:
    headers = read_credentials(options.credentials)
    client = RestClient(options.url, headers, ca=options.ca, rate=options.rate)
    async with client, _importer(options) as importer:
        source = OldServer(client, importer.tally.skip, options.visit_ids)
        if not await source.begin() and not options.visit_ids:
            sys.stderr.write(_BY_IDENTITY)
        return await _bring(importer, source, options, f"{client.url} {options.visit_ids or ''}".strip())


async def _bring_from_file(options: argparse.Namespace) -> bool:
    async with _importer(options) as importer:
        return await _bring(importer, PastFile(options.file, importer.tally.skip), options, str(options.file))


async def _bring(importer: Importer, source: Source, options: argparse.Namespace, name: str) -> bool:
    try:
        await importer.run(source, Progress(options.progress, name))
    except BaseException:
        sys.stderr.write("stopped; the same command goes on from here\n")
        raise
    finally:
        importer.tally.tell(at_once=True)
    return not importer.tally.skipped


@asynccontextmanager
async def _importer(options: argparse.Namespace) -> AsyncIterator[Importer]:
    settings = load(HistorySettings)
    logs.configure("history", "critical")  # what goes wrong is told by what is raised
    walls = Walls.load(settings.sites_file)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    tombstones = Tombstones(store, settings.erasure_secret, erases_anonymous=settings.erase_anonymous_stretch)
    identities = Identities(settings.identity_target, settings.identity_timeout_ms, settings.client_tls)
    stamper = Stamper(store, tombstones, transitions_kept=settings.visit_transitions, mark=IMPORTED)
    kept_ms = settings.retention_days * DAY_MS
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await tombstones.check()
        yield Importer(stamper, tombstones, identities, walls, kept_ms=kept_ms, site=options.site)
    finally:
        await identities.close()
        await store.close()


async def _compare(options: argparse.Namespace) -> bool:
    is_same = True
    old, new = (
        RestClient(url, read_credentials(file), ca=options.ca, rate=options.rate)
        for url, file in ((options.old, options.old_credentials), (options.new, options.new_credentials))
    )
    async with old, new:
        async for line in differences(old, new, options.day):
            is_same = False
            sys.stdout.write(f"{line}\n")
    return is_same


if __name__ == "__main__":
    main()
