"""Import of identifying events of the past into records of identities. Live state is not used."""

from collections import defaultdict
from collections.abc import Iterable

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit
from footfall_timeline import Transition

from footfall_identity.attributes import AttributeNames
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.identity_record import IdentityMention, VisitStatus
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.record_writer import RecordWriter


class Importer:
    """Writes records like RecordConsumer, but takes the status of visits from history and not from live state."""

    def __init__(
        self,
        index: IdentityIndex,
        links: LinkStore,
        linker: Linker,
        *,
        names: AttributeNames,
        phone_region: str | None,
    ) -> None:
        self._writer = RecordWriter(index, links)
        self._links = links
        self._linker = linker
        self._names = names
        self._phone_region = phone_region

    async def take(self, admitted: Iterable[tuple[Event, Transition | None]], visits: Iterable[ImportedVisit]) -> None:
        """Import these events and visits. Raises RequestError while a store is unavailable."""
        mentions: dict[str, list[IdentityMention]] = defaultdict(list)
        for event, transition in admitted:
            if transition and transition.identity:
                mentions[transition.identity].append(
                    IdentityMention.of(event, transition, self._names, self._phone_region)
                )
        now: dict[str, list[VisitStatus]] = {identity: [] for identity in mentions}
        for visit in visits:
            for identity in visit.identity_ids:
                at_present = VisitStatus(visit.visit_id, visit.revision, visit.signed_in_identity_id)
                now.setdefault(identity, []).append(at_present)
        due = await self._writer.write(mentions, now)
        await self._writer.erase_again(mentions)
        await self._linker.relink(due)
        await self._links.wait_for_journal()
