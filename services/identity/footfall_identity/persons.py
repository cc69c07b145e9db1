"""Persons, by any of the names of an identity that was renamed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from footfall_identity.identity_record import IdentityRecord, joined
from footfall_identity.link_store import LinkStore
from footfall_identity.redirects import Names


class Person(NamedTuple):
    """The names of a person, the one that all lead to, and the records of those of them that are stored."""

    identity_ids: list[str]
    current_id: str
    records: list[IdentityRecord]

    @property
    def record(self) -> IdentityRecord | None:
        """What the events of all names say, as if they had named the current one; None: no event has named any."""
        if all(record.first_ms is None for record in self.records):
            return None
        return self.records[0] if len(self.identity_ids) == 1 else joined(self.records, self.current_id)


class Persons:
    """Finds persons. Methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable.

    `sites` limits the names to those that events of these sites have named, and the decisions between names to those
    between such names. Empty: all.
    """

    def __init__(self, links: LinkStore) -> None:
        self._links = links

    async def names(self, identity_ids: Iterable[str], sites: Sequence[str]) -> Names:
        """Return which of these identities and of the other names of the same persons lead to which."""
        names = await self._links.renames.names(identity_ids, may_remember=True)
        return names.among(await self._links.visible(names.all, sites)) if names and sites else names

    async def find(self, identity_id: str, sites: Sequence[str]) -> Person:
        """Return the person whom a name means."""
        names = await self.names([identity_id], sites)
        identity_ids = names.together(identity_id)
        records = await self._links.get(identity_ids, sites)
        return Person(identity_ids, names.current(identity_id), [*records.values()])
