"""Turns changed timelines into new stamps of the events stored before."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from footfall_timeline import Stamp, order_key

from footfall_history.documents import ERASABLE, Document, event_time_ms, stamp_fields
from footfall_history.store import Restamp, Series, Store
from footfall_history.visit import Visit
from footfall_history.walk import Walk

_ALIKE_REVISIONS: Final = 8
_ALIKE_MS: Final = 600_000
_VISITS_A_QUERY: Final = 50
# Of a visit that has many behind so many are looked at before they are written.
_EVENTS_A_LOOK: Final = 1_000

VisitFields = Callable[[Visit], Document]
"""What is stored of a visit when its timeline has changed."""


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
    return store.walk(series, lower, upper, ["order_key"])


async def erase_in_visit(
    store: Store, fields_of: VisitFields, visit_id: str, identity: str, erase_time_ms: int
) -> tuple[bool, int]:
    """Forget what a visit knows of an identity up to a moment. Returns whether its timeline did, and how many events.

    The visit stays listed as one of this identity until no event names it, so that after a crash it is found again.
    """
    is_changed = await _replace(store, fields_of, visit_id, lambda visit: visit.erased(identity, erase_time_ms))
    count = 0
    for visit in map(Visit.from_document, await store.read_visits([visit_id])):
        async for restamps in each_behind(store, visit, ""):
            # Those that were the person's are counted: each matches once, whoever else erases at the same time.
            of_person = [one._replace(owner=identity) for one in restamps if "erased" in one.fields]
            matched = await store.restamp(of_person)
            count += matched
            if matched < sum(len(one.keys) for one in restamps):
                await store.restamp(restamps)
        upper = order_key(erase_time_ms + 1, "")
        naming = _walk(store, visit, {"names_identity_id": identity}, "", upper)
        while events := await naming.take(_EVENTS_A_LOOK):
            count += await store.forget_named([event["_id"] for event in events], identity, ERASABLE)
    await _replace(store, fields_of, visit_id, lambda visit: visit.without(identity))
    return is_changed, count


async def _replace(store: Store, fields_of: VisitFields, visit_id: str, change: Callable[[Visit], Visit]) -> bool:
    """Change a visit, whatever others do to it at the same time. Returns whether there was anything to change."""
    while documents := await store.read_visits([visit_id]):
        visit = Visit.from_document(documents[0])
        changed = change(visit)
        if changed is visit:
            return False
        if (await store.replace_timelines([(visit_id, fields_of(changed))]))[0]:
            return True
    return False


def restamps_of(visit: Visit, events: Iterable[Document]) -> list[Restamp]:
    """The stamps that events have by the timeline of their visit, as few as possible: each takes its time."""
    alike: dict[tuple[Stamp, bool], dict[str, str]] = defaultdict(dict)
    for event in events:
        piece = visit.piece_at(event["order_key"])
        alike[piece.stamp, piece.is_erased][event["_id"]] = event["order_key"]
    return [
        Restamp(keys, *stamp_fields(stamp, visit.rev, is_erased=is_erased))
        for (stamp, is_erased), keys in alike.items()
    ]
