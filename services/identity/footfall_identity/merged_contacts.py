"""The contacts as rules see them: contacts that were merged count as one."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from footfall_identity.matching import Matches
from footfall_identity.redirects import Names


class MergedContacts:
    """Merges of contacts, as far as the contacts exist: one that leads to contacts that do not is itself."""

    def __init__(self, merges: Names, keys: Mapping[str, Collection[str]]) -> None:
        """`keys`: the match keys of those of the merged contacts that exist, and of others whose keys are needed."""
        self._merges = merges
        self._keys = keys

    def together(self, contact_id: str) -> list[str]:
        """Return the contacts that lead to the same one as this, in order, with both."""
        resolved = self.resolved(contact_id)
        return [one for one in self._merges.together(contact_id) if self.resolved(one) == resolved]

    def others(self, contact_id: str) -> list[str]:
        """Return the contacts of `together` besides this one."""
        return [one for one in self.together(contact_id) if one != contact_id]

    def exists(self, contact_id: str) -> bool:
        """Return whether a contact or one that it leads to exists, if its keys are among those given."""
        return self.resolved(contact_id) in self._keys

    def resolved(self, contact_id: str) -> str:
        """Return the last existing contact that this one leads to, or itself."""
        return self._merges.current(contact_id, among=self._keys)

    def keys(self) -> dict[str, set[str]]:
        """Return the match keys by contact: of a contact all that those have that lead to it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for contact_id, keys in self._keys.items():
            found[self.resolved(contact_id)].update(keys)
        return found

    def matches(self, matches: Mapping[str, Matches]) -> dict[str, Matches]:
        """Return the contacts by match key, each of them once. Merged contacts that were not read count as several."""
        return {key: self._resolved(found) for key, found in matches.items()} if self._merges else {**matches}

    def _resolved(self, found: Matches) -> Matches:
        contact_ids = tuple(sorted({self.resolved(contact_id) for contact_id in found.contact_ids}))
        return Matches(contact_ids, found.total - len(found.contact_ids) + len(contact_ids))
