"""Turns entries of the log into timelines, what ResolveEvents may have missed, and into records of identities."""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial

import structlog
from footfall.event.v1.event_pb2 import Erasure, Event, EventBatch
from footfall_servicekit.stream import Entry
from footfall_timeline import State, Transition, UnfitEventError, transition_of
from google.protobuf.message import DecodeError

from footfall_identity import metrics
from footfall_identity.attributes import AttributeNames
from footfall_identity.erasure import Eraser
from footfall_identity.identity_record import Naming, VisitNow, erased, merged
from footfall_identity.link_store import LinkStore
from footfall_identity.linking import Linking
from footfall_identity.person_store import PersonStore
from footfall_identity.recent import RecentEntries
from footfall_identity.visit_record import VisitRecord, touches
from footfall_identity.visitor_store import VisitorStore

GROUP = "identity"
_MOST_EVENTS_A_MERGE = 1_000
_HASH_BYTES = 32

_log = structlog.get_logger()

Admitted = tuple[Event, Transition | None]


class LogConsumer:
    """Handles entries of the log. Any entry may come again, in any order, to any number of consumers.

    A record says whether its identity is signed in on its newest visit, which is a fold of that visit's timeline. So
    first the timeline is written, then the record, then the timeline is read again: a change of it in between is
    either seen then, or the consumer of that change finds the record written. `rev` orders what the two of them write.
    Tombstones are read after the record is written for the same reason.
    """

    def __init__(
        self,
        visitors: VisitorStore,
        persons: PersonStore,
        links: LinkStore,
        *,
        linking: Linking,
        eraser: Eraser,
        recent: RecentEntries,
        names: AttributeNames,
        phone_region: str | None,
    ) -> None:
        self._visitors = visitors
        self._persons = persons
        self._links = links
        self._linking = linking
        self._eraser = eraser
        self._recent = recent
        self._names = names
        self._phone_region = phone_region

    async def handle(self, number: int, entries: list[Entry]) -> None:
        """Return when all that entries of a partition say is stored. Raises RequestError without one of the stores."""
        admitted: list[Admitted] = []
        erasures: list[Erasure] = []
        for entry in entries:
            _read(entry, admitted, erasures, is_merged=(number, entry.id) in self._recent)
        visits = await self._merge(admitted)
        if visits:
            await self._write(self._namings(admitted, visits), visits)
        for erasure in erasures:
            await self._eraser.apply(number, erasure)
        if visits:
            await self._links.make_durable()

    async def _merge(self, admitted: list[Admitted]) -> dict[str, VisitRecord]:
        """The visits with transitions among these, as they are now."""
        visits: dict[str, VisitRecord] = {}
        for start in range(0, len(admitted), _MOST_EVENTS_A_MERGE):
            part = touches(admitted[start : start + _MOST_EVENTS_A_MERGE])
            visits |= {visit.visit_id: visit for visit in await self._visitors.merge(part, answer_all=True)}
        return visits

    def _namings(self, admitted: list[Admitted], visits: dict[str, VisitRecord]) -> dict[str, list[Naming]]:
        """What was said of identities, but for what names somebody erased since."""
        forgotten = {(v.visit_id, t.event_id) for v in visits.values() for t in v.timeline if t.is_erased}
        namings: dict[str, list[Naming]] = defaultdict(list)
        for event, transition in admitted:
            if transition and transition.identity and (event.visit_id, transition.event_id) not in forgotten:
                naming = Naming.of(event, transition, self._names, self._phone_region)
                namings[transition.identity].append(naming)
        return namings

    async def _write(self, namings: dict[str, list[Naming]], visits: dict[str, VisitRecord]) -> None:
        due = await self._change(namings, visits.values())
        while visits:
            again = await self._visitors.get(visits)
            visits = {visit.visit_id: visit for visit in again.values() if visit.rev != visits[visit.visit_id].rev}
            if visits:
                await self._change({}, visits.values())
        pairs = [(naming.visit_id, identity) for identity, of_identity in namings.items() for naming in of_identity]
        tombstones = await self._persons.tombstones(pairs)
        await self._links.change({identity: partial(erased, erase_time_ms=ms) for identity, ms in tombstones.items()})
        await self._linking.judge(due)

    async def _change(self, namings: dict[str, list[Naming]], visits: Iterable[VisitRecord]) -> list[str]:
        """Write what was said of identities and what visits now say of those they name; return who is to be judged."""
        now: dict[str, list[VisitNow]] = {identity: [] for identity in namings}
        for visit in visits:
            stamp = visit.fold.stamp
            signed_in = stamp.identity if stamp.state is State.AUTHENTICATED else ""
            for association in visit.fold.associations:
                now.setdefault(association.identity, []).append(VisitNow(visit.visit_id, visit.rev, signed_in))
        changed = await self._links.change(
            {
                identity: partial(merged, namings=namings.get(identity, ()), visits=of_identity)
                for identity, of_identity in now.items()
            }
        )
        return [identity for identity, record in changed.items() if record.is_due]


def _read(entry: Entry, admitted: list[Admitted], erasures: list[Erasure], *, is_merged: bool) -> None:
    """Add the events of an entry, each with its transition, and its erasure; of what is merged only transitions.

    What is not as admission or EraseIdentity leaves it is counted and left out.
    """
    try:
        batch = EventBatch.FromString(entry.payload)
    except DecodeError:
        metrics.LOG_SKIPPED.inc()
        _log.error("skipped an entry of the log that is no EventBatch", entry=entry.id)
        return
    if batch.HasField("erasure"):
        if len(batch.erasure.identity_hash) == _HASH_BYTES and batch.erasure.erasure_id:
            erasures.append(batch.erasure)
        else:
            metrics.LOG_SKIPPED.inc()
            _log.error("skipped an erasure of the log: identity_hash or erasure_id is missing", entry=entry.id)
    for position, event in enumerate(batch.events):
        if is_merged and not event.transition:
            continue
        try:
            admitted.append((event, transition_of(event)))
        except UnfitEventError as error:
            metrics.LOG_SKIPPED.inc()
            _log.error("skipped an event of the log", entry=entry.id, position=position, rule=str(error))
