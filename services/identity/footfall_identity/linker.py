"""Turns changes of contacts, identities and choices by hand into links that are right whatever happens at once.

A link is a pure function of three things that change on their own. Whoever changes one writes it first and judges
after, so of two that change at once the later to write sees both. A judgement always writes, also when nothing is new:
another that has read older contacts then finds the record changed and starts again. What a crash leaves undone is
marked (`is_due`, `is_stale`) and done by `finish`, now and then.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity.contact_record import ContactRecord, deleted, replaced
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import judged, linked_by_hand, refused, unlinked_by_hand
from footfall_identity.link_store import Change, LinkStore
from footfall_identity.matching import verdict
from footfall_identity.visitor_store import now_ms

_JUDGED_AT_ONCE: Final = 100


class Linking:
    """Decides which contact an identity is. Its methods raise RequestError (UNAVAILABLE) without MongoDB."""

    def __init__(self, links: LinkStore, phone_region: str | None) -> None:
        self._links = links
        self._phone_region = phone_region

    async def judge(self, identity_ids: Iterable[str]) -> dict[str, IdentityRecord]:
        """Judge these identities, as far as they are known, and return them as they then are."""
        wanted = list(identity_ids)
        results: dict[str, IdentityRecord] = {}
        for start in range(0, len(wanted), _JUDGED_AT_ONCE):
            part = wanted[start : start + _JUDGED_AT_ONCE]
            while True:
                pairs = await self._judged(part)
                if await self._links.replace(pairs):
                    break
            results |= {after.identity_id: after for _, after in pairs}
        return results

    async def _judged(self, identity_ids: list[str]) -> list[tuple[IdentityRecord | None, IdentityRecord]]:
        records = (await self._links.get(identity_ids)).values()
        existing = await self._links.contacts_that_exist({record.by_hand for record in records if record.by_hand})
        matches = await self._links.contacts_that_match({key for record in records for key in record.keys})
        now = now_ms()
        return [
            (record, judged(record, verdict(record.signs, record.by_hand, refused(record), existing, matches), now))
            for record in records
        ]

    async def upsert(self, given: ContactRecord) -> ContactRecord:
        """Create or replace a contact, and judge the identities that this may touch."""
        while True:
            before = await self._links.contact(given.contact_id)
            after = replaced(before, given, now_ms(), self._phone_region)
            if after == before or await self._links.replace_contact(before, after):
                break
        await self._finish(given.contact_id)
        return after

    async def delete(self, contact_id: str) -> bool:
        """Remove a contact, and judge the identities that this touches. False when there is none."""
        while True:
            before = await self._links.contact(contact_id)
            if before is None or before.is_deleted:
                break
            if await self._links.replace_contact(before, deleted(before, now_ms())):
                break
        await self._finish(contact_id)
        return before is not None and not before.is_deleted

    async def _finish(self, contact_id: str) -> None:
        """Judge the identities that a changed contact may touch; then it is no longer stale, unless changed again."""
        contact = await self._links.contact(contact_id)
        if contact is None or not contact.is_stale:
            return
        await self.judge(await self._links.touched_by(contact))
        await self._links.replace_contact(contact, replace(contact, stale_keys=(), is_stale=False))
        await self._links.make_durable()

    async def link(self, identity_id: str, contact_id: str, actor: str) -> IdentityRecord:
        """Link by hand. Raises RequestError (NOT_FOUND) when there is no such contact."""
        if not await self._links.contacts_that_exist([contact_id]):
            raise RequestError.not_found("Contact", contact_id)
        return await self._choose(identity_id, partial(linked_by_hand, contact_id=contact_id, actor=actor))

    async def unlink(self, identity_id: str, actor: str) -> IdentityRecord:
        """Rule out, by hand, the contact that an identity is linked to.

        Raises RequestError (FAILED_PRECONDITION) when it is linked to none and that is nobody's decision.
        """
        record = (await self._links.get([identity_id])).get(identity_id)
        last = record.decisions[-1] if record and record.decisions else None
        if last is None or not (last.contact_id or last.refused_id):
            raise RequestError.failed_precondition("NOT_LINKED", "the identity is not linked to a contact")
        return await self._choose(identity_id, partial(unlinked_by_hand, actor=actor))

    async def _choose(self, identity_id: str, choice: Callable[..., IdentityRecord]) -> IdentityRecord:
        change: Change = partial(choice, now_ms=now_ms())
        changed = await self._links.change({identity_id: change})
        if changed[identity_id].is_due:
            changed |= await self.judge([identity_id])
            await self._links.make_durable()
        return changed[identity_id]

    async def finish(self) -> None:
        """Do what somebody began and did not come to end. Raises RequestError (UNAVAILABLE)."""
        due, stale = await self._links.unfinished(_JUDGED_AT_ONCE)
        await self.judge(due)
        for contact in stale:
            await self._finish(contact.contact_id)
