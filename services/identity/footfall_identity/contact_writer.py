"""Writing of contacts: one, many, and all that a source has (synchronization).

That identities have to be linked again is stored with a single contact (`is_stale`), and before several contacts as a
note (`WrittenBatch`). So after a kill at any moment `Relinker` finds what is left to be done.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple, TypeVar
from uuid import uuid4

import structlog
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity.contact_record import (
    ContactChange,
    ContactRecord,
    ContactResult,
    ContactSync,
    RequestMemory,
    WrittenBatch,
    changed,
    unmarked,
)
from footfall_identity.link_store import LinkStore
from footfall_identity.relinking import Relinker
from footfall_identity.visitor_store import now_ms

_CONTACTS_PER_STEP: Final = 100
"""They are read together, and one note says that their identities have to be linked again."""
_CONTACTS_PER_WRITE: Final = 20
"""Few enough that a query about a visitor does not wait long for the event loop or for MongoDB."""
_CONTACTS_TOGETHER: Final = 5
"""To validate or to change them takes less than a millisecond."""
_TURNS_BETWEEN: Final = 10
"""Turns of the event loop, as many as a query about a visitor needs: else it would wait at each of them."""
_CONTACTS_PER_READ: Final = 1_000
_DELETIONS_PER_CALL: Final = 1_000
"""As many as a call deletes within its time limit."""
_MAX_REMEMBERED: Final = 100_000
"""Ids of contacts to be deleted that are kept between two calls."""
_READING_KEPT_S: Final = 300.0
_NOTED_MS: Final = 20_000
"""Less than the time after which other processes look at the note of a batch."""

_log = structlog.get_logger()

Item = TypeVar("Item")

Pair = tuple[ContactRecord | None, ContactRecord]
"""A record before and after a change; None: there was none."""


class Written(NamedTuple):
    """What became of a contact, and its record now; None if there is none."""

    result: ContactResult
    record: ContactRecord | None


class FinishedSync(NamedTuple):
    """How many contacts a call has deleted, how many are still to be deleted, and how many stay."""

    deleted: int
    remaining: int
    kept: int


class ContactWriter:
    """Writes contacts, and has their identities linked again.

    All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable. Contacts may have been written then.
    """

    def __init__(
        self,
        links: LinkStore,
        relinker: Relinker,
        *,
        phone_region: str | None,
        memory: RequestMemory,
        max_deleted_percent: int,
    ) -> None:
        """`max_deleted_percent`: share of all contacts that a synchronization may delete."""
        self._links = links
        self._relinker = relinker
        self._phone_region = phone_region
        self._memory = memory
        self._max_deleted_percent = max_deleted_percent
        self._reading: _Reading | None = None
        self._deleting = asyncio.Lock()
        self._turn = asyncio.Lock()
        """Held for each step of batches: two at a time would let other calls wait twice as long."""

    async def write_one(self, change: ContactChange) -> ContactRecord | None:
        """Make one change; return the contact, None if there is none.

        Raises RequestError: ABORTED (ETAG_MISMATCH), or INVALID_ARGUMENT for a request id of another write.
        """
        [(result, record)] = written = await self._write_some([change])
        await self._settle([change], written)
        if result is ContactResult.ETAG_MISMATCH:
            raise RequestError.aborted(
                "ETAG_MISMATCH", "the contact has changed since it was read, or does not exist, or exists already"
            )
        if result is ContactResult.REQUEST_ID_USED:
            raise RequestError.invalid("request_id", "must not be that of another write")
        return None if result is ContactResult.NOT_FOUND else record

    async def write(self, changes: Iterable[ContactChange]) -> list[Written]:
        """Make changes of different contacts, each atomically. They are in the journal afterwards.

        Changes are taken when they are made, so a generator can validate them between calls. Identities are linked
        again in the background.
        """
        made: list[ContactChange] = []
        written: list[Written] = []
        given = iter(changes)
        while True:
            async with self._turn:
                group = [change async for change in serving_between(islice(given, _CONTACTS_PER_STEP))]
                written += await self._write_some(group)
            made += group
            if len(group) < _CONTACTS_PER_STEP:
                break
        await self._settle(made, written)
        return written

    async def _settle(self, changes: Sequence[ContactChange], written: Sequence[Written]) -> None:
        """Wait until changes are in the journal, and forget that contacts were sent that are deleted now."""
        # Afterwards: a contact that is not deleted must keep its mark, or the synchronization would delete it.
        gone = [change.contact_id for change, one in zip(changes, written, strict=True) if _is_gone(change, one.result)]
        if gone:
            await self._links.forget_sent(gone)
        await self._links.wait_for_journal()

    async def _write_some(self, changes: Sequence[ContactChange]) -> list[Written]:
        done: dict[str, Written] = {}
        while missing := [change for change in changes if change.contact_id not in done]:
            known = await self._links.contacts([change.contact_id for change in missing])
            pairs: list[Pair] = []
            results: dict[str, ContactResult] = {}
            async for change in serving_between(missing):
                before = known.get(change.contact_id)
                result, after = changed(before, change, now_ms(), self._memory, self._phone_region)
                if after is before or after is None:
                    done[change.contact_id] = Written(result, after)
                else:
                    results[change.contact_id] = result
                    pairs.append((before, after))
            # Those that others have changed are read again.
            stored = await (self._store(pairs) if len(changes) == 1 else self._store_batch(pairs))
            done |= {record.contact_id: Written(results[record.contact_id], record) for record in stored}
        return [done[change.contact_id] for change in changes]

    async def _store(self, pairs: list[Pair]) -> list[ContactRecord]:
        stored = await self._links.store_contacts(pairs)
        self._relinker.request(stored)
        return stored

    async def _store_batch(self, pairs: list[Pair]) -> list[ContactRecord]:
        stale = [
            ContactRecord(contact_id=after.contact_id, stale_keys=after.stale_keys)
            for _, after in pairs
            if after.is_stale
        ]
        batch = WrittenBatch(batch_id=uuid4().hex, at_ms=now_ms(), contacts=stale)
        if stale:
            await self._links.note_batch(batch)
        stored: list[ContactRecord] = []
        for start in range(0, len(pairs), _CONTACTS_PER_WRITE):
            part = pairs[start : start + _CONTACTS_PER_WRITE]
            stored += await self._links.store_contacts([(before, unmarked(before, after)) for before, after in part])
        if stale:
            if now_ms() - batch.at_ms > _NOTED_MS:  # another process may have removed the note too early
                await self._links.note_batch(replace(batch, at_ms=now_ms()))
            self._relinker.request_batch(batch)
        return stored

    async def mark_sent(self, generation: int, contact_ids: Sequence[str]) -> None:
        """Note that contacts were sent in a synchronization, which begins with its first ones.

        Raises RequestError (FAILED_PRECONDITION) after the beginning of a later synchronization.
        """
        known = await self._links.contact_sync()
        if contact_ids and (known is None or known.generation < generation):
            known = await self._links.begin_contact_sync(ContactSync(generation=generation, start_ms=now_ms()))
            _log.info("a synchronization of contacts has begun", generation=generation)
        if known:
            _require_latest(known, generation)
        if contact_ids:
            await self._links.mark_sent(generation, contact_ids)

    async def finish_sync(
        self, generation: int, max_deleted_percent: int = 0, *, validate_only: bool = False
    ) -> FinishedSync:
        """Delete contacts that were not sent in a generation, a limited number.

        The first call reads all contacts. If it is given up meanwhile, the next one waits for the same reading.

        Raises RequestError (FAILED_PRECONDITION) for too great a share of all contacts, without deleting any.
        """
        sync = await self._latest(generation)
        unsent = await self._unsent(sync)
        limit = max_deleted_percent or self._max_deleted_percent
        is_refused = unsent.number * 100 > unsent.total * limit
        if is_refused or validate_only:
            self._reading = None
        if is_refused:
            raise RequestError.failed_precondition(
                "TOO_MANY_DELETIONS",
                f"{unsent.number} of {unsent.total} contacts were not sent; to delete more than {limit} % of them, set "
                "max_deleted_percent",
            )
        if validate_only:
            return FinishedSync(0, unsent.number, unsent.total - unsent.number)
        async with self._deleting:
            deleted = await self._delete(sync, unsent)
        await self._links.wait_for_journal()
        if not unsent.ids:
            self._reading = None
        _log.info("contacts that were not sent are deleted", generation=generation, contacts=deleted)
        return FinishedSync(deleted, unsent.number, unsent.total - unsent.number)

    async def _delete(self, sync: ContactSync, unsent: "_Unsent") -> int:
        deleted, left = 0, _DELETIONS_PER_CALL
        while ids := unsent.ids[: min(_CONTACTS_PER_WRITE, left)]:
            # A later synchronization may have begun meanwhile, or these contacts may have been sent after all.
            await self._latest(sync.generation)
            sent = await self._links.sent_of(sync.generation, ids)
            deletions = [
                ContactChange(contact_id=one, given=None, creates=False, before_ms=sync.start_ms)
                for one in ids
                if one not in sent
            ]
            async with self._turn:
                written = await self._write_some(deletions)
            count = sum(one.result is ContactResult.DELETED for one in written)
            deleted += count
            unsent.total -= count
            del unsent.ids[: len(ids)]
            left -= len(ids)
        return deleted

    async def _latest(self, generation: int) -> ContactSync:
        """Return the synchronization of this generation if it is the latest one."""
        sync = await self._links.contact_sync()
        if sync is None or sync.generation < generation:
            raise RequestError.failed_precondition("SYNC_NOT_BEGUN", "no contact was sent in this generation")
        _require_latest(sync, generation)
        return sync

    async def _unsent(self, sync: ContactSync) -> "_Unsent":
        """What was read for this synchronization a moment ago, or is being read; else read it."""
        reading = self._reading
        if reading is None or not reading.serves(sync.generation):
            task = asyncio.create_task(self._read_unsent(sync))
            reading = self._reading = _Reading(sync.generation, time.monotonic(), task)
        return await asyncio.shield(reading.task)

    async def _read_unsent(self, sync: ContactSync) -> "_Unsent":
        """Read all contacts and all that were sent, both by id."""
        unsent = _Unsent()
        sent: set[str] = set()
        pages = self._links.sent_ids(sync.generation, _CONTACTS_PER_READ)
        page: list[str] | None = [""]
        async for marks in self._links.contact_marks(_CONTACTS_PER_READ):
            while page and page[-1] < marks[-1].contact_id:
                page = await anext(pages, None)
                sent.update(page or ())
            existing = [mark for mark in marks if not mark.is_deleted]
            ids = [
                mark.contact_id for mark in existing if mark.update_ms < sync.start_ms and mark.contact_id not in sent
            ]
            sent.intersection_update(page or ())  # earlier ones are of contacts that have been read
            unsent.total += len(existing)
            kept = ids[: _MAX_REMEMBERED - len(unsent.ids)]
            unsent.ids += kept
            unsent.more += len(ids) - len(kept)
        return unsent


async def serving_between(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield items of a batch. After each few, other calls are served."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _CONTACTS_TOGETHER == 0:
            for _ in range(_TURNS_BETWEEN):
                await asyncio.sleep(0)


@dataclass
class _Unsent:
    """Contacts that were not sent: the first ids, and the number of further ones. `total`: of all contacts."""

    ids: list[str] = field(default_factory=list)
    more: int = 0
    total: int = 0

    @property
    def number(self) -> int:
        return len(self.ids) + self.more


class _Reading(NamedTuple):
    """A reading of the contacts that were not sent in a generation. `began_s`: by the monotonic clock."""

    generation: int
    began_s: float
    task: "asyncio.Task[_Unsent]"

    def serves(self, generation: int) -> bool:
        if generation != self.generation or (self.task.done() and (self.task.cancelled() or self.task.exception())):
            return False
        return not self.task.done() or time.monotonic() < self.began_s + _READING_KEPT_S


def _require_latest(latest: ContactSync, generation: int) -> None:
    if latest.generation > generation:
        raise RequestError.failed_precondition(
            "SYNC_SUPERSEDED", f"a synchronization with a later generation has begun: {latest.generation}"
        )


def _is_gone(change: ContactChange, result: ContactResult) -> bool:
    """Return whether a contact that a caller wants to delete no longer exists."""
    return change.given is None and result in {ContactResult.DELETED, ContactResult.NOT_FOUND}
