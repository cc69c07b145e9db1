"""The two consumers of the event log: one updates live state, the other records of identities."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

import structlog
from footfall.event.v1.event_pb2 import Erasure, Event
from footfall_eventlog.admitted import InvalidEventError, is_valid_erasure, transition_of
from footfall_eventlog.attention import AttentionRules
from footfall_eventlog.log import decode
from footfall_eventlog.stream import Entry
from footfall_timeline import State, Transition

from footfall_identity import metrics
from footfall_identity.erasure import Eraser
from footfall_identity.identity_record import IdentityMention, VisitStatus
from footfall_identity.record_writer import Mentions, RecordWriter
from footfall_identity.visit_record import VisitRecord, VisitUpdate, visit_updates
from footfall_identity.visitor_store import VisitorStore

# Processed before other tasks of the event loop run: a few milliseconds each.
_EVENTS_PER_TURN = 1_000
_MENTIONS_PER_TURN = 50

_log = structlog.get_logger()

Admitted = tuple[Event, Transition | None]
Identifying = tuple[Event, Transition]


class LiveStateConsumer:
    """Updates live state, in Redis alone.

    It has a consumer group of its own, so that live state does not wait for MongoDB.
    """

    def __init__(self, visitors: VisitorStore, attention: AttentionRules) -> None:
        """`attention`: the rules that say which events are notable."""
        self._visitors = visitors
        self._is_notable = attention.name_check()

    async def handle(self, _number: int, entries: list[Entry]) -> None:
        """Merge all events of these entries. Raises RequestError (UNAVAILABLE) while Redis is unavailable.

        Invalid entries and events are counted, logged and skipped.
        """
        bots: set[str] = set()
        admitted = chain.from_iterable(_admitted_events(entry, bots) for entry in entries)
        while part := [*islice(admitted, _EVENTS_PER_TURN)]:
            await self._visitors.merge(self._marked(visit_updates(part), part, bots))

    def _marked(self, updates: list[VisitUpdate], part: Iterable[Admitted], bots: Collection[str]) -> list[VisitUpdate]:
        """Mark the visits of robots in these updates, and add the notable events."""
        for update in updates:
            update.is_bot = update.visit_id in bots
        notable = [event for event, _ in part if self._is_notable(event.event_name)]
        if notable:
            by_visit = {update.visit_id: update for update in updates}
            for event in notable:
                by_visit[event.visit_id].add_notable(event)
        return updates


class RecordConsumer:
    """Updates timelines, identities and links from identifying events and erasures.

    Entries may come repeatedly, in any order, to any number of consumers. A record says whether its identity is signed
    in on its newest visit, which follows from that visit's timeline. So the consumer writes the timeline, then the
    record, then reads the timeline again. If another consumer has changed the timeline in between, either this consumer
    sees the change, or the other finds the record written. `rev` orders their writes. For the same reason, tombstones
    are read after the record is written.
    """

    def __init__(self, visitors: VisitorStore, writer: RecordWriter, eraser: Eraser) -> None:
        self._visitors = visitors
        self._writer = writer
        self._eraser = eraser

    async def handle(self, number: int, entries: list[Entry]) -> None:
        """Store everything that these entries of a partition say. Raises RequestError while a store is unavailable."""
        identifying: list[Identifying] = []
        erasures: list[Erasure] = []
        for entry in entries:
            identifying += _identifying_events(entry, erasures)
            await asyncio.sleep(0)
        for start in range(0, len(identifying), _EVENTS_PER_TURN):
            await self._visitors.merge(visit_updates(identifying[start : start + _EVENTS_PER_TURN]))
        visits = await self._visitors.get(dict.fromkeys(event.visit_id for event, _ in identifying))
        if visits:
            await self._write(await self._mentions(identifying, visits), visits)
        for erasure in erasures:
            await self._eraser.apply(number, erasure)

    async def write_again(self, visit_ids: Iterable[str]) -> None:
        """Write the status of visits into the records of their identities, although Redis has lost revisions of them.

        Raises RequestError while a store is unavailable.
        """
        visits = await self._visitors.get(visit_ids)
        await self._writer.forget_lost_revisions(map(_status_of, visits.values()))
        await self._write({}, visits)

    async def _mentions(self, identifying: list[Identifying], visits: dict[str, VisitRecord]) -> Mentions:
        """Return the mentions by identity, without those that have been erased since."""
        erased = {(v.visit_id, t.event_id) for v in visits.values() for t in v.timeline if t.is_erased}
        mentions: dict[str, list[IdentityMention]] = defaultdict(list)
        for count, (event, transition) in enumerate(identifying, 1):
            if transition.identity and (event.visit_id, transition.event_id) not in erased:
                mentions[transition.identity].append(self._writer.mention(event, transition))
            if count % _MENTIONS_PER_TURN == 0:
                await asyncio.sleep(0)
        return mentions

    async def _write(self, mentions: Mentions, visits: dict[str, VisitRecord]) -> None:
        to_link = await self._writer.write(mentions, map(_status_of, visits.values()))
        while visits:
            again = await self._visitors.get(visits)
            visits = {visit.visit_id: visit for visit in again.values() if visit.rev != visits[visit.visit_id].rev}
            if visits:
                await self._writer.write({}, map(_status_of, visits.values()))
        await self._writer.finish(mentions, to_link)


def _status_of(visit: VisitRecord) -> tuple[VisitStatus, Iterator[str]]:
    """Return the status of a visit, and the identities that it is associated with."""
    attribution = visit.visit_state.attribution
    signed_in = attribution.identity if attribution.state is State.AUTHENTICATED else ""
    identities = (association.identity for association in visit.visit_state.associations)
    return VisitStatus(visit.visit_id, visit.rev, signed_in), identities


def _admitted_events(entry: Entry, bots: set[str]) -> Iterator[Admitted]:
    """Yield the valid events of an entry, and add the visits of those that a robot has sent to `bots`."""
    batch = decode(entry)
    if batch is None:
        metrics.LOG_SKIPPED.inc()
        _log.error("skipped an entry of the event log that is no EventBatch", entry=entry.id)
        return
    from_bots = {index for index, context in enumerate(batch.contexts) if context.bot}
    for position, event in enumerate(batch.events):
        if from_bots and event.context_index in from_bots:
            bots.add(event.visit_id)
        try:
            yield event, transition_of(event)
        except InvalidEventError as error:
            metrics.LOG_SKIPPED.inc()
            _log.error("skipped an invalid event of the event log", entry=entry.id, position=position, rule=str(error))


def _identifying_events(entry: Entry, erasures: list[Erasure]) -> list[Identifying]:
    """Return the identifying events of an entry, and add its erasure to `erasures`. Invalid events are skipped."""
    batch = decode(entry)
    if batch is None:  # LiveStateConsumer counts it, and invalid events
        return []
    if batch.HasField("erasure"):
        if is_valid_erasure(batch.erasure):
            erasures.append(batch.erasure)
        else:
            metrics.LOG_SKIPPED.inc()
            _log.error("skipped an erasure of the event log without identity_hash or erasure_id", entry=entry.id)
    identifying = []
    for event in batch.events:
        with suppress(InvalidEventError):
            if event.transition and (transition := transition_of(event)):
                identifying.append((event, transition))
    return identifying
