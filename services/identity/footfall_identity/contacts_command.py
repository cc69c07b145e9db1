"""The command `footfall-contacts import FILE`: stores the contacts of a file, and with `--sync` deletes the others."""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import Contact
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.settings import IdentityTarget
from footfall_servicekit.channel import forwarded, open_channel
from footfall_servicekit.errors import details_of
from footfall_servicekit.settings import ProcessSettings, load
from google.protobuf.message import Message
from grpc import StatusCode
from pydantic_settings import SettingsConfigDict

from footfall_identity.contacts_file import BadLineError, ContactsFile, ContactsFileError

_CONTACTS_PER_BATCH: Final = 500
_BYTES_PER_BATCH: Final = 1024 * 1024
_CALL_TIMEOUT_S: Final = 30.0
_PROGRESS_INTERVAL_S: Final = 5.0
_TRANSIENT_CODES: Final = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)
_PAUSE_S: Final = 1.0

_Queue = asyncio.Queue[tuple[int, Contact] | None]
_STORED: Final = {
    contact_pb2.CONTACT_RESULT_CREATED,
    contact_pb2.CONTACT_RESULT_CHANGED,
    contact_pb2.CONTACT_RESULT_UNCHANGED,
}


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
        "CONTACTS_GRPC_TLS_CERT_FILE and CONTACTS_GRPC_TLS_KEY_FILE; where callers need a key, GRPC_TOKEN_FILE.",
    )
    command = parser.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "import",
        help="create or replace the contacts of a file",
        description="Create or replace the contacts of a file: CSV with a header, or JSON lines. Invalid lines are "
        "reported and skipped. The import may be repeated.",
    )
    command.add_argument("file", help="the file; - for standard input")
    command.add_argument("--encoding", default="utf-8-sig", help="encoding of the file (default: UTF-8)")
    command.add_argument("--at-once", type=int, default=4, help="concurrent batches (default: %(default)s)")
    command.add_argument("--patience", type=float, default=60, help="seconds to retry while identity is unavailable")
    command.add_argument(
        "--sync", action="store_true", help="afterwards, delete the contacts that the file does not have"
    )
    command.add_argument(
        "--max-deleted-percent",
        type=int,
        metavar="PERCENT",
        help="with --sync: share of all contacts that may be deleted (default: IDENTITY_SYNC_MAX_DELETED_PERCENT)",
    )
    options = parser.parse_args()
    try:
        b"a".decode(options.encoding)
    except LookupError:
        parser.error(f"--encoding: {options.encoding} is no known text encoding")
    if options.at_once < 1:
        parser.error("--at-once: must be 1 or more")
    if options.max_deleted_percent is not None and not 1 <= options.max_deleted_percent <= 100:
        parser.error("--max-deleted-percent: must be 1 to 100")
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
    generation = time.time_ns() // 1_000_000 if options.sync else 0
    async with open_channel(settings.identity_target, settings.client_tls) as channel:
        imported = ContactsImport(contacts, channel, options.patience, generation)
        return await imported.run(options.at_once, options.max_deleted_percent or 0)


class _StoppedError(Exception):
    """The import cannot go on; the text says why."""


class ContactsImport:
    """One import. Contacts with the same id are stored in the order of the file."""

    def __init__(
        self, contacts: ContactsFile, channel: grpc.aio.Channel, patience_s: float, generation: int = 0
    ) -> None:
        """With a `generation`, the file is a synchronization: other contacts are deleted in the end."""
        self._contacts = contacts
        self._identity = IdentityServiceStub(channel)
        self._patience_s = patience_s
        self._generation = generation
        self._stored = self._skipped = self._unreadable = self._deleted = 0
        self._started = time.monotonic()
        self._report_at = self._started + _PROGRESS_INTERVAL_S

    async def run(self, concurrency: int, max_deleted_percent: int = 0) -> int:
        """Store all contacts with `concurrency` concurrent calls; return the exit code."""
        exit_code = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._store_all(concurrency))
            if self._generation:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._delete_others(max_deleted_percent))
        except* _StoppedError as stopped:
            sys.stderr.write(f"The import has stopped; run it again later. {_text(stopped)}\n")
            exit_code = 1
        deleted = f", {self._deleted:,} contacts deleted" if self._generation else ""
        sys.stdout.write(f"{self._stored:,} contacts stored, {self._skipped:,} lines skipped{deleted}\n")
        return exit_code or int(self._skipped > 0)

    async def _store_all(self, concurrency: int) -> None:
        queues = [_Queue(_CONTACTS_PER_BATCH) for _ in range(concurrency)]
        async with asyncio.TaskGroup() as workers:
            for queue in queues:
                workers.create_task(self._store_queued(queue))
            for line, contact in self._contacts:
                if isinstance(contact, BadLineError):
                    self._unreadable += 1
                    self._skip(line, str(contact))
                else:
                    await queues[hash(contact.contact_id) % concurrency].put((line, contact))
            for queue in queues:
                await queue.put(None)

    async def _store_queued(self, queue: _Queue) -> None:
        """Store the contacts of a queue in batches. A contact that comes again is stored by the next batch."""
        batch: dict[str, tuple[int, Contact]] = {}
        size = 0
        while True:
            item = await queue.get()
            is_full = len(batch) == _CONTACTS_PER_BATCH or size > _BYTES_PER_BATCH
            if batch and (item is None or is_full or item[1].contact_id in batch):
                await self._store(list(batch.values()))
                batch, size = {}, 0
            if item is None:
                return
            batch[item[1].contact_id] = item
            size += item[1].ByteSize()

    async def _store(self, batch: list[tuple[int, Contact]]) -> None:
        """Store contacts, and report those that identity refuses."""
        request = pb.BatchUpsertContactsRequest(contacts=[contact for _, contact in batch], generation=self._generation)
        response = await self._call(self._identity.BatchUpsertContacts, request)
        for (line, _), outcome in zip(batch, response.outcomes, strict=True):
            if outcome.result in _STORED:
                self._stored += 1
            else:
                self._skip(line, "; ".join(f"{broken.field} {broken.rule}" for broken in outcome.violations))

    async def _delete_others(self, max_deleted_percent: int) -> None:
        """Delete the contacts that were not sent. Raises _StoppedError if a line was unreadable or identity refuses."""
        if self._unreadable:
            raise _StoppedError("No contact was deleted: a line that cannot be read may be a contact.")
        request = pb.FinishContactSyncRequest(generation=self._generation, max_deleted_percent=max_deleted_percent)
        while True:
            response = await self._call(self._identity.FinishContactSync, request)
            self._deleted += response.deleted_count
            if not response.remaining_count:
                return

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Message) -> Any:
        """Call identity, also repeatedly while it is unavailable. Raises _StoppedError for other errors."""
        give_up_at = time.monotonic() + self._patience_s
        while True:
            self._report_progress()
            try:
                return await method(request, timeout=_CALL_TIMEOUT_S, metadata=forwarded())
            except grpc.aio.AioRpcError as error:
                details = details_of(error)
                if details.code not in _TRANSIENT_CODES or time.monotonic() >= give_up_at:
                    raise _StoppedError(f"{details.code.name}: {details.message}") from None
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


def _text(stopped: BaseExceptionGroup[_StoppedError]) -> str:
    """Return why the import has stopped."""
    first = stopped.exceptions[0]
    return _text(first) if isinstance(first, BaseExceptionGroup) else str(first)
