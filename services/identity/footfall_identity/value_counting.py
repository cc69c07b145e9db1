"""Decides which values too many identities give, from what all identities say now.

A value becomes generic, or stops being so, when the number of identities that give it passes the limit. A process that
changes what an identity gives writes the identity first, which is due then, and counts before it links it. A process
that changes a generic value counts once more after that. So of several processes the last one to count has seen all
identities, and the result does not depend on any order. After a crash the identity is still due, or the value stale.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from footfall_eventlog.match_keys import unused_up_to
from footfall_servicekit.errors import RequestError
from footfall_timeline import Assurance
from msgspec.structs import replace

from footfall_identity.generic_values import GenericValue
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import Givers, LinkStore
from footfall_identity.relink_store import Cohort
from footfall_identity.visitor_store import now_ms


class GenericValues:
    """Keeps the generic values right. All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable."""

    def __init__(self, links: LinkStore, max_identities: Callable[[], int]) -> None:
        """A value is generic if more identities give it than `max_identities` says at that moment."""
        self._links = links
        self._values = links.generic_values
        self._max_identities = max_identities

    async def unused(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the assurance up to which rules do not use each of these match keys; those that they use are left out.

        It is right after `count_changed` for the identities that have changed.
        """
        return {key: value.unused_up_to for key, value in (await self._values.get(keys)).items() if value.unused_up_to}

    async def allowed(self, keys: Iterable[str]) -> set[str]:
        """Return those of these match keys that a person has allowed, however many give them."""
        return {key for key, value in (await self._values.get(keys)).items() if value.is_allowed}

    async def count_changed(self, records: Iterable[IdentityRecord]) -> None:
        """Count who gives the values that these identities give since a change, or no longer give.

        A value that is generic already needs no counting for one more identity.
        """
        given: dict[str, int] = {}
        left: set[str] = set()
        for record in records:
            left.update(record.left_keys)
            for key in record.keys:
                assurance = Assurance.PROVEN if key in record.proven_keys else Assurance.CLAIMED
                given[key] = max(given.get(key, 0), assurance)
        known = await self._values.get(given)
        new = {key for key, assurance in given.items() if key not in known or known[key].assurance < assurance}
        await self.count(new | left)

    async def count(self, keys: Iterable[str]) -> None:
        """Count who gives these values. Where that changes links, the identities are linked again in the background."""
        pending = set(keys)
        while pending:
            known = await self._values.get(pending)  # before counting: `put` fails if it has changed since
            most = self._max_identities()
            counts = await self._links.count_givers(pending, most + 1)
            changes = [(known.get(key), _judged(key, known.get(key), counts[key], most)) for key in pending]
            written = [(before, after) for before, after in changes if after != before and after is not None]
            stored = await asyncio.gather(*(self._values.put(before, after) for before, after in written))
            await self.announce(value for value in stored if value and value.is_stale)
            pending = {after.key for _, after in written}

    async def decide(self, value_id: str, actor: str, *, is_allowed: bool) -> GenericValue:
        """Let rules use a value although it is generic, or no longer. The same decision again changes nothing.

        Raises RequestError (NOT_FOUND) if there is no such value.
        """
        while True:
            value = await self._values.find(value_id)
            if value is None or not value.is_shown:
                raise RequestError.not_found("Value", value_id)
            if value.is_allowed == is_allowed:
                return value
            now = now_ms()
            decided = replace(value, is_allowed=is_allowed, actor=actor, decide_ms=now, is_stale=True, update_ms=now)
            if stored := await self._values.put(value, decided):
                await self.announce([stored])
                await self._links.wait_for_journal()
                return stored

    async def announce(self, values: Iterable[GenericValue]) -> None:
        """Have all identities that give these stale values linked again, and remove the marks."""
        stale = [*values]
        cohorts = [Cohort("keys", value.key) for value in stale]
        counts = await asyncio.gather(*(self._links.count_members(cohort) for cohort in cohorts))
        members: Mapping[Cohort, int] = {cohort: count for cohort, count in zip(cohorts, counts, strict=True) if count}
        await self._links.relinks.request(members, now_ms())
        await asyncio.gather(*map(self._values.unmark, stale))

    async def announce_left_behind(self, size: int, before_ms: int) -> bool:
        """Announce up to `size` values that were marked before a time; return whether there were any."""
        stale = await self._values.stale(size, before_ms)
        await self.announce(stale)
        return bool(stale)


def _judged(key: str, known: GenericValue | None, givers: Givers, most: int) -> GenericValue | None:
    """Return the value as it has to be stored, if `most` may give it; None if there is nothing to store."""
    before = known or GenericValue.new(key)
    assurance = unused_up_to(givers.total, givers.proven, most)
    now = now_ms()
    after = replace(before, assurance=int(assurance))
    if not (before.assurance and assurance):
        after = replace(after, since_ms=now if assurance else 0)
    if not givers.total:  # no identity is left for which it was decided
        after = replace(after, is_allowed=False, actor="", decide_ms=0)
    if after.unused_up_to != before.unused_up_to:
        after = replace(after, is_stale=True, update_ms=now)
    return known if after == before else after
