"""Turns past visits into stored events and identities, by the writer that the log's events are stored by."""

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
from footfall_timeline import State, Walls

from footfall_history.identity_client import Identities
from footfall_history.importing.past_events import batch_of
from footfall_history.importing.rest_client import StoppedError
from footfall_history.importing.sources import Part, Parts, Place, Source, groups
from footfall_history.ingest import Stamper
from footfall_history.storage import Tombstones, Visit

_VISITS_AT_ONCE: Final = 8
_EVENTS_A_WRITE: Final = 1_000
_EVENTS_A_REQUEST: Final = 1_000
_BYTES_A_REQUEST: Final = 1024 * 1024
_TELL_EVERY_S: Final = 5.0
_REASONS_TOLD: Final = 100
_DEFAULT_SITE: Final = "default"


@dataclass
class Tally:
    """What became of the events that were read. Tells it on standard error, now and then."""

    stored: int = 0
    known: int = 0
    expired: int = 0
    skipped: int = 0
    _told_at: float = field(default_factory=time.monotonic)

    def skip(self, reason: str) -> None:
        """Count a record that cannot be brought, and say why."""
        self.skipped += 1
        if self.skipped <= _REASONS_TOLD:
            sys.stderr.write(f"skipped: {reason}\n")

    def tell(self, *, at_once: bool = False) -> None:
        """Say how far it is, every few seconds."""
        if at_once or time.monotonic() >= self._told_at + _TELL_EVERY_S:
            self._told_at = time.monotonic()
            sys.stderr.write(
                f"{self.stored} events stored, {self.known} there before, "
                f"{self.expired} older than HISTORY_RETENTION_DAYS, {self.skipped} records skipped\n"
            )


class Progress:
    """A file that says how far a source has been read, while it is not at its end."""

    def __init__(self, file: Path, source: str) -> None:
        self._file = file
        self._source = source

    def place(self) -> Place:
        """Where to go on. Raises StoppedError when the file is about something else."""
        try:
            source, page, after = msgspec.json.decode(self._file.read_bytes(), type=tuple[str, str, str])
        except FileNotFoundError:
            return Place()
        except (OSError, msgspec.DecodeError) as error:
            raise StoppedError(f"{self._file} cannot be read as progress: {type(error).__name__}") from None
        if source != self._source:
            raise StoppedError(f"{self._file} is the progress of another import, of {source}: name another file")
        return Place(page, after)

    def save(self, place: Place) -> None:
        """Note that all before a place is done. Raises StoppedError."""
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode((self._source, *place)))
            new.replace(self._file)
        except OSError as error:
            raise StoppedError(f"{self._file} cannot be written: {error.strerror}") from None

    def end(self) -> None:
        """There is nothing to go on with."""
        self._file.unlink(missing_ok=True)


class Importer:
    """Writes what was read. All of it may come again, and in any order."""

    def __init__(
        self, stamper: Stamper, tombstones: Tombstones, identities: Identities, walls: Walls, *, kept_ms: int, site: str
    ) -> None:
        """Events older than `kept_ms` would be removed at once. `site`: of all visits; empty: as each visit says."""
        self._stamper = stamper
        self._tombstones = tombstones
        self._identities = identities
        self._walls = walls
        self._kept_ms = kept_ms
        self._site = site
        self.tally = Tally()

    async def run(self, source: Source, progress: Progress) -> None:
        """Bring all that a source has from where it was left.

        Raises StoppedError, what the stores raise and ConnectionError (identity), one or several in a group.
        """
        async for group in groups(source.visits(progress.place()), _VISITS_AT_ONCE):
            progress.save(group[0][0])
            async with asyncio.TaskGroup() as tasks:
                for _, parts in group:
                    tasks.create_task(self._take(parts))
            self.tally.tell()
        progress.end()

    async def _take(self, parts: Parts) -> None:
        waiting: list[Part] = []
        count = 0
        async for part in parts:
            waiting.append(part)
            count += len(part[1])
            if count >= _EVENTS_A_WRITE:
                await self._write(waiting)
                waiting, count = [], 0
        await self._write(waiting)

    async def _write(self, parts: Iterable[Part]) -> None:
        batches = [batch for batch in self._batches(parts) if batch.events]
        if not batches:
            return
        kept = await self._stamper.keep(batches)
        for one in kept.unstorable:
            self.tally.skip(f"event {one.event.event_id} of visit {one.event.visit_id}: {one.reason}")
        self.tally.stored += kept.stored_count
        self.tally.known += sum(len(batch.events) for batch in batches) - kept.stored_count - len(kept.unstorable)
        unfit = {(one.event.visit_id, one.event.event_id) for one in kept.unstorable}
        events = [event for batch in batches for event in batch.events if event.transition]
        await self._tell_identity([event for event in events if (event.visit_id, event.event_id) not in unfit])

    def _batches(self, parts: Iterable[Part]) -> Iterator[EventBatch]:
        oldest_ms = time.time_ns() // 1_000_000 - self._kept_ms
        for visit, events in parts:
            kept = [timed for timed in events if timed.at_ms >= oldest_ms]
            self.tally.expired += len(events) - len(kept)
            try:
                yield batch_of(visit, kept, self._site or visit.site or _DEFAULT_SITE, self._walls)
            except ValueError as error:
                self.tally.skip(f"visit {visit.visit_id}: {error}")

    async def _tell_identity(self, events: Iterable[Event]) -> None:
        """What events said of identities, a visit at a time, with what its whole timeline now comes to."""
        by_visit: dict[str, list[Event]] = {}
        for event in events:
            by_visit.setdefault(event.visit_id, []).append(event)
        for visit_id, visit in (await self._tombstones.visits(by_visit)).items():
            for part in _parts(by_visit[visit_id]):
                await self._identities.take_over(ImportIdentitiesRequest(visits=[_imported(visit)], events=part))


def _parts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Events in order, in lists that go into one message."""
    part: list[Event] = []
    size = 0
    for event in events:
        part.append(event)
        size += event.ByteSize()
        if len(part) == _EVENTS_A_REQUEST or size >= _BYTES_A_REQUEST:
            yield part
            part, size = [], 0
    if part:
        yield part


def _imported(visit: Visit) -> ImportedVisit:
    stamp = visit.fold.stamp
    return ImportedVisit(
        visit_id=visit.visit_id,
        revision=visit.rev,
        identity_ids=visit.identities,
        signed_in_identity_id=stamp.identity if stamp.state is State.AUTHENTICATED else "",
    )
