"""Links between identities and contacts, kept correct under concurrent changes.

A link is a pure function of the contacts, the identity and the manual decisions. A process that changes one of these
writes the change first and links afterwards, so the later of two concurrent changes sees both. Linking always writes
the record, even without a new decision: another process that has read older contacts then finds the record changed, and
starts again. Work that a crash interrupts is marked (`is_due`, `is_stale`) and done by `finish`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity.contact_record import ContactRecord, deleted, replaced
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import linked_manually, ruled_out_contacts, unlinked_manually, with_match_result
from footfall_identity.link_store import LinkStore, RecordChange
from footfall_identity.matching import match_contact
from footfall_identity.visitor_store import now_ms

_RECORDS_PER_WRITE: Final = 100


class Linker:
    """Links identities to contacts. All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable."""

    def __init__(self, links: LinkStore, phone_region: str | None) -> None:
        self._links = links
        self._phone_region = phone_region

    async def relink(self, identity_ids: Iterable[str]) -> dict[str, IdentityRecord]:
        """Decide the contacts of these identities, as far as they are known; return their records."""
        wanted = list(identity_ids)
        results: dict[str, IdentityRecord] = {}
        for start in range(0, len(wanted), _RECORDS_PER_WRITE):
            part = wanted[start : start + _RECORDS_PER_WRITE]
            while True:
                pairs = await self._relinked(part)
                if await self._links.replace(pairs):
                    break
            results |= {after.identity_id: after for _, after in pairs}
        return results

    async def _relinked(self, identity_ids: list[str]) -> list[tuple[IdentityRecord | None, IdentityRecord]]:
        records = (await self._links.get(identity_ids)).values()
        existing = await self._links.existing_contacts({record.by_hand for record in records if record.by_hand})
        matches = await self._links.contacts_by_key({key for record in records for key in record.keys})
        now = now_ms()

        def linked(record: IdentityRecord) -> IdentityRecord:
            ruled_out = ruled_out_contacts(record)
            result = match_contact(record.match_keys, record.by_hand, ruled_out, existing, matches)
            return with_match_result(record, result, now)

        return [(record, linked(record)) for record in records]

    async def upsert(self, given: ContactRecord) -> ContactRecord:
        """Create or replace a contact, and link the affected identities again."""
        while True:
            before = await self._links.contact(given.contact_id)
            after = replaced(before, given, now_ms(), self._phone_region)
            if after == before or await self._links.replace_contact(before, after):
                break
        await self._relink_affected(given.contact_id)
        return after

    async def delete(self, contact_id: str) -> bool:
        """Delete a contact, and link the affected identities again. Return False if it does not exist."""
        while True:
            before = await self._links.contact(contact_id)
            if before is None or before.is_deleted:
                break
            if await self._links.replace_contact(before, deleted(before, now_ms())):
                break
        await self._relink_affected(contact_id)
        return before is not None and not before.is_deleted

    async def _relink_affected(self, contact_id: str) -> None:
        """Link the identities affected by a changed contact; then mark it as finished unless it has changed again."""
        contact = await self._links.contact(contact_id)
        if contact is None or not contact.is_stale:
            return
        await self.relink(await self._links.affected_by(contact))
        await self._links.replace_contact(contact, replace(contact, stale_keys=(), is_stale=False))
        await self._links.wait_for_journal()

    async def link(self, identity_id: str, contact_id: str, actor: str) -> IdentityRecord:
        """Link manually. Raises RequestError (NOT_FOUND) if the contact does not exist."""
        if not await self._links.existing_contacts([contact_id]):
            raise RequestError.not_found("Contact", contact_id)
        return await self._choose(identity_id, partial(linked_manually, contact_id=contact_id, actor=actor))

    async def unlink(self, identity_id: str, actor: str) -> IdentityRecord:
        """Unlink manually, and rule out the contact that the identity is linked to.

        Raises RequestError (FAILED_PRECONDITION) if it is not linked, unless the last decision was to unlink it
        manually.
        """
        record = (await self._links.get([identity_id])).get(identity_id)
        last = record.decisions[-1] if record and record.decisions else None
        if last is None or not (last.contact_id or last.refused_id):
            raise RequestError.failed_precondition(
                "NOT_LINKED", "the identity is not linked to a contact, so it cannot be unlinked"
            )
        return await self._choose(identity_id, partial(unlinked_manually, actor=actor))

    async def _choose(self, identity_id: str, choice: Callable[..., IdentityRecord]) -> IdentityRecord:
        change: RecordChange = partial(choice, now_ms=now_ms())
        changed = await self._links.change({identity_id: change})
        if changed[identity_id].is_due:
            changed |= await self.relink([identity_id])
            await self._links.wait_for_journal()
        return changed[identity_id]

    async def finish(self) -> None:
        """Complete interrupted work. Raises RequestError (UNAVAILABLE)."""
        due, stale = await self._links.unfinished(_RECORDS_PER_WRITE)
        await self.relink(due)
        for contact in stale:
            await self._relink_affected(contact.contact_id)
