"""Stores events with their attribution: who the visitor was when the event happened.

**Protocol**, for one entry of the log and one visit:

1. Merge the entry's transitions into the visit's timeline atomically. `rev` grows by one if that changes the timeline.
2. Read (timeline, rev).
3. Insert the events with their attribution and rev. Ignore duplicates.
4. Read (timeline, rev') again.
5. Attribute events again whose stored rev is lower than rev':
   - if the entry has transitions, all events from the earliest of them on, even if step 1 changed nothing;
   - the entry's own events, if rev' is not rev or an insert was a duplicate.
6. Acknowledge the entry after a journaled write.

**Why it converges.** A timeline changes only by merges in a single document, so its states form a chain by rev, and the
rev of an attribution never falls. Each writer writes first and then reads. Take an event E and a transition T. If T is
merged before the writer of E reads again, that writer attributes E with T. Otherwise E was inserted before T was
merged, and the writer of T finds E in step 5.

**Why this holds for the implementation:**

- Batches: each step is done for all entries and visits before the next step begins. Merging the transitions of several
  entries together equals merging them one after the other. The events from the earliest transition on include those
  from each later one.
- Cached visits: step 2 may use an old timeline. Its rev shows that in step 4, and the entry's own events are attributed
  again. If step 1 finds nothing to merge in it, that is right, because a timeline never loses a transition. To change a
  timeline, the cached one must be the stored one, because the write names its rev.
- A query before step 5 finds outdated events, and only these are written. It runs after step 4, so it finds every E
  that was inserted before T was merged. Later events are read again by their own writer.
- Deferred visits: for these the protocol has not begun, or ended early as in a crash. It begins again when their events
  come again, in any order.
- Anonymous visits: step 4 reads only those that are no longer of revision 0, which always is the empty timeline. So a
  start or a mark that another process has written is not noticed. No attribution follows from these, and writing them
  again changes nothing.
- A visit that expires in between: step 4 does not find it, and the protocol begins again for it. An anonymous visit
  with a recent receipt is not looked for, because it does not expire.
- Visits that step 1 has begun: every event of them is inserted after that, and so with their transitions. Step 5 does
  not look for others.
- MongoDB goes back to an earlier state: then revisions no longer form one chain. A batch that is attributed by a lost
  revision was delivered before its group was set back. So its events come again, see `Attributor.distrust_revisions`.
- Events that come again with an earlier time: they are moved between steps 3 and 4 and lose their attribution, so they
  are outdated for any timeline that is read later.

A crash at any point leaves the entries unacknowledged, and every step can be repeated.
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.settings import DAY_MS

from footfall_history import metrics
from footfall_history.ingest.last_keys import sampled_last_keys
from footfall_history.storage import (
    NO_REVISION,
    TOUCH_INTERVAL_MS,
    Arrivals,
    Document,
    EraseTimes,
    Store,
    Tombstones,
    Unstorable,
    Visit,
    each_reattribution,
    erase_in_visit,
    find_reattributions,
    group_by_visit,
    has_same_content,
    marks_of_repetition,
    reattributions_of,
    visit_of,
)

# In units of about 1 kB, the size of a transition: at most 10,000 visits, or 50 of the longest timelines.
_CACHE_SIZE: Final = 50_000
_SIZE_OF_A_VISIT: Final = 5
_MAX_REATTRIBUTIONS: Final = 1_000
# Without a limit on the effort, so that the commands of others do not wait behind a long one.
_INSERTS_PER_COMMAND: Final = 100
_NO_MARK: Final[Mapping[str, Any]] = MappingProxyType({})
# An event is kept for some days (HistorySettings.problems) and its visit as long. The difference is for clocks.
_DOES_NOT_EXPIRE_MS: Final = DAY_MS


class EffortLimit(NamedTuple):
    """A visit is deferred if it has more transitions, or if more of its events have to be attributed again."""

    transitions: int
    reattributions: int


class StoreResult(NamedTuple):
    """The number of events newly stored, those that cannot be stored, and the visits whose events must come again.

    All other events were stored before. The first two are without the deferred visits.
    """

    stored_count: int
    unstorable: list[Unstorable]
    deferred: set[str]


class Attributor:
    """Stores batches of events. Several may work on the same visits concurrently, in one process or many."""

    def __init__(
        self, store: Store, tombstones: Tombstones, *, max_transitions: int, mark: Mapping[str, Any] = _NO_MARK
    ) -> None:
        """`mark`: fields to add to each event that is stored."""
        self._store = store
        self._mark = mark
        self._tombstones = tombstones
        self._max_transitions = max_transitions
        self._cache: OrderedDict[str, Visit] = OrderedDict()
        self._cache_size = 0
        self._times_forgotten = 0
        self._trusts_revisions = True

    def forget(self) -> None:
        """Forget all visits, also those being stored: MongoDB may have gone back to an earlier state."""
        self._cache.clear()
        self._cache_size = 0
        self._times_forgotten += 1

    def distrust_revisions(self) -> None:
        """From now on, attribute each event that comes again by the visit's timeline of then, not only an outdated one.

        For events that are read again because MongoDB has gone back: a writer that did not know it yet may have
        attributed them by a revision that was lost, and whose number now has another timeline.
        """
        self._trusts_revisions = False

    async def store(self, batches: Iterable[EventBatch], effort_limit: EffortLimit | None = None) -> StoreResult:
        """Store the events of these batches. They are on disk when this returns.

        Visits that exceed `effort_limit` are deferred, mostly before anything of them is stored.
        Raises TRANSIENT_STORE_ERRORS. The same batches can then be passed again, to any attributor.
        """
        stored: set[str] = set()
        deferred: set[str] = set()
        unstorable: list[Unstorable] = []
        finished: dict[str, Visit] = {}
        times_forgotten = self._times_forgotten
        arrivals = group_by_visit(batches, unstorable)
        while arrivals:
            # Those in the cache may be of an earlier revision.
            visits = {visit_id: visit for visit_id in arrivals if (visit := self._cache.get(visit_id))}
            visits |= await self._tombstones.read_visits(arrivals.keys() - visits.keys())
            if effort_limit:
                deferred |= self._defer_long(arrivals, visits, effort_limit.transitions)
            erase_times, begun = await self._merge(arrivals, visits, unstorable)
            per_command = None if effort_limit else _INSERTS_PER_COMMAND
            duplicates = await self._insert(arrivals, visits, erase_times, stored, unstorable, per_command=per_command)
            known = await self._earliest(arrivals, duplicates)
            await self._add_marks(arrivals, visits, known)
            await self._store.note_last_keys(sampled_last_keys(arrivals))
            current = await self._read_again(arrivals, visits)
            limit = effort_limit.reattributions if effort_limit else _MAX_REATTRIBUTIONS
            outdated = await self._reattribute(arrivals, visits, current, known, begun, limit=limit)
            to_erase = {
                visit_id: erase_times.keys() & (visit.identities | arrivals[visit_id].named)
                for visit_id, visit in current.items()
            }
            if effort_limit:
                deferred |= outdated.keys() | {visit_id for visit_id, identities in to_erase.items() if identities}
            else:
                await self._finish(current, outdated, to_erase, erase_times)
            finished |= current
            arrivals = {visit_id: arrival for visit_id, arrival in arrivals.items() if visit_id not in current}
            for visit_id in arrivals:
                self._drop_from_cache(visit_id)
        await self._store.journal()
        if times_forgotten == self._times_forgotten:
            self._add_to_cache(finished.values())  # not before they are on disk, because step 4 may rely on it
        stored_count = sum(visit_of(id_) not in deferred for id_ in stored) if deferred else len(stored)
        return StoreResult(stored_count, [one for one in unstorable if one.event.visit_id not in deferred], deferred)

    def _defer_long(self, arrivals: Arrivals, visits: dict[str, Visit], limit: int) -> set[str]:
        """Remove visits from both that would have more transitions. They are cached, since reading one takes long."""
        known = {visit_id: len(visit.timeline) for visit_id, visit in visits.items()}
        deferred = {id_ for id_, arrival in arrivals.items() if len(arrival.transitions) + known.get(id_, 0) > limit}
        self._add_to_cache([visits.pop(visit_id) for visit_id in deferred & visits.keys()])
        for visit_id in deferred:
            del arrivals[visit_id]
        return deferred

    async def _finish(
        self,
        visits: Mapping[str, Visit],
        outdated: Mapping[str, str],
        to_erase: Mapping[str, set[str]],
        erase_times: EraseTimes,
    ) -> None:
        """The rest of step 5, from the keys in `outdated` on, and the erasure of identities that the events named."""
        for visit_id, from_key in outdated.items():
            async for reattributions in each_reattribution(self._store, visits[visit_id], from_key):
                metrics.REATTRIBUTED.inc(await self._store.reattribute(reattributions))
        for visit_id, identities in to_erase.items():
            for identity in identities:
                await erase_in_visit(self._store, self._tombstones, visit_id, identity, erase_times[identity])

    async def _merge(
        self, arrivals: Arrivals, visits: dict[str, Visit], unstorable: list[Unstorable]
    ) -> tuple[EraseTimes, set[str]]:
        """Steps 1 and 2. Removes refused visits from `arrivals`.

        Returns the erased identities among those named, and the visits that did not exist before.

        Tombstones are read after merging, and an eraser reads visits after storing the tombstone. So at least one of
        the two sees the other, and an erased identity does not come back.
        """
        begun = await self._change(arrivals, visits, {}, unstorable)
        named = set().union(*(arrival.named for arrival in arrivals.values()))
        erase_times = await self._tombstones.erase_times(named)
        if erase_times:
            # What is erased depends on the start, which another process may have written since the visit was cached.
            to_erase = [visit_id for visit_id, visit in visits.items() if erase_times.keys() & visit.identities]
            visits |= await self._tombstones.read_visits(to_erase, visits)
            await self._change(arrivals, visits, erase_times, unstorable)
        await self._move(arrivals, visits)
        return erase_times, begun

    async def _change(
        self, arrivals: Arrivals, visits: dict[str, Visit], erase_times: EraseTimes, unstorable: list[Unstorable]
    ) -> set[str]:
        """Merge and erase in `visits` and in the store, until nothing is left to change. Returns the visits begun."""
        open_ids, all_begun = set(arrivals), set[str]()
        while open_ids:
            begun, changed = self._plan(arrivals, visits, open_ids, erase_times)
            refusals = await self._store.begin_visits(
                [visit.document() | self._tombstones.timeline_fields(visit) for visit in begun.values()]
            )
            written, refused = await self._store.replace_timelines(
                [(visit_id, self._tombstones.timeline_fields(visit)) for visit_id, visit in changed.items()]
            )
            open_ids = refusals.duplicates
            all_begun |= begun.keys() - open_ids
            visits |= {visit_id: visit for visit_id, visit in begun.items() if visit_id not in open_ids}
            if written + len(refused) == len(changed):
                newly = [id_ for id_ in changed if changed[id_].is_truncated and not visits[id_].is_truncated]
                metrics.TIMELINES_TRUNCATED.inc(len(newly))
                visits |= changed
            else:  # another writer changed one of them, and only reading shows which
                open_ids |= changed.keys()
            for visit_id, reason in (refusals.refused | refused).items():
                unstorable += arrivals.pop(visit_id).unstorable(reason)
                visits.pop(visit_id, None)
                open_ids.discard(visit_id)
            for visit_id in open_ids:
                visits.pop(visit_id, None)
            visits |= await self._tombstones.read_visits(open_ids)
        return all_begun

    async def _move(self, arrivals: Arrivals, visits: dict[str, Visit]) -> None:
        """Store what is not in the timeline: an earlier start or first receipt, staff, and at times the last receipt.

        A visit that was stored before first receipts were has no `site_key`, and keeps its site.
        """
        starts, origins, touched, of_staff = {}, {}, {}, []
        for visit_id, arrival in arrivals.items():
            visit = visits[visit_id]
            if arrival.start["start_key"] < visit.start["start_key"]:
                starts[visit_id] = arrival.start
            if arrival.origin["site_key"] < visit.start["site_key"]:
                origins[visit_id] = arrival.origin
            if arrival.received_ms > visit.touched_ms + TOUCH_INTERVAL_MS:
                touched[visit_id] = arrival.received_ms
            if arrival.is_staff and not visit.is_staff:
                of_staff.append(visit_id)
        touched_ms = max(touched.values(), default=0)
        await self._store.move_visits(starts, touched, touched_ms, origins, of_staff)
        for visit_id in {*starts, *origins, *touched, *of_staff}:
            visit = visits[visit_id]
            if not _may_expire(visit):
                visits[visit_id] = replace(
                    visit,
                    start={**visit.start, **starts.get(visit_id, {}), **origins.get(visit_id, {})},
                    touched_ms=touched_ms if visit_id in touched else visit.touched_ms,
                    is_staff=visit.is_staff or visit_id in of_staff,
                )

    async def _insert(
        self,
        arrivals: Arrivals,
        visits: Mapping[str, Visit],
        erase_times: EraseTimes,
        stored: set[str],
        unstorable: list[Unstorable],
        *,
        per_command: int | None,
    ) -> set[str]:
        """Step 3. Returns the duplicates, and adds the other events to `stored` or `unstorable`."""
        documents = [
            self._tombstones.with_hash(visits[visit_id].attributed({**document, **self._mark}, erase_times))
            for visit_id, arrival in arrivals.items()
            for document in arrival.events.values()
        ]
        refusals = await self._store.insert_events(documents, per_command)
        for document in documents:
            if document["_id"] in refusals.duplicates:
                continue
            if reason := refusals.refused.get(document["_id"]):
                unstorable.append(Unstorable(*arrivals[document["visit_id"]].sources[document["_id"]], reason))
            else:
                stored.add(document["_id"])
        return refusals.duplicates

    async def _earliest(self, arrivals: Arrivals, duplicates: Iterable[str]) -> dict[str, Document]:
        """The stored events that came again, moved to the earliest of their times as their transitions are."""
        known = {document["_id"]: document for document in await self._store.read_events(duplicates)}
        if known and not self._trusts_revisions:
            await self._store.invalidate_attributions(known)
            known = {document_id: document | {"rev": NO_REVISION} for document_id, document in known.items()}
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

    async def _add_marks(self, arrivals: Arrivals, visits: dict[str, Visit], known: Mapping[str, Document]) -> None:
        """Note at visits what is remarkable about their events. Most events have nothing remarkable and cost nothing.

        Before step 4, so that the cached visit has the marks and they are not written again.
        """
        to_mark: dict[str, list[str]] = defaultdict(list)
        for visit_id, arrival in arrivals.items():
            marks = arrival.marks
            for document_id in arrival.events.keys() & known.keys() if known else ():
                marks = marks.union(marks_of_repetition(known[document_id], arrival.events[document_id]))
            for mark in marks - visits[visit_id].marks:
                to_mark[mark].append(visit_id)
        await self._store.add_marks(to_mark)
        for mark, visit_ids in to_mark.items():
            for visit_id in visit_ids:
                visits[visit_id] = replace(visits[visit_id], marks=visits[visit_id].marks | {mark})

    async def _read_again(self, arrivals: Arrivals, visits: Mapping[str, Visit]) -> dict[str, Visit]:
        """Step 4. Returns the visits as they are now, without those that expired in between."""
        anonymous = {id_: visit for id_, visit in visits.items() if visit.rev == 0 and not _may_expire(visit)}
        current = {
            **anonymous,
            **await self._tombstones.changed_visits(anonymous),
            **await self._tombstones.read_visits(visits.keys() - anonymous.keys(), visits),
        }
        return {
            visit_id: visit
            for visit_id, visit in current.items()
            # Otherwise the visit expired and another writer has begun it again.
            if visit.merged(arrivals[visit_id].transitions, self._max_transitions) is visit
        }

    async def _reattribute(
        self,
        arrivals: Arrivals,
        visits: Mapping[str, Visit],
        current: Mapping[str, Visit],
        known: Mapping[str, Document],
        begun: Collection[str],
        *,
        limit: int,
    ) -> dict[str, str]:
        """Step 5. `known`: events that had been stored before. `begun`: visits that step 1 has begun.

        Returns the visits that may have more than about `limit` outdated events, each with the key to continue from.
        """
        from_keys = {
            visit_id: key
            for visit_id, visit in current.items()
            if visit_id not in begun and (key := visit.first_key_of(arrivals[visit_id].transitions))
        }
        reattributions, cut = await find_reattributions(self._store, current, from_keys, limit)
        conflicts = set().union(*(arrival.conflicts for arrival in arrivals.values()))
        for visit_id, visit in current.items():
            outdated = []
            for document_id, document in arrivals[visit_id].events.items():
                stored, rev = document, visits[visit_id].rev
                if document_id in known:
                    stored, rev = known[document_id], known[document_id]["rev"]
                    if not has_same_content(stored, document):
                        conflicts.add(document_id)
                if rev < visit.rev:
                    outdated.append(stored)
            reattributions += reattributions_of(visit, outdated)
        metrics.REATTRIBUTED.inc(await self._store.reattribute(reattributions))
        metrics.CONFLICTING_DUPLICATES.inc(len(conflicts))
        await self._store.flag_conflicts(conflicts)
        return {visit_id: from_keys[visit_id] for visit_id in cut}

    def _add_to_cache(self, visits: Iterable[Visit]) -> None:
        for visit in visits:
            self._drop_from_cache(visit.visit_id)
            self._cache[visit.visit_id] = visit
            self._cache_size += _size(visit)
        while self._cache_size > _CACHE_SIZE:
            self._drop_from_cache(next(iter(self._cache)))

    def _drop_from_cache(self, visit_id: str) -> None:
        if visit := self._cache.pop(visit_id, None):
            self._cache_size -= _size(visit)

    def _plan(
        self, arrivals: Arrivals, visits: Mapping[str, Visit], open_ids: Iterable[str], erase_times: EraseTimes
    ) -> tuple[dict[str, Visit], dict[str, Visit]]:
        """The visits to begin, and the visits to change, in their next revision."""
        begun, changed = {}, {}
        for visit_id in open_ids:
            known = visits.get(visit_id)
            visit = self._tombstones.merged(visit_id, known, arrivals[visit_id], erase_times, self._max_transitions)
            if known is None:
                begun[visit_id] = visit
            elif visit is not known:
                changed[visit_id] = replace(visit, rev=known.rev + 1)
        return begun, changed


def _may_expire(visit: Visit) -> bool:
    return visit.touched_ms < time.time_ns() // 1_000_000 - _DOES_NOT_EXPIRE_MS


def _size(visit: Visit) -> int:
    return _SIZE_OF_A_VISIT + len(visit.timeline)
