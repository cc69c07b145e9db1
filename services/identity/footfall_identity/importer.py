"""Import of identifying events of the past into records of identities. Live state is not used."""

from collections import defaultdict
from collections.abc import Iterable

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit
from footfall_timeline import Transition

from footfall_identity.identity_record import IdentityMention, VisitStatus
from footfall_identity.record_writer import RecordWriter


class Importer:
    """Writes records like RecordConsumer, but takes the status of visits from history and not from live state."""

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    async def take(self, admitted: Iterable[tuple[Event, Transition | None]], visits: Iterable[ImportedVisit]) -> None:
        """Import these events and visits. Raises RequestError (UNAVAILABLE) while a store is unavailable."""
        mentions: dict[str, list[IdentityMention]] = defaultdict(list)
        for event, transition in admitted:
            if transition and transition.identity:
                mentions[transition.identity].append(self._writer.mention(event, transition))
        statuses: dict[str, list[VisitStatus]] = {identity: [] for identity in mentions}
        for visit in visits:
            status = VisitStatus(visit.visit_id, visit.revision, visit.signed_in_identity_id)
            for identity in visit.identity_ids:
                statuses.setdefault(identity, []).append(status)
        await self._writer.finish(mentions, await self._writer.write(mentions, statuses))
