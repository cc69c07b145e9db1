"""Writing of identity records and their links, from the event log and from imports."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit
from footfall_timeline import Transition

from footfall_identity.identity_index import IdentityIndex
from footfall_identity.identity_record import (
    IdentityMention,
    VisitStatus,
    erased,
    with_mentions,
    without_lost_revisions,
)
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker

Mentions = Mapping[str, Sequence[IdentityMention]]
"""Events that name an identity, by identity."""


class RecordWriter:
    """Writes identity records. Its methods raise RequestError (UNAVAILABLE) while a store is unavailable."""

    def __init__(self, index: IdentityIndex, links: LinkStore, linker: Linker, *, phone_region: str | None) -> None:
        self._index = index
        self._links = links
        self._linker = linker
        self._phone_region = phone_region

    def mention(self, event: Event, transition: Transition) -> IdentityMention:
        """Return what a SignIn or UserInfo says about the identity that it names."""
        return IdentityMention.of(event, transition, self._linker.policy.names, self._phone_region)

    async def import_past(
        self, admitted: Iterable[tuple[Event, Transition | None]], visits: Iterable[ImportedVisit]
    ) -> None:
        """Import events of the past. The status of visits is that of history; live state is not used."""
        mentions: dict[str, list[IdentityMention]] = defaultdict(list)
        for event, transition in admitted:
            if transition and transition.identity:
                mentions[transition.identity].append(self.mention(event, transition))
        statuses = [
            (VisitStatus(visit.visit_id, visit.revision, visit.signed_in_identity_id), visit.identity_ids)
            for visit in visits
        ]
        await self.finish(mentions, await self.write(mentions, statuses))

    async def write(self, mentions: Mentions, visits: Iterable[tuple[VisitStatus, Iterable[str]]]) -> list[str]:
        """Merge mentions, and the status of each visit with the identities that it is associated with, into records.

        Returns the identities that have to be linked again.
        """
        statuses: dict[str, list[VisitStatus]] = {identity: [] for identity in mentions}
        for status, identities in visits:
            for identity in identities:
                statuses.setdefault(identity, []).append(status)
        changes = {
            identity: partial(with_mentions, mentions=mentions.get(identity, ()), visits=of_identity)
            for identity, of_identity in statuses.items()
        }
        return [identity for identity, record in (await self._links.change(changes)).items() if record.is_due]

    async def forget_lost_revisions(self, visits: Iterable[tuple[VisitStatus, Iterable[str]]]) -> None:
        """Let records accept the status of each visit although Redis has lost the revision that they know."""
        revs: dict[str, dict[str, int]] = defaultdict(dict)
        for status, identities in visits:
            for identity in identities:
                revs[identity][status.visit_id] = status.rev
        await self._links.change(
            {identity: partial(without_lost_revisions, revs=of_visits) for identity, of_visits in revs.items()}
        )

    async def finish(self, mentions: Mentions, to_link: Iterable[str]) -> None:
        """Erase what erased identities have got by `write`, link identities, and wait until all is in the journal.

        Tombstones are read after `write`: so either this method sees a concurrent erasure, or the erasure finds what
        was written.
        """
        pairs = [(mention.visit_id, identity) for identity, of_identity in mentions.items() for mention in of_identity]
        tombstones = await self._index.tombstones(pairs)
        changed = await self._links.change(
            {identity: partial(erased, erase_time_ms=ms) for identity, ms in tombstones.items()}
        )
        await self._linker.relink({*to_link, *(identity for identity, record in changed.items() if record.is_due)})
        await self._links.wait_for_journal()
