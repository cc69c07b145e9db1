"""Turns entries of the log into timelines, what ResolveEvents may have missed, and into records of identities."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

import structlog
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_servicekit.stream import Entry
from footfall_timeline import State, Transition
from google.protobuf.message import DecodeError

from footfall_identity import metrics
from footfall_identity.identity_record import Naming, VisitNow, merged
from footfall_identity.link_store import LinkStore
from footfall_identity.visit_record import VisitRecord, touches, transition_of
from footfall_identity.visitor_store import VisitorStore

GROUP = "identity"
_MOST_EVENTS_A_MERGE = 1_000

_log = structlog.get_logger()

Admitted = tuple[Event, Transition | None]


class LogConsumer:
    """Handles entries of the log. Any entry may come again, in any order, to any number of consumers.

    A record says whether its identity is signed in on its newest visit, which is a fold of that visit's timeline. So
    first the timeline is written, then the record, then the timeline is read again: a change of it in between is
    either seen then, or the consumer of that change finds the record written. `rev` orders what the two of them write.
    """

    def __init__(self, visitors: VisitorStore, links: LinkStore) -> None:
        self._visitors = visitors
        self._links = links

    async def handle(self, entries: list[Entry]) -> None:
        """Return when all that the entries say is stored. Raises RequestError when a store does not answer."""
        admitted = [each for entry in entries for each in read(entry)]
        visits = await self._merge(admitted)
        if not visits:
            return
        namings: dict[str, list[Naming]] = defaultdict(list)
        for event, transition in admitted:
            if transition is not None and transition.identity:
                namings[transition.identity].append(Naming.of(event, transition))
        while visits:
            await self._write(namings, visits.values())
            again = await self._visitors.get(visits)
            visits = {visit.visit_id: visit for visit in again.values() if visit.rev != visits[visit.visit_id].rev}
            namings.clear()
        await self._links.make_durable()

    async def _merge(self, admitted: list[Admitted]) -> dict[str, VisitRecord]:
        """The visits with transitions among these, as they are now."""
        visits: dict[str, VisitRecord] = {}
        for start in range(0, len(admitted), _MOST_EVENTS_A_MERGE):
            part = touches(admitted[start : start + _MOST_EVENTS_A_MERGE])
            visits |= {visit.visit_id: visit for visit in await self._visitors.merge(part, answer_all=True)}
        return visits

    async def _write(self, namings: dict[str, list[Naming]], visits: Iterable[VisitRecord]) -> None:
        """Write what was said of identities, and what the visits now say of all whom they have named."""
        now: dict[str, list[VisitNow]] = {identity: [] for identity in namings}
        for visit in visits:
            stamp = visit.fold.stamp
            signed_in = stamp.identity if stamp.state is State.AUTHENTICATED else ""
            for association in visit.fold.associations:
                now.setdefault(association.identity, []).append(VisitNow(visit.visit_id, visit.rev, signed_in))
        await self._links.change(
            {
                identity: partial(merged, namings=namings.get(identity, ()), visits=of_identity)
                for identity, of_identity in now.items()
            }
        )


def read(entry: Entry) -> Iterator[Admitted]:
    """The events of an entry, each with its transition. What is not as admission leaves it is counted and left out."""
    try:
        batch = EventBatch.FromString(entry.payload)
    except DecodeError:
        metrics.LOG_SKIPPED.inc()
        _log.error("skipped an entry of the log that is no EventBatch", entry=entry.id)
        return
    for position, event in enumerate(batch.events):
        try:
            yield event, transition_of(event)
        except ValueError as error:
            metrics.LOG_SKIPPED.inc()
            _log.error("skipped an event of the log", entry=entry.id, position=position, rule=str(error))
