"""Turns changed timelines into new stamps of the events stored before."""

from collections.abc import Callable, Mapping

from footfall_timeline import order_key

from footfall_history.documents import ERASABLE, Document, stamp_fields
from footfall_history.store import Restamp, Store
from footfall_history.visit import Piece, Visit

VisitFields = Callable[[Visit], Document]
"""What is stored of a visit when its timeline has changed."""


async def stretches_behind(store: Store, visits: Mapping[str, Visit], from_keys: Mapping[str, str]) -> list[Restamp]:
    """Of visits, the stretches from a key on that hold events stamped by an earlier revision."""
    if not from_keys:
        return []
    latest_rev = max(visits[visit_id].rev for visit_id in from_keys)
    behind = await store.events_behind(from_keys, min(from_keys.values()), latest_rev)
    pieces = {
        (visit_id, visits[visit_id].piece_at(event["order_key"]))
        for event in behind
        if event["order_key"] >= from_keys[visit_id := event["visit_id"]] and event["rev"] < visits[visit_id].rev
    }
    return [
        restamp_piece({"visit_id": visit_id, "order_key": _between(piece)}, piece, visits[visit_id].rev)
        for visit_id, piece in pieces
    ]


async def erase_in_visit(
    store: Store, fields_of: VisitFields, visit_id: str, identity: str, erase_time_ms: int
) -> tuple[bool, int]:
    """Forget what a visit knows of an identity up to a moment. Returns whether its timeline did, and how many events.

    The visit stays listed as one of this identity until no event names it, so that after a crash it is found again.
    """
    is_changed = await _replace(store, fields_of, visit_id, lambda visit: visit.erased(identity, erase_time_ms))
    visits = {document["_id"]: Visit.from_document(document) for document in await store.read_visits([visit_id])}
    restamps = await stretches_behind(store, visits, dict.fromkeys(visits, ""))
    # Those that were the person's are counted: each matches once, whoever else erases at the same time.
    of_person = [
        one._replace(where=one.where | {"identity_id": identity}) for one in restamps if "erased" in one.fields
    ]
    count = await store.restamp(of_person)
    await store.restamp(restamps)
    count += await store.forget_named(visit_id, identity, order_key(erase_time_ms + 1, ""), ERASABLE)
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


def restamp_piece(where: Document, piece: Piece, rev: int) -> Restamp:
    """Give matching events the stamp of their piece."""
    return Restamp(where, *stamp_fields(piece.stamp, rev, is_erased=piece.is_erased))


def _between(piece: Piece) -> Document:
    return {"$gte": piece.start} | ({"$lt": piece.stop} if piece.stop is not None else {})
