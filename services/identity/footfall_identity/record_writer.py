"""Writing of identity records, shared by the consumer of the log and the import."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from footfall_identity.identity_index import IdentityIndex
from footfall_identity.identity_record import IdentityMention, VisitStatus, erased, with_mentions
from footfall_identity.link_store import LinkStore


class RecordWriter:
    """Writes identity records. Its methods raise RequestError while a store is unavailable."""

    def __init__(self, index: IdentityIndex, links: LinkStore) -> None:
        self._index = index
        self._links = links

    async def write(
        self, mentions: Mapping[str, Sequence[IdentityMention]], visits: Mapping[str, Iterable[VisitStatus]]
    ) -> list[str]:
        """Merge mentions and visit statuses into the records of the identities in `visits`.

        Returns the identities that have to be linked again.
        """
        changed = await self._links.change(
            {
                identity: partial(with_mentions, mentions=mentions.get(identity, ()), visits=of_identity)
                for identity, of_identity in visits.items()
            }
        )
        return [identity for identity, record in changed.items() if record.is_due]

    async def erase_again(self, mentions: Mapping[str, Iterable[IdentityMention]]) -> None:
        """Erase again those of these identities that are erased.

        Call it after `write`: then either this call sees a concurrent erasure, or the erasure finds what was written.
        """
        pairs = [(mention.visit_id, identity) for identity, of_identity in mentions.items() for mention in of_identity]
        tombstones = await self._index.tombstones(pairs)
        await self._links.change({identity: partial(erased, erase_time_ms=ms) for identity, ms in tombstones.items()})
