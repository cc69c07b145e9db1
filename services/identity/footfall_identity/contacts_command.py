"""The command `footfall-contacts import FILE`: stores the contacts of a file through UpsertContact."""

import argparse
import asyncio
import sys
import time
from typing import Final

import grpc
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import Contact
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.settings import IdentityTarget
from footfall_servicekit.channel import open_channel
from footfall_servicekit.errors import details_of
from footfall_servicekit.settings import ProcessSettings, load
from grpc import StatusCode
from pydantic_settings import SettingsConfigDict

from footfall_identity.contacts_file import BadLineError, ContactsFile, ContactsFileError

_QUEUED_PER_WORKER: Final = 4
_CALL_TIMEOUT_S: Final = 10.0
_PROGRESS_INTERVAL_S: Final = 5.0
_TRANSIENT_CODES: Final = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)
_PAUSE_S: Final = 1.0

_Queue = asyncio.Queue[tuple[int, Contact] | None]


class ContactsSettings(ProcessSettings):
    """Settings of the command."""

    model_config = SettingsConfigDict(env_prefix="CONTACTS_")

    identity_target: IdentityTarget


def main() -> None:
    """Run the command `footfall-contacts`. Exit codes: 0 all done, 1 stopped or lines skipped, 2 invalid arguments."""
    parser = argparse.ArgumentParser(
        prog="footfall-contacts",
        description="Manage the contacts of a running identity service.",
        epilog="Environment: IDENTITY_TARGET is the gRPC target of identity; for TLS, set GRPC_TLS_CA_FILE, "
        "CONTACTS_GRPC_TLS_CERT_FILE and CONTACTS_GRPC_TLS_KEY_FILE.",
    )
    command = parser.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "import",
        help="create or replace the contacts of a file",
        description="Create or replace the contacts of a file: CSV with a header, or JSON lines. Invalid lines are "
        "reported and skipped. The import may be repeated.",
    )
    command.add_argument("file", help="the file; - for standard input")
    command.add_argument("--encoding", default="utf-8-sig", help="encoding of the file (default: UTF-8)")
    command.add_argument("--at-once", type=int, default=16, help="concurrent calls (default: %(default)s)")
    command.add_argument("--patience", type=float, default=60, help="seconds to retry while identity is unavailable")
    options = parser.parse_args()
    try:
        b"a".decode(options.encoding)
    except LookupError:
        parser.error(f"--encoding: {options.encoding} is no known text encoding")
    if options.at_once < 1:
        parser.error("--at-once: must be 1 or more")
    settings = load(ContactsSettings)
    try:
        with open(0 if options.file == "-" else options.file, "rb") as file:
            contacts = ContactsFile(file, options.encoding)
            if contacts.unknown:
                sys.stderr.write(f"ignored columns: {', '.join(contacts.unknown)}\n")
            sys.exit(asyncio.run(_import(settings, contacts, options)))
    except (OSError, ContactsFileError) as error:
        parser.error(f"{options.file}: {getattr(error, 'strerror', None) or error}")


async def _import(settings: ContactsSettings, contacts: ContactsFile, options: argparse.Namespace) -> int:
    async with open_channel(settings.identity_target, settings.client_tls) as channel:
        return await ContactsImport(contacts, channel, options.patience).run(options.at_once)


class _StoppedError(Exception):
    """The import cannot go on; the text says why."""


class ContactsImport:
    """One import. Contacts with the same id are stored in the order of the file."""

    def __init__(self, contacts: ContactsFile, channel: grpc.aio.Channel, patience_s: float) -> None:
        self._contacts = contacts
        self._upsert = IdentityServiceStub(channel).UpsertContact
        self._patience_s = patience_s
        self._stored = self._skipped = 0
        self._started = time.monotonic()
        self._report_at = self._started + _PROGRESS_INTERVAL_S

    async def run(self, concurrency: int) -> int:
        """Store all contacts with `concurrency` concurrent calls; return the exit code."""
        queues = [_Queue(_QUEUED_PER_WORKER) for _ in range(concurrency)]
        exit_code = 0
        try:
            async with asyncio.TaskGroup() as workers:
                for queue in queues:
                    workers.create_task(self._store_queued(queue))
                for line, contact in self._contacts:
                    if isinstance(contact, BadLineError):
                        self._skip(line, str(contact))
                    else:
                        await queues[hash(contact.contact_id) % concurrency].put((line, contact))
                for queue in queues:
                    await queue.put(None)
        except* _StoppedError as stopped:
            sys.stderr.write(f"The import has stopped; run it again later. {stopped.exceptions[0]}\n")
            exit_code = 1
        sys.stdout.write(f"{self._stored:,} contacts stored, {self._skipped:,} lines skipped\n")
        return exit_code or int(self._skipped > 0)

    async def _store_queued(self, queue: _Queue) -> None:
        while item := await queue.get():
            await self._store(*item)

    async def _store(self, line: int, contact: Contact) -> None:
        """Store a contact, or report it as skipped if identity rejects it. Raises _StoppedError for other errors."""
        give_up_at = time.monotonic() + self._patience_s
        while True:
            self._report_progress()
            try:
                await self._upsert(pb.UpsertContactRequest(contact=contact), timeout=_CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                details = details_of(error)
                if details.violations:
                    rules = (f"{field.removeprefix('contact.')} {rule}" for field, rule in details.violations)
                    self._skip(line, "; ".join(rules))
                    return
                if details.code not in _TRANSIENT_CODES or time.monotonic() >= give_up_at:
                    raise _StoppedError(f"{details.code.name}: {details.message}") from None
            else:
                self._stored += 1
                return
            await asyncio.sleep(_PAUSE_S)

    def _skip(self, line: int, reason: str) -> None:
        self._skipped += 1
        sys.stderr.write(f"line {line}: {reason}\n")

    def _report_progress(self) -> None:
        """Report the progress every few seconds."""
        now = time.monotonic()
        if now < self._report_at:
            return
        self._report_at = now + _PROGRESS_INTERVAL_S
        percent = self._contacts.percent_read
        read = "" if percent is None else f"{percent} %: "
        rate = self._stored / (now - self._started)
        sys.stderr.write(f"{read}{self._stored:,} contacts stored, {rate:,.0f} a second\n")
