"""Turns what events said of identities, and what their visits now say, into records."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from footfall_identity.identity_index import PersonStore
from footfall_identity.identity_record import Naming, VisitNow, erased, merged
from footfall_identity.link_store import LinkStore


class Records:
    """Writes records, for the log and for imports. Raises RequestError without one of the stores."""

    def __init__(self, persons: PersonStore, links: LinkStore) -> None:
        self._persons = persons
        self._links = links

    async def change(
        self, namings: Mapping[str, Sequence[Naming]], visits: Mapping[str, Iterable[VisitNow]]
    ) -> list[str]:
        """Write what was said of each identity in `visits`; return whose links are to be judged."""
        changed = await self._links.change(
            {
                identity: partial(merged, namings=namings.get(identity, ()), visits=of_identity)
                for identity, of_identity in visits.items()
            }
        )
        return [identity for identity, record in changed.items() if record.is_due]

    async def forget_erased(self, namings: Mapping[str, Iterable[Naming]]) -> None:
        """Erase of these identities who has been erased.

        To be called after `change`: so either the erasure is seen here, or whoever erases finds what was written.
        """
        pairs = [(naming.visit_id, identity) for identity, of_identity in namings.items() for naming in of_identity]
        tombstones = await self._persons.tombstones(pairs)
        await self._links.change({identity: partial(erased, erase_time_ms=ms) for identity, ms in tombstones.items()})
