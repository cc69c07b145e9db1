"""Links identities again in the background after contacts or generic values have changed, in bounded steps.

A stored contact has a mark (`is_stale`, `stale_keys`) until its identities are linked, so a crash loses nothing. The
process that has stored it links them soon; any process does so for marks that are older than some seconds.

Contacts that are written together have a note instead (`WrittenBatch`): one more write for all of them, and not two for
each. It is stored before them and is removed when their identities are linked. Other processes look at it only after a
minute, when its writer has written the contacts or has given up.

A few identities are linked directly. A cohort (`relink_store.py`) of many gets a note, and its identities are linked in
turns. Cohorts take turns with each other, and contacts do not wait for them. A process pauses after each step for as
long as the step took, so that at least half of its time is left to calls and to the event log.

Linking is idempotent. So it does no harm when two processes link the same identities, or when one does so twice.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence, Set
from contextlib import suppress
from typing import Any, Final, NamedTuple

from footfall_servicekit.background import attempt
from footfall_servicekit.channel import time_left
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity import metrics
from footfall_identity.contact_record import ContactRecord, WrittenBatch
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.redirects import Redirect, all_together
from footfall_identity.relink_store import Cohort, RelinkNote
from footfall_identity.visitor_store import now_ms

_MAX_DIRECT: Final = 100
"""A cohort with more identities gets a note."""
_IDENTITIES_PER_TURN: Final = 100
_READ_AHEAD: Final = 5_000
_MAX_READ_AHEAD: Final = 8
"""A process remembers the next members of this many cohorts, because a store may read all of them for a few."""
_TURN_MS: Final = 10_000
"""A process that has not ended its turn by then has failed, and another one takes the turn."""
_CONTACTS_PER_STEP: Final = 50
_MAX_QUEUED: Final = 10_000
"""Contacts that a process remembers; it finds the others by their mark."""
_COHORTS_TOGETHER: Final = 500
_SWEEP_EVERY_S: Final = 10.0
_LEFT_BEHIND_MS: Final = 10_000
"""A mark that is older than this is found by every process."""
_BATCH_WRITTEN_MS: Final = 60_000
"""By then the contacts of a batch are stored, or never will be: no call lasts as long."""
_MAX_QUEUED_BATCHES: Final = 100
"""Batches that a process remembers; it finds the others by their notes."""
_LOOK_EVERY_S: Final = 5.0
_POLL_S: Final = 0.1
_ANSWER_S: Final = 0.5
"""Kept of the time of a call for its answer."""


class _Ahead(NamedTuple):
    """Members of a cohort that follow a position in a pass."""

    pass_rev: str
    position: str
    members: list[str]


class Relinker:
    """Links the identities of changed contacts again. `run` does the work of this process."""

    def __init__(self, links: LinkStore, linker: Linker, *, wait_ms: int, max_wait_ms: int) -> None:
        """`wait_ms` is how long `wait` waits if the request does not say it, `max_wait_ms` at most."""
        self._links = links
        self._notes = links.relinks
        self._linker = linker
        self._wait_s = wait_ms / 1000
        self._max_wait_s = max_wait_ms / 1000
        self._queued: dict[str, asyncio.Event] = {}
        self._taken: dict[str, asyncio.Event] = {}
        self._batches: deque[WrittenBatch] = deque()
        self._has_contacts = asyncio.Event()
        self._has_notes = asyncio.Event()
        self._ahead: dict[str, _Ahead] = {}

    def request(self, contacts: Iterable[ContactRecord]) -> None:
        """Have the identities of contacts linked again that have just been stored. Does not wait.

        Needed only to be fast: `run` finds contacts by their mark, in any process, at the latest after 20 s.
        """
        for contact in contacts:
            if contact.is_stale and len(self._queued) < _MAX_QUEUED:
                self._queued.setdefault(contact.contact_id, asyncio.Event())
                self._has_contacts.set()

    def request_batch(self, batch: WrittenBatch) -> None:
        """Have the identities of a batch of contacts linked again that has just been stored. Does not wait."""
        if len(self._batches) < _MAX_QUEUED_BATCHES:
            self._batches.append(batch)
            self._has_contacts.set()

    async def wait(self, contact: ContactRecord, wait_ms: int | None) -> int:
        """Wait until the identities of a contact, as it was stored, are linked; return how many are still pending.

        Waits `wait_ms` at most. None: the default time, and only for cohorts without a note. Raises RequestError
        (UNAVAILABLE).
        """
        limits = (self._wait_s if wait_ms is None else wait_ms / 1000, self._max_wait_s, time_left(_ANSWER_S))
        until = time.monotonic() + min(limit for limit in limits if limit is not None)
        if linked := self._queued.get(contact.contact_id) or self._taken.get(contact.contact_id):
            try:
                await asyncio.wait_for(linked.wait(), until - time.monotonic())
            except TimeoutError:
                return 1
            contact = replace(contact, is_stale=False)
        elif contact.is_stale:
            now = await self._links.contact(contact.contact_id)
            contact = replace(contact, is_stale=now is not None and now.is_stale)
        while pending := await self.pending_count(contact):
            if wait_ms is None or time.monotonic() + _POLL_S > until:
                break
            await asyncio.sleep(_POLL_S)
        return pending

    async def pending_count(self, contact: ContactRecord) -> int:
        """Return how many identities have still to be linked again; 1 until they are counted.

        One that shares several attributes with the contact counts several times. Raises RequestError (UNAVAILABLE).
        """
        cohorts = _affected_cohorts(contact) | _match_key_cohorts((*contact.keys, *contact.pending_keys))
        notes = await self._notes.notes(cohorts)
        return sum(note.pending_count for note in notes) or int(contact.is_stale)

    async def run(self) -> None:
        """Link what is pending until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._link_queued, self._take_turns, self._sweep):
                tasks.create_task(work())

    async def finish(self) -> None:
        """Link everything that is pending. Raises RequestError (UNAVAILABLE)."""
        await self._link_marked(now_ms() + _LEFT_BEHIND_MS + _BATCH_WRITTEN_MS)
        while await self._take_turn():
            pass

    async def _link_queued(self) -> None:
        while True:
            await self._has_contacts.wait()
            self._has_contacts.clear()
            while self._queued or self._batches:
                if self._queued:
                    await _paced(attempt(RequestError, self._link_next))
                if self._batches:
                    await _paced(attempt(RequestError, self._link_next_batch))

    async def _link_next_batch(self) -> None:
        """Link the identities of the first batch in the queue. After a failure, its note is found again."""
        await self._link_batch(self._batches.popleft())

    async def _link_batch(self, batch: WrittenBatch) -> None:
        await self._link_affected(batch.contacts)
        await self._links.remove_batch(batch.batch_id)

    async def _link_next(self) -> None:
        """Link the identities of the first contacts in the queue. After a failure, their marks are found again."""
        ids = [*self._queued][:_CONTACTS_PER_STEP]
        self._taken = {contact_id: self._queued.pop(contact_id) for contact_id in ids}
        try:
            contacts = await self._links.contacts(ids)
            await self._link([contact for contact in contacts.values() if contact.is_stale])
            for linked in self._taken.values():
                linked.set()
        finally:
            self._taken = {}

    async def _link(self, contacts: Sequence[ContactRecord]) -> None:
        """Link the identities of stale contacts, or store notes about them; then remove the marks."""
        former = _match_key_cohorts(key for contact in contacts for key in contact.pending_keys)
        pending = {cohort.value for cohort in await self._link_affected(contacts, former)}
        await self._links.unmark_contacts((contact, _former_keys(contact) & pending) for contact in contacts)

    async def merge(self, from_id: str, into_id: str, actor: str) -> Redirect:
        """Let a contact lead to another, and link all whom that concerns, or store notes about them.

        Raises RequestError (FAILED_PRECONDITION), see RedirectStore.decide, or UNAVAILABLE: then it may be decided, and
        is linked by `run`.
        """
        return await self.settle(await self._links.merges.decide(from_id, into_id, actor, now_ms()))

    async def undo_merge(self, from_id: str, actor: str) -> Redirect:
        """Undo a merge of contacts likewise."""
        return await self.settle(await self._links.merges.undo(from_id, actor, now_ms()))

    async def settle(self, merge: Redirect) -> Redirect:
        """Link all whom a merge of contacts or its undoing concerns, unless that is done; return the merge.

        Raises RequestError (UNAVAILABLE).
        """
        if merge.is_due:
            both = [merge.from_id, merge.decisions[-1].to_id]
            await self._link_affected([ContactRecord(contact_id=contact_id) for contact_id in both], with_all=True)
            await self._links.merges.unmark(merge)
            await self._links.wait_for_journal()
        return merge

    async def _merged_with(self, contacts: Sequence[ContactRecord], *, with_all: bool) -> list[ContactRecord]:
        """Return the contacts that are merged with these, as if all their keys were new; `with_all`: these too."""
        given = {contact.contact_id for contact in contacts}
        merges = await self._links.merges.names(given)
        wanted = {*all_together(merges, given)} - (set() if with_all else given)
        known = await self._links.keys_of_contacts(wanted)
        return [ContactRecord(contact_id=one, stale_keys=tuple(known.get(one, ()))) for one in sorted(wanted)]

    async def _link_affected(
        self, contacts: Sequence[ContactRecord], former: Set[Cohort] = frozenset(), *, with_all: bool = False
    ) -> set[Cohort]:
        """Link the identities of stale contacts, or store notes about them; return the cohorts that have notes.

        `with_all`: all keys of the contacts are stale.
        """
        contacts = [*contacts, *await self._merged_with(contacts, with_all=with_all)]
        affected = {cohort for contact in contacts for cohort in _affected_cohorts(contact)}
        noted = {note.cohort: note.member_count for note in await self._notes.notes(affected | former)}
        large = {cohort: noted[cohort] for cohort in affected & noted.keys()}
        for field in ("keys", "by_hand"):
            cohorts = sorted(cohort for cohort in affected - noted.keys() if cohort.field == field)
            for start in range(0, len(cohorts), _COHORTS_TOGETHER):
                large |= await self._link_small(cohorts[start : start + _COHORTS_TOGETHER])
        await self._notes.request(large, now_ms())
        if large:
            self._has_notes.set()
        return {*noted, *large}

    async def _link_small(self, cohorts: Sequence[Cohort]) -> dict[Cohort, int]:
        """Link the identities of cohorts with the same field. Return those that are too large for that, counted."""
        if len(cohorts) > 1:
            members = await self._links.members_of_any(cohorts, _MAX_DIRECT + 1)
        else:
            members = await self._links.members(cohorts[0], "", _READ_AHEAD)
        if len(members) <= _MAX_DIRECT:
            await self._relink(members)
            return {}
        if len(cohorts) == 1:
            is_all = len(members) < _READ_AHEAD
            return {cohorts[0]: len(members) if is_all else await self._links.count_members(cohorts[0])}
        half = len(cohorts) // 2
        return await self._link_small(cohorts[:half]) | await self._link_small(cohorts[half:])

    async def _relink(self, identity_ids: Sequence[str]) -> None:
        await self._linker.relink(identity_ids)
        metrics.RELINKED.inc(len(identity_ids))

    async def _take_turns(self) -> None:
        while True:
            self._has_notes.clear()
            await attempt(RequestError, self._take_all_turns)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_notes.wait(), _LOOK_EVERY_S)

    async def _take_all_turns(self) -> None:
        while await self._take_turn():
            pass

    async def _take_turn(self) -> bool:
        """Link the next identities of the cohort that has waited longest. Return False if none is waiting."""
        note = await self._notes.take_turn(now_ms(), now_ms() + _TURN_MS)
        if note is None:
            return False
        members = await self._next_members(note)
        await _paced(self._relink(members))
        if members:
            await self._notes.end_turn(note, members, now_ms())
        else:
            await self._notes.end_pass(note, now_ms())
        return True

    async def _next_members(self, note: RelinkNote) -> list[str]:
        """Return the identities of a turn; none at the end of the pass."""
        ahead = self._ahead.pop(note.note_id, None)
        if ahead and (ahead.pass_rev, ahead.position) == (note.pass_rev, note.position):
            members = ahead.members
        else:
            members = await self._links.members(note.cohort, note.position, _READ_AHEAD)
        now, later = members[:_IDENTITIES_PER_TURN], members[_IDENTITIES_PER_TURN:]
        if later:
            self._ahead[note.note_id] = _Ahead(note.pass_rev, now[-1], later)
            for oldest in [*self._ahead][:-_MAX_READ_AHEAD]:
                del self._ahead[oldest]
        return now

    async def _sweep(self) -> None:
        while True:
            await attempt(RequestError, self._link_left_behind)
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _link_left_behind(self) -> None:
        before_ms = now_ms() - _LEFT_BEHIND_MS
        stale = await self._links.stale_contacts(_CONTACTS_PER_STEP, before_ms)
        notes, since_ms = await self._notes.backlog()
        metrics.PENDING_RELINKS.set(len(stale) + notes)
        times_ms = [contact.update_ms for contact in stale] + ([since_ms] if since_ms else [])
        metrics.OLDEST_PENDING_RELINK.set(min(times_ms, default=0) / 1000)
        await self._link_marked(before_ms)

    async def _link_marked(self, before_ms: int) -> None:
        """Link identities that are due, and those of contacts that were marked before a time, until none is left."""
        while due := await self._links.due(_IDENTITIES_PER_TURN):
            await _paced(self._linker.relink(due))
        while renames := await self._links.renames.due(1):
            await _paced(self._linker.settle(renames[0]))
        while merges := await self._links.merges.due(1):
            await _paced(self.settle(merges[0]))
        while stale := await self._links.stale_contacts(_CONTACTS_PER_STEP, before_ms):
            await _paced(self._link(stale))
        while batch := await self._links.next_batch(before_ms - _BATCH_WRITTEN_MS):
            await _paced(self._link_batch(batch))
        while await self._linker.generic_values.announce_left_behind(_CONTACTS_PER_STEP, before_ms):
            pass


async def _paced(work: Awaitable[Any]) -> None:
    """Do work, and pause for as long as it took."""
    began = time.monotonic()
    await work
    await asyncio.sleep(time.monotonic() - began)


def _match_key_cohorts(keys: Iterable[str]) -> set[Cohort]:
    return {Cohort("keys", key) for key in keys}


def _affected_cohorts(contact: ContactRecord) -> set[Cohort]:
    """The identities whose links a stale contact may change."""
    return {Cohort("by_hand", contact.contact_id), *_match_key_cohorts(contact.stale_keys)}


def _former_keys(contact: ContactRecord) -> set[str]:
    """Match keys that a contact no longer has, as far as it remembers them."""
    return {*contact.stale_keys, *contact.pending_keys} - {*contact.keys}
