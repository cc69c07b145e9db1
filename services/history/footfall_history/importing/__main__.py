"""The command `footfall-import`: imports visits into history, or compares two servers."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Final

from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.settings import DAY_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_history.identity_client import IdentityClient
from footfall_history.importing.comparison import differences
from footfall_history.importing.importer import Importer, ProgressFile
from footfall_history.importing.rest_client import RestClient, StoppedError, read_credentials
from footfall_history.importing.sources import FileSource, ServerSource, Source
from footfall_history.ingest import Attributor
from footfall_history.settings import HistorySettings
from footfall_history.storage import IMPORTED, TRANSIENT_STORE_ERRORS, Store, Tombstones

_TIMEOUT_S: Final = 10.0
_PROGRESS: Final = Path("footfall-import.progress")
_BY_IDENTITY: Final = (
    "This server lists visits by identity alone, so visits without an identity are not imported. "
    "To import these as well, list their ids in a file and use --visit-ids FILE.\n"
)


def main() -> None:
    """Run the command; the entry point `footfall-import`.

    Exit codes: 0 done, 1 failed in whole or in part, or there are differences, 2 usage error.
    """
    options = _parser().parse_args()
    is_done = False
    try:
        is_done = asyncio.run(options.run(options))
    except* KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
    except* (StoppedError, RefusalError, ConnectionError) as errors:
        sys.stderr.write(f"{_first(errors)}\n")
    except* (*TRANSIENT_STORE_ERRORS, TimeoutError):
        sys.stderr.write("MongoDB does not answer. Check MONGO_URL and run the command again.\n")
    sys.exit(0 if is_done else 1)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="footfall-import",
        description="Import visits of another server into history. Imported visits never appear as live.",
        epilog="`server` and `file` need the environment variables of the history service. Events are imported once: "
        "the same command continues an interrupted import, or imports new visits.",
    )
    parser.add_argument("--version", action="version", version=f"footfall-import {version('footfall-history')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    server = commands.add_parser("server", help="import visits through the History REST API of a server")
    server.add_argument("url", help="for instance https://gwe.example.com:9443, with or without /backend/data")
    _add_credentials(server, "--credentials")
    server.add_argument("--visit-ids", type=Path, metavar="FILE", help="import only these visits: one id per line")
    server.set_defaults(run=_import_from_server)

    file = commands.add_parser("file", help="import visits from a file of JSON lines")
    file.add_argument("file", type=Path, help="each line is an event, or a visit with its `events`, as in that API")
    file.set_defaults(run=_import_from_file)

    for importing in server, file:
        importing.add_argument(
            "--site", default="", help="the site of all these visits; otherwise as in the source, or `default`"
        )
        importing.add_argument(
            "--progress",
            type=Path,
            default=_PROGRESS,
            metavar="FILE",
            help="where the position is saved (default: %(default)s)",
        )

    compare = commands.add_parser("compare", help="print how the visits of one day differ on two servers")
    for name in ("old", "new"):
        compare.add_argument(f"--{name}", required=True, metavar="URL")
        _add_credentials(compare, f"--{name}-credentials")
    compare.add_argument("--day", required=True, type=date.fromisoformat, help="YYYY-MM-DD, in UTC")
    compare.set_defaults(run=_compare)

    for reading in server, compare:
        reading.add_argument("--ca", type=Path, metavar="FILE", help="certificate authorities (PEM) of the servers")
        reading.add_argument("--rate", type=_rate, default=50.0, help="requests per second to a server (default: 50)")
    return parser


def _add_credentials(parser: argparse.ArgumentParser, name: str) -> None:
    words = "contains user:password (Basic) or Bearer KEY; without it no credentials are sent"
    parser.add_argument(name, type=Path, metavar="FILE", help=words)


def _rate(text: str) -> float:
    rate = float(text)
    if not rate > 0:
        raise ValueError
    return rate


async def _import_from_server(options: argparse.Namespace) -> bool:
    headers = read_credentials(options.credentials)
    client = RestClient(options.url, headers, ca=options.ca, rate=options.rate)
    async with client, _importer(options) as importer:
        source = ServerSource(client, importer.counts.skip, options.visit_ids)
        if not await source.detect() and not options.visit_ids:
            sys.stderr.write(_BY_IDENTITY)
        return await _import(importer, source, options, f"{client.url} {options.visit_ids or ''}".strip())


async def _import_from_file(options: argparse.Namespace) -> bool:
    async with _importer(options) as importer:
        return await _import(importer, FileSource(options.file, importer.counts.skip), options, str(options.file))


async def _import(importer: Importer, source: Source, options: argparse.Namespace, name: str) -> bool:
    try:
        await importer.run(source, ProgressFile(options.progress, name))
    except BaseException:
        sys.stderr.write("Stopped. Run the same command again to continue from here.\n")
        raise
    finally:
        importer.counts.report(is_last=True)
    return not importer.counts.skipped


@asynccontextmanager
async def _importer(options: argparse.Namespace) -> AsyncIterator[Importer]:
    settings = load(HistorySettings)
    logs.configure("history", "critical")  # errors are written to standard error instead
    site_groups = SiteGroups.load(settings.sites_file)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    tombstones = Tombstones(store, settings.erasure_secret, erases_anonymous=settings.erase_anonymous_events)
    identity_client = IdentityClient(settings.identity_target, settings.identity_timeout_ms, settings.client_tls)
    attributor = Attributor(store, tombstones, max_transitions=settings.max_transitions_per_visit, mark=IMPORTED)
    retention_ms = settings.event_retention_days * DAY_MS
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await tombstones.check()
        yield Importer(
            store,
            attributor,
            tombstones,
            identity_client,
            site_groups,
            IdentityPolicy.load(settings.identity_policy_file),
            retention_ms=retention_ms,
            site=options.site,
        )
    finally:
        await identity_client.close()
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
