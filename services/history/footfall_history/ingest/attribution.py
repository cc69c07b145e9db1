"""Turns admitted events into stored ones that say who the visitor was: the stamping protocol of design 3.4.

For an entry of the log and a visit the protocol is: (1) merge the entry's transitions into the visit document
atomically, rev += 1 iff that changed it; (2) read (timeline, rev); (3) insert the events with stamp and rev, ignoring
duplicates; (4) read (timeline, rev') again; (5) with the condition `stored rev < rev'` stamp anew: if the entry has
transitions, whether or not step 1 changed anything, every stretch from its earliest one on; and if rev' is not rev, or
an insert was a duplicate, the entry's own events; (6) acknowledge after a journaled write.

Why it converges: a timeline changes only by merges in one document, so its states form a chain by rev; a stamp's rev
never falls; writers write, then read. Take an event E and a transition T. If T merged before E's writer read again,
that writer stamps E with T. Otherwise E was inserted before T merged, and T's writer finds E in step 5.

Why that stays true here:
- Of a batch. Each step is done for all entries and visits before the next begins, so for each entry and visit taken
  alone the steps still follow one another. Merging the transitions of several entries at once is merging them one
  after the other with nobody in between. The stretches from the earliest transition of all hold those of each.
- With remembered visits. Step 2 may use a timeline read long ago: its rev tells step 4 so, and the entry's own events
  are stamped anew. Step 1 may find in it that nothing is to merge: what a timeline has, it keeps. To change one, it
  must still be the stored one, because the write names its rev.
- With a look before step 5. It asks after step 4 which events of the stretches are behind rev', and stamps these alone.
  Every E that T's writer must find was there before T merged. What is inserted later is the business of its own
  writer, who reads after that.
- With visits that are left. The protocol was not begun for them, or ended early, as in a crash: it begins again when
  their events are given again, in whatever order.
- When a visit expires in between. Step 4 misses it; the protocol begins again for it.
- With events that come again at an earlier time. They are moved between steps 3 and 4, and lose their stamp by that: so
  they are behind whatever timeline is read after.

A crash at any point leaves the entries unacknowledged, and every step can be done twice.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from footfall.event.v1.event_pb2 import EventBatch

from footfall_history import metrics
from footfall_history.ingest.last_keys import notes
from footfall_history.storage import (
    NO_REVISION,
    Arrivals,
    Document,
    EraseTimes,
    Store,
    Tombstones,
    Unstorable,
    Visit,
    by_visit,
    each_behind,
    erase_in_visit,
    has_same_content,
    restamps_behind,
    restamps_of,
    visit_of,
)

_SIZE_OF_A_VISIT: Final = 5
_REMEMBERED_SIZE: Final = 50_000  # at most 10,000 visits, or 50 of the longest timelines
# Visits are kept a day longer than events, so noting their last event once a day is enough.
_TOUCH_EVERY_MS: Final = 86_400_000
_RESTAMPS_AT_ONCE: Final = 1_000
# Of what may take its time: the commands of others wait behind each of these.
_INSERTS_AT_ONCE: Final = 100
_NO_MARK: Final[Mapping[str, Any]] = MappingProxyType({})


class Effort(NamedTuple):
    """What may be spent on a visit: transitions that it has, and events that are to be stamped anew at once."""

    transitions: int
    restamps: int


class Kept(NamedTuple):
    """How many events of some batches were stored, and those that cannot be. All others had been stored before.

    That is without the visits in `left`: all their events are to be given again.
    """

    stored_count: int
    unstorable: list[Unstorable]
    left: set[str]


class Stamper:
    """Stores batches of events. Several may work on the same visits at once, in one process or many."""

    def __init__(
        self, store: Store, tombstones: Tombstones, *, transitions_kept: int, mark: Mapping[str, Any] = _NO_MARK
    ) -> None:
        """`mark`: fields that say of each event stored by this one how it came here."""
        self._store = store
        self._mark = mark
        self._tombstones = tombstones
        self._transitions_kept = transitions_kept
        self._remembered: OrderedDict[str, Visit] = OrderedDict()
        self._remembered_size = 0

    async def keep(self, batches: Iterable[EventBatch], effort: Effort | None = None) -> Kept:
        """Store all events of these batches that can be. When it returns, what it did is on disk.

        Visits that take more than the effort given are left: most untouched, some half done.
        Raises `storage.Unavailable`; the same batches can then be given again, to any stamper.
        """
        stored: set[str] = set()
        left: set[str] = set()
        unstorable: list[Unstorable] = []
        arrivals = by_visit(batches, unstorable)
        while arrivals:
            visits = await self._known(arrivals)
            if effort:
                left |= self._leave_long(arrivals, visits, effort.transitions)
            forgotten = await self._merge(arrivals, visits, unstorable)
            at_once = None if effort else _INSERTS_AT_ONCE
            duplicates = await self._insert(arrivals, visits, forgotten, stored, unstorable, at_once=at_once)
            known = await self._earliest(arrivals, duplicates)
            await self._store.note_last_keys(notes(arrivals))
            current = {
                visit_id: visit
                for visit_id, visit in (await self._read(arrivals)).items()
                # Else it expired, and somebody began it anew.
                if visit.merged(arrivals[visit_id].transitions, self._transitions_kept) is visit
            }
            most = effort.restamps if effort else _RESTAMPS_AT_ONCE
            behind = await self._stamp_anew(arrivals, visits, current, known, most)
            named = {
                visit_id: forgotten.keys() & (visit.identities | arrivals[visit_id].named)
                for visit_id, visit in current.items()
            }
            if effort:
                left |= behind.keys() | {visit_id for visit_id, erased in named.items() if erased}
            else:
                await self._take_time(current, behind, named, forgotten)
            self._remember(current.values())
            arrivals = {visit_id: arrival for visit_id, arrival in arrivals.items() if visit_id not in current}
            for visit_id in arrivals:
                self._forget(visit_id)
        await self._store.journal()
        stored_count = sum(visit_of(id_) not in left for id_ in stored) if left else len(stored)
        return Kept(stored_count, [one for one in unstorable if one.event.visit_id not in left], left)

    async def _known(self, arrivals: Arrivals) -> dict[str, Visit]:
        """The visits that there are, some as they were when they were last read."""
        visits = {visit_id: visit for visit_id in arrivals if (visit := self._remembered.get(visit_id))}
        return visits | await self._read(visit_id for visit_id in arrivals if visit_id not in visits)

    def _leave_long(self, arrivals: Arrivals, visits: dict[str, Visit], most: int) -> set[str]:
        """Take visits that would have more transitions out of both; remember them, as reading one takes long."""
        left = set()
        for visit_id, arrival in arrivals.items():
            visit = visits.get(visit_id)
            if len(arrival.transitions) + (len(visit.timeline) if visit else 0) > most:
                left.add(visit_id)
        self._remember([visits.pop(visit_id) for visit_id in left if visit_id in visits])
        for visit_id in left:
            del arrivals[visit_id]
        return left

    async def _take_time(
        self,
        visits: Mapping[str, Visit],
        behind: Mapping[str, str],
        named: Mapping[str, set[str]],
        forgotten: EraseTimes,
    ) -> None:
        """What is left of step 5, from the keys in `behind` on, and to forget whoever of them was named in a visit."""
        for visit_id, from_key in behind.items():
            async for restamps in each_behind(self._store, visits[visit_id], from_key):
                metrics.RESTAMPED.inc(await self._store.restamp(restamps))
        for visit_id, identities in named.items():
            for identity in identities:
                await erase_in_visit(self._store, self._tombstones, visit_id, identity, forgotten[identity])

    async def _merge(self, arrivals: Arrivals, visits: dict[str, Visit], unstorable: list[Unstorable]) -> EraseTimes:
        """Steps 1 and 2. Takes visits that are refused out of `arrivals`; returns who has been forgotten.

        That is looked up after merging, and whoever erases looks for visits after noting it: one of the two sees the
        other, so nobody comes back.
        """
        await self._change(arrivals, visits, {}, unstorable)
        named = set().union(*(arrival.named for arrival in arrivals.values()))
        forgotten = await self._tombstones.of(named)
        if forgotten:
            await self._change(arrivals, visits, forgotten, unstorable)
        await self._move(arrivals, visits)
        return forgotten

    async def _change(
        self, arrivals: Arrivals, visits: dict[str, Visit], forgotten: EraseTimes, unstorable: list[Unstorable]
    ) -> None:
        """Bring `visits` and what is stored to where there is nothing left to merge or to forget."""
        open_ids = set(arrivals)
        while open_ids:
            begun, changed = self._plan(arrivals, visits, open_ids, forgotten)
            refusals = await self._store.begin_visits(
                [visit.document() | self._tombstones.fields(visit) for visit in begun.values()]
            )
            written, refused = await self._store.replace_timelines(
                [(visit_id, self._tombstones.fields(visit)) for visit_id, visit in changed.items()]
            )
            open_ids = refusals.duplicates
            visits |= {visit_id: visit for visit_id, visit in begun.items() if visit_id not in open_ids}
            if written + len(refused) == len(changed):
                newly = [id_ for id_ in changed if changed[id_].is_truncated and not visits[id_].is_truncated]
                metrics.TIMELINES_TRUNCATED.inc(len(newly))
                visits |= changed
            else:  # somebody else wrote one of them, and only reading tells which
                open_ids |= changed.keys()
            for visit_id, reason in (refusals.refused | refused).items():
                unstorable += arrivals.pop(visit_id).unstorable(reason)
                visits.pop(visit_id, None)
                open_ids.discard(visit_id)
            for visit_id in open_ids:
                visits.pop(visit_id, None)
            visits |= await self._read(open_ids)

    async def _move(self, arrivals: Arrivals, visits: Mapping[str, Visit]) -> None:
        """Note what is not in the timeline: an earlier start or arrival, and now and then that the visit goes on.

        A visit stored before arrivals were noted keeps the site it has.
        """
        starts = {
            visit_id: arrival.start
            for visit_id, arrival in arrivals.items()
            if arrival.start["start_key"] < visits[visit_id].start["start_key"]
        }
        origins = {
            visit_id: arrival.origin
            for visit_id, arrival in arrivals.items()
            if arrival.origin["site_key"] < visits[visit_id].start["site_key"]
        }
        touched = {
            visit_id: arrival.received_ms
            for visit_id, arrival in arrivals.items()
            if arrival.received_ms > visits[visit_id].touched_ms + _TOUCH_EVERY_MS
        }
        await self._store.move_visits(starts, touched, max(touched.values(), default=0), origins)

    async def _insert(
        self,
        arrivals: Arrivals,
        visits: Mapping[str, Visit],
        forgotten: EraseTimes,
        stored: set[str],
        unstorable: list[Unstorable],
        *,
        at_once: int | None,
    ) -> set[str]:
        """Step 3, so many events a command. Returns the duplicates; adds the others to `stored` or `unstorable`."""
        documents = [
            self._tombstones.hashed(visits[visit_id].stamped({**document, **self._mark}, forgotten))
            for visit_id, arrival in arrivals.items()
            for document in arrival.events.values()
        ]
        refusals = await self._store.insert_events(documents, at_once)
        for document in documents:
            if document["_id"] in refusals.duplicates:
                continue
            if reason := refusals.refused.get(document["_id"]):
                unstorable.append(Unstorable(*arrivals[document["visit_id"]].sources[document["_id"]], reason))
            else:
                stored.add(document["_id"])
        return refusals.duplicates

    async def _earliest(self, arrivals: Arrivals, duplicates: Iterable[str]) -> dict[str, Document]:
        """The stored events that came again, each at the earliest of its times, as its transition is."""
        known = {document["_id"]: document for document in await self._store.read_events(duplicates)}
        earlier = {
            document_id: document["order_key"]
            for arrival in arrivals.values()
            for document_id, document in arrival.events.items()
            if document_id in known and document["order_key"] < known[document_id]["order_key"]
        }
        await self._store.move_events(earlier)
        for document_id, key in earlier.items():
            known[document_id] |= {"order_key": key, "rev": NO_REVISION}
        return known

    async def _stamp_anew(
        self,
        arrivals: Arrivals,
        visits: Mapping[str, Visit],
        current: Mapping[str, Visit],
        known: Mapping[str, Document],
        most: int,
    ) -> dict[str, str]:
        """Step 5. `known` are events that had been stored before.

        Returns visits that may have more than about `most` events to be stamped anew, each with the key.
        """
        from_keys = {
            visit_id: key
            for visit_id, visit in current.items()
            if (key := visit.earliest_of(arrivals[visit_id].transitions))
        }
        restamps, cut = await restamps_behind(self._store, current, from_keys, most)
        conflicts = set().union(*(arrival.conflicts for arrival in arrivals.values()))
        for visit_id, visit in current.items():
            behind = []
            arrival = arrivals[visit_id]
            for document_id, document in arrival.events.items():
                stored, rev = document, visits[visit_id].rev
                if document_id in known:
                    stored, rev = known[document_id], known[document_id]["rev"]
                    if not has_same_content(stored, document):
                        conflicts.add(document_id)
                if rev < visit.rev:
                    behind.append(stored)
            restamps += restamps_of(visit, behind)
        metrics.RESTAMPED.inc(await self._store.restamp(restamps))
        metrics.CONFLICTS.inc(len(conflicts))
        await self._store.flag_conflicts(conflicts)
        return {visit_id: from_keys[visit_id] for visit_id in cut}

    async def _read(self, visit_ids: Iterable[str]) -> dict[str, Visit]:
        return await self._tombstones.visits(visit_ids)

    def _remember(self, visits: Iterable[Visit]) -> None:
        for visit in visits:
            self._forget(visit.visit_id)
            self._remembered[visit.visit_id] = visit
            self._remembered_size += _size(visit)
        while self._remembered_size > _REMEMBERED_SIZE:
            self._forget(next(iter(self._remembered)))

    def _forget(self, visit_id: str) -> None:
        if visit := self._remembered.pop(visit_id, None):
            self._remembered_size -= _size(visit)

    def _plan(
        self, arrivals: Arrivals, visits: Mapping[str, Visit], open_ids: Iterable[str], forgotten: EraseTimes
    ) -> tuple[dict[str, Visit], dict[str, Visit]]:
        """The visits to begin and those to change, as they will be."""
        begun, changed = {}, {}
        for visit_id in open_ids:
            arrival, known = arrivals[visit_id], visits.get(visit_id)
            start = arrival.start | arrival.origin
            visit = known or self._tombstones.begun(visit_id, start, arrival.received_ms)
            visit = visit.merged(arrival.transitions, self._transitions_kept).with_forgotten(forgotten)
            if known is None:
                begun[visit_id] = visit
            elif visit is not known:
                changed[visit_id] = replace(visit, rev=known.rev + 1)
        return begun, changed


def _size(visit: Visit) -> int:
    """What remembering a visit takes: a transition about 1 kB."""
    return _SIZE_OF_A_VISIT + len(visit.timeline)
