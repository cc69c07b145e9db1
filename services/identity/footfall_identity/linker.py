"""Links between identities and contacts, kept correct under concurrent changes.

A link is a pure function of the contacts, the identity, the generic values and the manual decisions. Identities that
were renamed to each other are one person: their events and decisions count together, and each of them gets the same
link. A process that changes one of these writes the change first and links afterwards, so the later of two concurrent
changes sees both. Linking always writes the record, even without a new decision: another process that has read older
contacts then finds the record changed, and starts again. Identities of a changed contact or generic value are linked
again in the background (`relinking.py`). Work that a crash interrupts is marked (`is_due`, `is_stale`) and done there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from typing import Final, NamedTuple

from footfall_eventlog.identity_policy import LinkPolicy
from footfall_eventlog.match_keys import MatchKeys, Rule
from footfall_servicekit.errors import RequestError

from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import (
    ManualDecisions,
    linked_manually,
    manual_decisions,
    unlinked_manually,
    with_match_result,
    without_former_names,
)
from footfall_identity.link_store import LinkStore, RecordChange
from footfall_identity.matching import MAX_CANDIDATES, MatchResult, Sharing, match_contact
from footfall_identity.redirects import Redirect, all_together
from footfall_identity.value_counting import GenericValues
from footfall_identity.visitor_store import now_ms

_RECORDS_PER_WRITE: Final = 100

Pair = tuple[IdentityRecord | None, IdentityRecord]
"""A record as it is stored (None: it is not) and as it is to be."""


class _Person(NamedTuple):
    """The records of all names of a person, also of names of which nothing is stored, and what links it."""

    records: list[IdentityRecord]
    match_keys: MatchKeys
    is_shared: bool


class Evidence(NamedTuple):
    """What could link an identity. `generic`: the match keys that too many give, and `is_shared`, as of Sharing."""

    match_keys: MatchKeys
    generic: Mapping[str, int]
    is_shared: bool


class Linker:
    """Links identities to contacts. All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable."""

    def __init__(self, links: LinkStore, policy: LinkPolicy) -> None:
        self._links = links
        self.policy = policy
        """What is in force. After a change, `Judge` has all identities judged again."""
        self.generic_values = GenericValues(links, lambda: self.policy.rules.max_identities_per_value)

    async def relink(self, identity_ids: Iterable[str]) -> dict[str, IdentityRecord]:
        """Decide the contacts of these identities, as far as they are known, and of all names of the same persons.

        Returns their records.
        """
        wanted = list(identity_ids)
        results: dict[str, IdentityRecord] = {}
        for start in range(0, len(wanted), _RECORDS_PER_WRITE):
            part = wanted[start : start + _RECORDS_PER_WRITE]
            while True:
                pairs = await self._relinked(part)
                # Others may link the same identities now. If all wrote what stays as it is, each would stop the others.
                changed = [(before, after) for before, after in pairs if after != before]
                groups = [changed[at : at + _RECORDS_PER_WRITE] for at in range(0, len(changed), _RECORDS_PER_WRITE)]
                if all([await self._links.replace(group) for group in groups]):
                    break
            results |= {after.identity_id: after for _, after in pairs}
        return results

    async def judge(self, evidence: Mapping[str, Evidence], rules: Sequence[Rule]) -> dict[str, MatchResult]:
        """Return which contacts rules would give identities by other evidence than is stored. Writes nothing.

        Contacts, merges and decisions of people count as they are now.
        """
        _, stored = await self._persons(evidence)
        records = {record.identity_id: person.records for person in stored for record in person.records}
        persons = [_Person(records.get(one, []), of.match_keys, of.is_shared) for one, of in evidence.items()]
        keys = {key for of in evidence.values() for key in of.generic}
        allowed = await self.generic_values.allowed(keys)
        generic = [{key: up_to for key, up_to in of.generic.items() if key not in allowed} for of in evidence.values()]
        found = await self._results(persons, rules, generic)
        return {identity_id: result for identity_id, (_, result) in zip(evidence, found, strict=True)}

    async def _relinked(self, identity_ids: list[str]) -> list[Pair]:
        policy = self.policy
        known, persons = await self._persons(identity_ids)
        await self.generic_values.count_changed(record for record in known.values() if record.is_due)
        now = now_ms()
        pairs: list[Pair] = []
        results = await self._results(persons, policy.rules.order)
        for person, (choice, result) in zip(persons, results, strict=True):
            for record in person.records:
                before = known.get(record.identity_id)
                after = with_match_result(record, result, now, choice.actor, policy.version)
                if len(person.records) == 1:
                    after = without_former_names(after)
                if before or after.decisions:
                    pairs.append((before, after))
        return pairs

    async def _results(
        self, persons: Sequence[_Person], rules: Sequence[Rule], generic: Sequence[Mapping[str, int]] | None = None
    ) -> list[tuple[ManualDecisions, MatchResult]]:
        """Return what people have decided about each person, and which contact follows.

        `generic`: for each person, what too many give (Sharing); None: the values that are known to be generic.
        """
        decided = [manual_decisions(person.records) for person in persons]
        limits: dict[str, int] = {}
        for person, choice in zip(persons, decided, strict=True):
            # So many that there are two different contacts among them if any are: as many as one contact may have ids,
            # and one more; beside those that are ruled out.
            limit = max(MAX_CANDIDATES, self._links.merges.max_names + 1)
            limit += len(choice.ruled_out) * self._links.merges.max_names
            for key in person.match_keys.compared:
                limits[key] = max(limits.get(key, 0), limit)
        matches = await self._links.matches(limits)
        if generic is None:
            unused = await self.generic_values.unused(key for key, found in matches.items() if found.total)
            generic = [unused] * len(persons)
        named = {choice.by_hand for choice in decided if choice.by_hand}.union(*(one.ruled_out for one in decided))
        matching = {contact_id for found in matches.values() for contact_id in found.contact_ids}
        merged = await self._links.merged_contacts(named, matching)
        keys, matches = merged.keys(), merged.matches(matches)
        results = []
        for person, too_many in zip(persons, generic, strict=True):
            choice = manual_decisions(person.records, merged.resolved)
            sharing = Sharing(too_many, person.is_shared)
            result = match_contact(
                person.match_keys, choice.by_hand, choice.ruled_out, keys, matches, rules=rules, sharing=sharing
            )
            results.append((choice, result))
        return results

    async def _persons(self, identity_ids: Iterable[str]) -> tuple[dict[str, IdentityRecord], list[_Person]]:
        """Return the stored records of identities and of the other names of the same persons, and the persons.

        The names are read after the records, and once more if there are others: a process that changes them afterwards
        links all these identities again.
        """
        wanted = list(identity_ids)
        while True:
            known = await self._links.get(wanted)
            names = await self._links.renames.names(wanted)
            others = {*all_together(names, wanted)} - {*wanted}
            if not others:
                break
            known |= await self._links.get(others)
            if (await self._links.renames.names(wanted)).leads_to == names.leads_to:
                break
        people = {tuple(names.together(identity_id)) for identity_id in wanted}
        max_devices = self.policy.rules.max_devices_per_day
        persons = []
        for ids in sorted(people):
            records = [known.get(one) or self._links.blank(one) for one in ids if one in known or len(ids) > 1]
            match_keys = reduce(MatchKeys.merged, (record.match_keys for record in records), MatchKeys())
            is_shared = any(record.is_shared(max_devices) for record in records)
            if records:
                persons.append(_Person(records, match_keys, is_shared))
        return known, persons

    async def link(self, identity_id: str, contact_id: str, actor: str) -> IdentityRecord:
        """Link manually. Raises RequestError (NOT_FOUND) if the contact does not exist, nor one that it leads to."""
        if not (await self._links.merged_contacts([contact_id])).exists(contact_id):
            raise RequestError.not_found("Contact", contact_id)
        others_ms = await self._last_of_others(identity_id)
        choice = partial(linked_manually, contact_id=contact_id, actor=actor, others_ms=others_ms)
        return await self._choose(identity_id, choice, others_ms)

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
        others_ms = await self._last_of_others(identity_id)
        return await self._choose(identity_id, partial(unlinked_manually, actor=actor), others_ms)

    async def _last_of_others(self, identity_id: str) -> int:
        """Return when the last manual decision was made under another name of the person."""
        _, persons = await self._persons([identity_id])
        others = [record for person in persons for record in person.records if record.identity_id != identity_id]
        return manual_decisions(others).last_ms

    async def _choose(self, identity_id: str, choice: Callable[..., IdentityRecord], others_ms: int) -> IdentityRecord:
        # Later than what was decided under other names, also by a server whose clock is fast.
        change: RecordChange = partial(choice, now_ms=max(now_ms(), others_ms + 1))
        changed = await self._links.change({identity_id: change})
        if changed[identity_id].is_due:
            changed |= await self.relink([identity_id])
            await self._links.wait_for_journal()
        return changed[identity_id]

    async def rename(self, from_id: str, to_id: str, actor: str) -> Redirect:
        """Let an identity lead to another, and link all names of the person. Raises RequestError (FAILED_PRECONDITION).

        See RedirectStore.decide.
        """
        return await self.settle(await self._links.renames.decide(from_id, to_id, actor, now_ms()))

    async def undo_rename(self, from_id: str, actor: str) -> Redirect:
        """Undo a rename, and link the names of both persons. Raises RequestError (FAILED_PRECONDITION)."""
        return await self.settle(await self._links.renames.undo(from_id, actor, now_ms()))

    async def settle(self, rename: Redirect) -> Redirect:
        """Link all whom a rename or its undoing concerns, unless that is done; return the rename."""
        if rename.is_due:
            await self.relink([rename.from_id, rename.decisions[-1].to_id])
            await self._links.renames.unmark(rename)
            await self._links.wait_for_journal()
        return rename
