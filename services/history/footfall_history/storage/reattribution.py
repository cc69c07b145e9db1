"""Attributes stored events again after the timeline of their visit has changed."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

from footfall_timeline import Attribution, order_key

from footfall_history.storage.documents import Document, attribution_fields, erasable, event_time_ms, is_system
from footfall_history.storage.event_cursor import EventCursor
from footfall_history.storage.interactions import subject
from footfall_history.storage.store import REATTRIBUTION_FIELDS, EventQuery, Reattribution, Store
from footfall_history.storage.tombstones import Tombstones
from footfall_history.storage.visit import Visit

_REVISIONS_PER_GROUP: Final = 8
_MS_PER_GROUP: Final = 600_000
_VISITS_PER_QUERY: Final = 50
_EVENTS_PER_READ: Final = 1_000


async def find_reattributions(
    store: Store, visits: Mapping[str, Visit], from_keys: Mapping[str, str], limit: int
) -> tuple[list[Reattribution], set[str]]:
    """Reattributions of outdated events from a key on, by visit; and the visits that may have more of them.

    An event is outdated when an earlier revision of the timeline attributed it. One query reads about `limit` events.
    """
    groups = _similar(visits, from_keys)
    answers = await asyncio.gather(*(store.outdated_events(*group, limit) for group in groups))
    outdated: dict[str, list[Document]] = defaultdict(list)
    for event in (event for answer in answers for event in answer):
        visit_id = event["visit_id"]
        if event["order_key"] >= from_keys[visit_id] and event["rev"] < visits[visit_id].rev:
            outdated[visit_id].append(event)
    cut = {
        visit_id for group, answer in zip(groups, answers, strict=True) if len(answer) >= limit for visit_id in group[0]
    }
    reattributions = [
        one for visit_id, events in outdated.items() for one in reattributions_of(visits[visit_id], events)
    ]
    return reattributions, cut


async def each_reattribution(store: Store, visit: Visit, from_key: str) -> AsyncIterator[list[Reattribution]]:
    """All reattributions of a visit's outdated events from a key on, in parts to be written before the next is read."""
    cursor = _cursor(store, visit, {"rev": {"$lt": visit.rev}}, from_key, "")
    while events := await cursor.take(_EVENTS_PER_READ):
        yield reattributions_of(visit, events)


def _similar(visits: Mapping[str, Visit], from_keys: Mapping[str, str]) -> list[tuple[list[str], str, int]]:
    """Groups of visits that one query can serve: ids, smallest key and highest revision.

    Keys and revisions in a group differ little: a query for all visits would read for each what another one needs.
    """
    similar: dict[tuple[int, int], list[str]] = defaultdict(list)
    for visit_id, key in from_keys.items():
        at_ms = event_time_ms(key) if key else 0
        similar[visits[visit_id].rev // _REVISIONS_PER_GROUP, at_ms // _MS_PER_GROUP].append(visit_id)
    groups = [
        ids[at : at + _VISITS_PER_QUERY] for ids in similar.values() for at in range(0, len(ids), _VISITS_PER_QUERY)
    ]
    return [
        (ids, min(from_keys[visit_id] for visit_id in ids), max(visits[visit_id].rev for visit_id in ids))
        for ids in groups
    ]


def _cursor(store: Store, visit: Visit, conditions: Document, lower: str, upper: str) -> EventCursor:
    query = EventQuery({"visit_id": visit.visit_id}, conditions, event_time_ms(visit.start["start_key"]))
    return store.events_in_order(query, lower, upper, REATTRIBUTION_FIELDS)


async def erase_in_visit(
    store: Store, tombstones: Tombstones, visit_id: str, identity: str, erase_time_ms: int
) -> tuple[bool, int, int]:
    """Erase an identity from a visit up to a time, and remove the visit's interactions of erased identities.

    Returns whether the timeline changed, and the numbers of events and of interactions.

    The visit remains listed under this identity until all is done, so that it is found again after a crash.
    """
    is_changed = await _replace(store, tombstones, visit_id, lambda visit: visit.erased(identity, erase_time_ms))
    count = interaction_count = 0
    for visit in (await tombstones.read_visits([visit_id])).values():
        async for reattributions in each_reattribution(store, visit, ""):
            # Each event that loses content is counted once, even if another process erases at the same time.
            count += await store.reattribute(one for one in reattributions if one.erases)
            await store.reattribute(one for one in reattributions if not one.erases)
        upper = order_key(erase_time_ms + 1, "")
        naming = _cursor(store, visit, {"names_identity_id": identity}, "", upper)
        while events := await naming.take(_EVENTS_PER_READ):
            count += await store.erase_naming([event["_id"] for event in events])
        about = {"subject": subject("visit_id", visit_id)}
        async for interaction in store.each_interaction(about):
            if visit.owner_at(interaction["order_key"]) is None:
                # One that has changed since is left to the writer that changed it.
                one = {"_id": interaction["_id"], "rev": interaction["rev"]}
                interaction_count += await store.remove_interactions(one)
    await _replace(store, tombstones, visit_id, lambda visit: visit.without_identity(identity))
    return is_changed, count, interaction_count


async def _replace(store: Store, tombstones: Tombstones, visit_id: str, change: Callable[[Visit], Visit]) -> bool:
    """Change a visit, repeating while another writer changes it first. Returns whether there was anything to change."""
    while visit := (await tombstones.read_visits([visit_id])).get(visit_id):
        changed = change(visit)
        if changed is visit:
            return False
        if (await store.replace_timelines([(visit_id, tombstones.timeline_fields(changed))]))[0]:
            return True
    return False


def reattributions_of(visit: Visit, events: Iterable[Document]) -> list[Reattribution]:
    """The reattributions of events by the timeline of their visit, one for all events that get the same fields.

    Events of erased identities are erased with it.
    """
    similar: dict[tuple[Attribution, tuple[str, ...], bool], list[str]] = defaultdict(list)
    for event in events:
        part = visit.range_at(event["order_key"])
        removed = erasable(of_system=is_system(event)) if part.is_erased else ()
        erases = part.is_erased and not event.get("erased")
        similar[part.attribution, removed, erases].append(event["order_key"])
    reattributions = []
    for (attribution, removed, erases), keys in similar.items():
        fields, absent = attribution_fields(attribution, visit.rev)
        fields |= {"erased": True} if removed else {}
        reattributions.append(Reattribution(visit.visit_id, keys, fields, [*absent, *removed], erases))
    return reattributions
