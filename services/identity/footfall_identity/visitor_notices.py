"""Notices of changes of visitors that no event brings: visitors who leave, visits that end, and contacts that change.

A notice is an entry of the stream of changes, from which WatchVisitors is answered (`change_feed.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import msgspec
from footfall_servicekit.errors import RequestError

from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.visitor_store import VisitorStore, now_ms

_VISITS_PER_CALL: Final = 500  # a few milliseconds
_ENDED_MS_PER_CALL: Final = 10_000
_CLOCKS_DIFFER_MS: Final = 1_000
"""A visit that has just ended is reported so much later, because a process whose clock is behind may still merge its
events as those of a live visit."""
_LOOK_AGAIN_MS: Final = 5_000
_PAGES_WATCHED_MS: Final = 60_000

_pack = msgspec.msgpack.Encoder().encode


class ChangingContact(NamedTuple):
    """An identity whose contact changes, the contact that it has had ("": none), and its last visits."""

    identity_id: str
    contact_id: str
    visit_ids: Sequence[str]


class VisitorNotices:
    """Writes notices. Unless said otherwise, methods raise RequestError (UNAVAILABLE) while Redis is unavailable."""

    def __init__(
        self,
        partitions: Partitions,
        visitors: VisitorStore,
        *,
        changelog_max_entries: int,
        max_visits_per_identity: int,
    ) -> None:
        self._partitions = partitions
        self._visitors = visitors
        self._rule = visitors.presence_rule
        self._changelog_max_entries = changelog_max_entries
        self._max_visits = max_visits_per_identity
        self._note_changes = partitions.script("note_changes.lua")
        self._note_contacts = partitions.script("note_contacts.lua")

    async def note_due(self, number: int, *, are_contacts_known: bool = True) -> None:
        """Write the notices that are due in a partition, each once, also if several processes do so.

        `are_contacts_known`: contacts that were unknown can be looked up now.
        """
        keys = self._partitions.keys[number]
        names = [keys.leaving, keys.live_anonymous, keys.live_known, keys.changes, keys.reported]
        names += [keys.contacts_due, keys.visit]
        has_more = True
        while has_more:
            now = now_ms()
            arguments: list[str | int | bytes] = [now, now - self._rule.idle_ms - _CLOCKS_DIFFER_MS]
            arguments += [self._rule.leave_ms, self._changelog_max_entries, _VISITS_PER_CALL, _ENDED_MS_PER_CALL]
            arguments.append("1" if are_contacts_known else "0")
            async with translating_errors():
                has_more = bool(await self._note_changes(number, names, arguments))

    async def look_again(self, visit_ids: Sequence[str]) -> None:
        """Have the contacts of visits looked up again some seconds later, because they are unknown now."""
        due_ms = now_ms() + _LOOK_AGAIN_MS
        commands = []
        for visit_id in visit_ids:
            number = self._partitions.number_of(visit_id)
            commands.append((number, "ZADD", self._partitions.keys[number].contacts_due, "NX", due_ms, visit_id))
        await self._partitions.execute(commands)

    async def watch_pages(self) -> None:
        """Have changes of pages recorded for the next minute."""
        await self._partitions.execute(
            [
                (number, "SET", self._partitions.keys[number].pages_watched, "1", "PX", _PAGES_WATCHED_MS)
                for number in self._partitions.numbers
            ]
        )

    @asynccontextmanager
    async def changing(self, contacts: Sequence[ChangingContact]) -> AsyncIterator[None]:
        """Note that the contacts of identities change in the block. Without Redis the block runs without a notice.

        The visits of these identities are noted before for some seconds later. So a process that is killed in between
        loses no notice.
        """
        with suppress(RequestError):  # logged where it was raised; the same below
            await self._note(contacts, str(now_ms() + _LOOK_AGAIN_MS))
        yield
        with suppress(RequestError):
            await self._note(contacts, "")

    async def _note(self, contacts: Sequence[ChangingContact], due_ms: str) -> None:
        if contacts:
            await asyncio.gather(*(self._note_in(number, contacts, due_ms) for number in self._partitions.numbers))

    async def _note_in(self, number: int, contacts: Sequence[ChangingContact], due_ms: str) -> None:
        keys = self._partitions.keys[number]
        hashes = [self._visitors.hash_of(contact.identity_id) for contact in contacts]
        names = [keys.changes, keys.live_known, keys.contacts_due, *(keys.naming_visits + hashed for hashed in hashes)]
        arguments: list[str | int | bytes] = [due_ms, self._changelog_max_entries, self._max_visits]
        for contact, hashed in zip(contacts, hashes, strict=True):
            arguments.append(_pack((hashed, contact.contact_id, [] if hashed else [*contact.visit_ids])))
        async with translating_errors():
            await self._note_contacts(number, names, arguments)
