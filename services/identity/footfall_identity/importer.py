"""Turns identifying events of the past into records of identities. Live state is neither read nor changed."""

from collections import defaultdict
from collections.abc import Iterable

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit
from footfall_timeline import Transition

from footfall_identity.attributes import AttributeNames
from footfall_identity.identity_index import PersonStore
from footfall_identity.identity_record import Naming, VisitNow
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linking
from footfall_identity.record_writer import Records


class Importer:
    """Writes records as the log's consumer does, but takes from history what that knows of visits by live state."""

    def __init__(
        self,
        persons: PersonStore,
        links: LinkStore,
        linking: Linking,
        *,
        names: AttributeNames,
        phone_region: str | None,
    ) -> None:
        self._records = Records(persons, links)
        self._links = links
        self._linking = linking
        self._names = names
        self._phone_region = phone_region

    async def take(self, admitted: Iterable[tuple[Event, Transition | None]], visits: Iterable[ImportedVisit]) -> None:
        """Return when all that these say is stored. Raises RequestError without one of the stores."""
        namings: dict[str, list[Naming]] = defaultdict(list)
        for event, transition in admitted:
            if transition and transition.identity:
                namings[transition.identity].append(Naming.of(event, transition, self._names, self._phone_region))
        now: dict[str, list[VisitNow]] = {identity: [] for identity in namings}
        for visit in visits:
            for identity in visit.identity_ids:
                at_present = VisitNow(visit.visit_id, visit.revision, visit.signed_in_identity_id)
                now.setdefault(identity, []).append(at_present)
        due = await self._records.change(namings, now)
        await self._records.forget_erased(namings)
        await self._linking.judge(due)
        await self._links.make_durable()
