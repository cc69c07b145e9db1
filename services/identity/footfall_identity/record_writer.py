"""Turns what events said of identities, and what their visits now say, into records."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from footfall_identity.identity_index import IdentityIndex
from footfall_identity.identity_record import IdentityMention, VisitStatus, erased, with_mentions
from footfall_identity.link_store import LinkStore


class RecordWriter:
    """Writes records, for the log and for imports. Raises RequestError without one of the stores."""

    def __init__(self, index: IdentityIndex, links: LinkStore) -> None:
        self._index = index
        self._links = links

    async def change(
        self, mentions: Mapping[str, Sequence[IdentityMention]], visits: Mapping[str, Iterable[VisitStatus]]
    ) -> list[str]:
        """Write what was said of each identity in `visits`; return whose links are to be with_match_result."""
        changed = await self._links.change(
            {
                identity: partial(with_mentions, mentions=mentions.get(identity, ()), visits=of_identity)
                for identity, of_identity in visits.items()
            }
        )
        return [identity for identity, record in changed.items() if record.is_due]

    async def erase_again(self, mentions: Mapping[str, Iterable[IdentityMention]]) -> None:
        """Erase of these identities who has been erased.

        To be called after `change`: so either the erasure is seen here, or whoever erases finds what was written.
        """
        pairs = [(mention.visit_id, identity) for identity, of_identity in mentions.items() for mention in of_identity]
        tombstones = await self._index.tombstones(pairs)
        await self._links.change({identity: partial(erased, erase_time_ms=ms) for identity, ms in tombstones.items()})
