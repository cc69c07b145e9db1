"""Turns changed timelines into new stamps of the events stored before."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from footfall_timeline import Stamp, order_key

from footfall_history.storage.documents import Document, erasable, event_time_ms, is_system, stamp_fields
from footfall_history.storage.event_cursor import Walk
from footfall_history.storage.store import STAMPED_BY, Restamp, Series, Store
from footfall_history.storage.tombstones import Tombstones
from footfall_history.storage.visit import Visit

_ALIKE_REVISIONS: Final = 8
_ALIKE_MS: Final = 600_000
_VISITS_A_QUERY: Final = 50
# Of a visit that has many behind so many are looked at before they are written.
_EVENTS_A_LOOK: Final = 1_000


async def restamps_behind(
    store: Store, visits: Mapping[str, Visit], from_keys: Mapping[str, str], most: int
) -> tuple[list[Restamp], set[str]]:
    """New stamps of events from a key on that were stamped by an earlier revision, and visits that may have more.

    One query looks at about `most` events at most.
    """
    groups = _alike(visits, from_keys)
    answers = await asyncio.gather(*(store.events_behind(*group, most) for group in groups))
    behind: dict[str, list[Document]] = defaultdict(list)
    for event in (event for answer in answers for event in answer):
        visit_id = event["visit_id"]
        if event["order_key"] >= from_keys[visit_id] and event["rev"] < visits[visit_id].rev:
            behind[visit_id].append(event)
    cut = {
        visit_id for group, answer in zip(groups, answers, strict=True) if len(answer) >= most for visit_id in group[0]
    }
    return [restamp for visit_id, events in behind.items() for restamp in restamps_of(visits[visit_id], events)], cut


async def each_behind(store: Store, visit: Visit, from_key: str) -> AsyncIterator[list[Restamp]]:
    """All new stamps of a visit's events from a key on, a bounded number at a time, each to be written at once."""
    walk = _walk(store, visit, {"rev": {"$lt": visit.rev}}, from_key, "")
    while events := await walk.take(_EVENTS_A_LOOK):
        yield restamps_of(visit, events)


def _alike(visits: Mapping[str, Visit], from_keys: Mapping[str, str]) -> list[tuple[list[str], str, int]]:
    """Visits that may be asked about together: ids, key and revision. They differ little in what they ask for.

    One query for all would read, of a long visit that asks for little, what another one asks for.
    """
    alike: dict[tuple[int, int], list[str]] = defaultdict(list)
    for visit_id, key in from_keys.items():
        at_ms = event_time_ms(key) if key else 0
        alike[visits[visit_id].rev // _ALIKE_REVISIONS, at_ms // _ALIKE_MS].append(visit_id)
    groups = [ids[at : at + _VISITS_A_QUERY] for ids in alike.values() for at in range(0, len(ids), _VISITS_A_QUERY)]
    return [
        (ids, min(from_keys[visit_id] for visit_id in ids), max(visits[visit_id].rev for visit_id in ids))
        for ids in groups
    ]


def _walk(store: Store, visit: Visit, where: Document, lower: str, upper: str) -> Walk:
    series = Series({"visit_id": visit.visit_id}, where, event_time_ms(visit.start["start_key"]))
    return store.walk(series, lower, upper, STAMPED_BY)


async def erase_in_visit(
    store: Store, tombstones: Tombstones, visit_id: str, identity: str, erase_time_ms: int
) -> tuple[bool, int]:
    """Forget what a visit knows of an identity up to a moment. Returns whether its timeline did, and how many events.

    The visit stays listed as one of this identity until no event names it, so that after a crash it is found again.
    """
    is_changed = await _replace(store, tombstones, visit_id, lambda visit: visit.erased(identity, erase_time_ms))
    count = 0
    for visit in (await tombstones.visits([visit_id])).values():
        async for restamps in each_behind(store, visit, ""):
            # Those that lose something are counted: each matches once, whoever else erases at the same time.
            count += await store.restamp(restamp for restamp in restamps if restamp.erases)
            await store.restamp(restamp for restamp in restamps if not restamp.erases)
        upper = order_key(erase_time_ms + 1, "")
        naming = _walk(store, visit, {"names_identity_id": identity}, "", upper)
        while events := await naming.take(_EVENTS_A_LOOK):
            count += await store.forget_named([event["_id"] for event in events], identity)
    await _replace(store, tombstones, visit_id, lambda visit: visit.without(identity))
    return is_changed, count


async def _replace(store: Store, tombstones: Tombstones, visit_id: str, change: Callable[[Visit], Visit]) -> bool:
    """Change a visit, whatever others do to it at the same time. Returns whether there was anything to change."""
    while visit := (await tombstones.visits([visit_id])).get(visit_id):
        changed = change(visit)
        if changed is visit:
            return False
        if (await store.replace_timelines([(visit_id, tombstones.fields(changed))]))[0]:
            return True
    return False


def restamps_of(visit: Visit, events: Iterable[Document]) -> list[Restamp]:
    """The stamps that events have by the timeline of their visit, as few as possible: each takes its time.

    What has been forgotten is erased with it.
    """
    alike: dict[tuple[Stamp, tuple[str, ...], bool], dict[str, str]] = defaultdict(dict)
    for event in events:
        piece = visit.piece_at(event["order_key"])
        gone = erasable(of_system=is_system(event)) if piece.is_erased else ()
        erases = piece.is_erased and not event.get("erased")
        alike[piece.stamp, gone, erases][event["_id"]] = event["order_key"]
    restamps = []
    for (stamp, gone, erases), keys in alike.items():
        fields, without = stamp_fields(stamp, visit.rev)
        restamps.append(Restamp(keys, fields | ({"erased": True} if gone else {}), [*without, *gone], erases))
    return restamps
