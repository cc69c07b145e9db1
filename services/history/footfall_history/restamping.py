"""Turns changed timelines into new stamps of the events stored before."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from footfall_timeline import order_key

from footfall_history.documents import Document, erasure, event_time_ms, is_system, stamp_fields
from footfall_history.store import EVENTS_A_RESTAMP, Restamp, Store
from footfall_history.tombstones import Tombstones
from footfall_history.visit import Piece, Visit

_ALIKE_REVISIONS: Final = 8
_ALIKE_MS: Final = 600_000


async def stretches_behind(store: Store, visits: Mapping[str, Visit], from_keys: Mapping[str, str]) -> list[Restamp]:
    """Of visits, the stretches from a key on that hold events stamped by an earlier revision."""
    groups = _alike(visits, from_keys)
    answers = await asyncio.gather(*(store.events_behind(*group) for group in groups))
    behind: dict[tuple[str, Piece, bool, bool], list[str]] = defaultdict(list)
    for event in chain.from_iterable(answers):
        visit_id, key = event["visit_id"], event["order_key"]
        visit = visits[visit_id]
        if key >= from_keys[visit_id] and event["rev"] < visit.rev:
            piece = visit.piece_at(key)
            behind[visit_id, piece, is_system(event), piece.is_erased and not event.get("erased")].append(key)
    restamps = []
    for (visit_id, piece, of_system, erases), keys in behind.items():
        for between, count in _ranges(piece, sorted(keys)):
            where = {"visit_id": visit_id, "order_key": between}
            restamp = restamp_piece(where, piece, visits[visit_id].rev, count, of_system=of_system)
            restamps.append(restamp._replace(erases=erases))
    return restamps


def _alike(visits: Mapping[str, Visit], from_keys: Mapping[str, str]) -> list[tuple[list[str], str, int]]:
    """Visits that may be asked about together: ids, key and revision. They differ little in what they ask for.

    One query for all would read, of a long visit that asks for little, what another one asks for.
    """
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for visit_id, key in from_keys.items():
        at_ms = event_time_ms(key) if key else 0
        groups[visits[visit_id].rev // _ALIKE_REVISIONS, at_ms // _ALIKE_MS].append(visit_id)
    return [
        (ids, min(from_keys[visit_id] for visit_id in ids), max(visits[visit_id].rev for visit_id in ids))
        for ids in groups.values()
    ]


def _ranges(piece: Piece, keys: Sequence[str]) -> Iterator[tuple[Document, int]]:
    """Conditions on order keys that divide a piece, each with how many of these keys fulfil it: not too many."""
    starts = [piece.start, *keys[EVENTS_A_RESTAMP::EVENTS_A_RESTAMP]]
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], piece.stop], strict=True)):
        count = len(keys[number * EVENTS_A_RESTAMP :][:EVENTS_A_RESTAMP])
        yield {"$gte": start} | ({"$lt": stop} if stop is not None else {}), count


async def erase_in_visit(
    store: Store, tombstones: Tombstones, visit_id: str, identity: str, erase_time_ms: int
) -> tuple[bool, int]:
    """Forget what a visit knows of an identity up to a moment. Returns whether its timeline did, and how many events.

    The visit stays listed as one of this identity until no event names it, so that after a crash it is found again.
    """
    is_changed = await _replace(store, tombstones, visit_id, lambda visit: visit.erased(identity, erase_time_ms))
    visits = await tombstones.visits([visit_id])
    behind = await stretches_behind(store, visits, dict.fromkeys(visits, ""))
    # Those that lose something are counted: each matches once, whoever else erases at the same time.
    count = await store.restamp([restamp for restamp in behind if restamp.erases])
    await store.restamp([restamp for restamp in behind if not restamp.erases])
    count += await store.forget_named(visit_id, identity, order_key(erase_time_ms + 1, ""))
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


def restamp_piece(where: Document, piece: Piece, rev: int, count: int, *, of_system: bool) -> Restamp:
    """Give matching events, about so many, the stamp of their piece.

    If it is erased, erase them with it: then only those of the system, or only the sites' own.
    """
    fields, without = stamp_fields(piece.stamp, rev)
    if piece.is_erased:
        condition, gone = erasure(of_system=of_system)
        where, fields, without = where | condition, fields | {"erased": True}, [*without, *gone]
    return Restamp(where, fields, without, count)
