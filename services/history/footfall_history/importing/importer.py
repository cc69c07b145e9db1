"""Imports visits into history and identity, with the attributor that stores the log's events."""

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.identity.v1.identity_service_pb2 import ImportedVisit, ImportIdentitiesRequest
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import DEFAULT_SITE
from footfall_timeline import State

from footfall_history.identity_client import IdentityClient
from footfall_history.importing.past_events import to_batch
from footfall_history.importing.rest_client import StoppedError
from footfall_history.importing.sources import Part, Parts, Position, Source
from footfall_history.ingest import Attributor
from footfall_history.parts import in_parts, stream_in_parts
from footfall_history.scorecards import day_of
from footfall_history.storage import Store, Tombstones, Visit

_CONCURRENT_VISITS: Final = 8
_EVENTS_PER_WRITE: Final = 1_000
_EVENTS_PER_REQUEST: Final = 1_000
_BYTES_PER_REQUEST: Final = 1024 * 1024
_REPORT_EVERY_S: Final = 5.0
_MAX_REASONS: Final = 100


@dataclass
class ImportCounts:
    """Counts of events by outcome, reported on standard error.

    `known`: stored before. `expired`: older than the retention. `skipped`: malformed records.
    """

    stored: int = 0
    known: int = 0
    expired: int = 0
    skipped: int = 0
    _reported_at: float = field(default_factory=time.monotonic)

    def skip(self, reason: str) -> None:
        """Count a record that cannot be imported, and report why."""
        self.skipped += 1
        if self.skipped <= _MAX_REASONS:
            sys.stderr.write(f"skipped: {reason}\n")

    def report(self, *, is_last: bool = False) -> None:
        """Report the counts, if they are the last ones or were not reported for some seconds."""
        if is_last or time.monotonic() >= self._reported_at + _REPORT_EVERY_S:
            self._reported_at = time.monotonic()
            sys.stderr.write(
                f"{self.stored} events stored, {self.known} there before, "
                f"{self.expired} older than EVENT_RETENTION_DAYS, {self.skipped} records skipped\n"
            )


class ProgressFile:
    """The file with the position up to which a source has been imported. It exists until the import is complete."""

    def __init__(self, file: Path, source: str) -> None:
        self._file = file
        self._source = source

    def read(self) -> Position:
        """The position to continue from. Raises StoppedError if the file belongs to another import."""
        try:
            source, page, after = msgspec.json.decode(self._file.read_bytes(), type=tuple[str, str, str])
        except FileNotFoundError:
            return Position()
        except (OSError, msgspec.DecodeError) as error:
            raise StoppedError(f"{self._file}: cannot be read ({type(error).__name__}). Remove the file.") from None
        if source != self._source:
            raise StoppedError(f"{self._file}: belongs to another import, of {source}. Name another by --progress.")
        return Position(page, after)

    def save(self, position: Position) -> None:
        """Save the position up to which all is imported. Raises StoppedError."""
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode((self._source, *position)))
            new.replace(self._file)
        except OSError as error:
            raise StoppedError(f"{self._file}: cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the file after the import is complete."""
        self._file.unlink(missing_ok=True)


@dataclass
class Importer:
    """Writes visits into history and identity. The same visits may be imported again, in any order.

    Events older than `retention_ms` are skipped. `site`: of all visits; if empty, as in the source, else `default`.
    """

    store: Store
    attributor: Attributor
    tombstones: Tombstones
    identity_client: IdentityClient
    site_groups: SiteGroups
    policy: IdentityPolicy
    retention_ms: int
    site: str
    counts: ImportCounts = field(default_factory=ImportCounts)
    _days: set[str] = field(default_factory=set)

    async def run(self, source: Source, progress: ProgressFile) -> None:
        """Import the rest of a source.

        Raises StoppedError, TRANSIENT_STORE_ERRORS and ConnectionError (identity), or a group of these.
        """
        async for group in stream_in_parts(source.visits(progress.read()), _CONCURRENT_VISITS):
            progress.save(group[0][0])
            async with asyncio.TaskGroup() as tasks:
                for _, parts in group:
                    tasks.create_task(self._import_visit(parts))
            await self.store.note_changed_days(self._days, time.time_ns() // 1_000_000)
            self._days.clear()
            self.counts.report()
        progress.remove()

    async def _import_visit(self, parts: Parts) -> None:
        async for some in stream_in_parts(parts, _EVENTS_PER_WRITE, lambda part: len(part[1])):
            await self._write(some)

    async def _write(self, parts: Iterable[Part]) -> None:
        batches = [batch for batch in self._batches(parts) if batch.events]
        if not batches:
            return
        result = await self.attributor.store(batches)
        for one in result.unstorable:
            self.counts.skip(f"event {one.event.event_id} of visit {one.event.visit_id}: {one.reason}")
        self.counts.stored += result.stored_count
        self.counts.known += sum(len(batch.events) for batch in batches) - result.stored_count - len(result.unstorable)
        self._days |= {day_of(event.event_time_ms) for batch in batches for event in batch.events}
        malformed = {(one.event.visit_id, one.event.event_id) for one in result.unstorable}
        events = [event for batch in batches for event in batch.events if event.transition]
        await self._send_identities([event for event in events if (event.visit_id, event.event_id) not in malformed])

    def _batches(self, parts: Iterable[Part]) -> Iterator[EventBatch]:
        oldest_ms = time.time_ns() // 1_000_000 - self.retention_ms
        for visit, events in parts:
            recent = [timed for timed in events if timed.at_ms >= oldest_ms]
            self.counts.expired += len(events) - len(recent)
            try:
                yield to_batch(visit, recent, self.site or visit.site or DEFAULT_SITE, self.site_groups, self.policy)
            except ValueError as error:
                self.counts.skip(f"visit {visit.visit_id}: {error}")

    async def _send_identities(self, events: Iterable[Event]) -> None:
        """Send transitions to identity, a visit at a time, with the state after the visit's whole timeline."""
        events_by_visit: dict[str, list[Event]] = {}
        for event in events:
            events_by_visit.setdefault(event.visit_id, []).append(event)
        for visit_id, visit in (await self.tombstones.read_visits(events_by_visit)).items():
            for part in in_parts(events_by_visit[visit_id], _BYTES_PER_REQUEST, _request_bytes):
                request = ImportIdentitiesRequest(visits=[_imported_visit(visit)], events=part)
                await self.identity_client.import_identities(request)


def _request_bytes(event: Event) -> int:
    """The part of a request that an event takes: at least so much that a request has 1,000 events at most."""
    return max(event.ByteSize(), -(-_BYTES_PER_REQUEST // _EVENTS_PER_REQUEST))


def _imported_visit(visit: Visit) -> ImportedVisit:
    attribution = visit.visit_state.attribution
    return ImportedVisit(
        visit_id=visit.visit_id,
        revision=visit.rev,
        identity_ids=visit.identities,
        signed_in_identity_id=attribution.identity if attribution.state is State.AUTHENTICATED else "",
    )
