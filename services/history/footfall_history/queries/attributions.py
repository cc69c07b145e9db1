"""Events as they are attributed now, and the earlier events of which a caller has got another attribution.

What a caller has got about a visit is the attribution of each range of its order keys, as keyed hashes. The caller
keeps them and gives them back, so history remembers nothing of its callers.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Final

import msgspec
from footfall.history.v1 import history_service_pb2 as pb
from footfall_servicekit.errors import RequestError
from footfall_timeline import ANONYMOUS, Attribution, order_key

from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.queries.filters import parse_uuid
from footfall_history.storage import Document, ErasableRange, Store, Tombstones, Visit, document_id, stored_event

_MAX_EVENTS: Final = 10_000
"""More than 1 MiB of the event log has."""
_MAX_REVISED: Final = 10_000
_MAX_REVISED_BYTES: Final = 16 * 1024 * 1024
_EVENTS_PER_READ: Final = 100
_HASH_DIGITS: Final = 16

Reported = list[tuple[str, str]]
"""The order key at which each range begins, and the hash of its attribution."""

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Reported).decode


class Attributions:
    """Methods raise RequestError, TRANSIENT_STORE_ERRORS and TRANSIENT_LOG_ERRORS."""

    def __init__(self, store: Store, tombstones: Tombstones, dead_letters: DeadLetterQueue) -> None:
        self._store = store
        self._tombstones = tombstones
        self._dead_letters = dead_letters
        self._anonymous = self._hash(ErasableRange(ANONYMOUS, is_erased=False))

    async def items(self, request: pb.StreamAttributionsRequest) -> AsyncGenerator[pb.AttributedItem, None]:
        """The items, visit by visit."""
        keys = [(visit.visit_id, event_id) for visit in request.visits for event_id in visit.event_ids]
        if len(keys) > _MAX_EVENTS:
            raise RequestError.invalid("visits", f"must have at most {_MAX_EVENTS:,} events together")
        for visit in request.visits:
            parse_uuid(visit.visit_id, "visits.visit_id")
        visits = await self._tombstones.read_visits(visit.visit_id for visit in request.visits)
        found = await self._store.read_events(document_id(*key) for key in keys)
        documents = {document["_id"]: document for document in found}
        left, left_bytes = _MAX_REVISED, _MAX_REVISED_BYTES
        for asked in request.visits:
            known = visits.get(asked.visit_id)
            previous = {step.transition.event_id: step.before for step in known.visit_state.steps} if known else {}
            for event_id in asked.event_ids:
                document = documents.get(document_id(asked.visit_id, event_id))
                if known is None or document is None:
                    is_dead = await self._dead_letters.find_event(asked.visit_id, event_id) is not None
                    missing = pb.MissingEvent(event_id=event_id, dead_letter=is_dead)
                    yield pb.AttributedItem(visit_id=asked.visit_id, missing=missing)
                else:
                    yield pb.AttributedItem(visit_id=asked.visit_id, event=_attributed(known, document, previous))
            if known is None:
                continue
            reported = [(key, self._hash(part)) for key, part in known.ranges()]
            before = _reported(asked.attribution) or [("", self._anonymous)]
            if reported != before and left > 0 and left_bytes > 0:
                async for document in self._revised(asked, documents, before, reported):
                    item = pb.AttributedItem(visit_id=asked.visit_id, revised=_attributed(known, document, previous))
                    left, left_bytes = left - 1, left_bytes - item.ByteSize()
                    yield item
                    if left <= 0 or left_bytes <= 0:
                        break
            yield pb.AttributedItem(visit_id=asked.visit_id, attribution=_encode(reported))

    def _hash(self, part: ErasableRange) -> str:
        """The hash of what a caller gets about the events in a range."""
        state, identity, session_id, _ = part.attribution
        return self._tombstones.hash_of(f"{state:d}/{part.is_erased:d}/{session_id}/{identity}")[:_HASH_DIGITS]

    async def _revised(
        self,
        asked: pb.StreamAttributionsRequest.ReportedVisit,
        documents: Mapping[str, Document],
        before: Reported,
        reported: Reported,
    ) -> AsyncGenerator[Document, None]:
        """The events that the caller has got and that have another attribution now, in order."""
        where: Document = {"order_key": {"$gte": _first_difference(before, reported)}}
        if asked.HasField("last"):
            where["order_key"] |= {"$lte": order_key(asked.last.time_ms, asked.last.id)}
        elif received := [
            documents[key]["received_ms"]
            for event_id in asked.event_ids
            if (key := document_id(asked.visit_id, event_id)) in documents
        ]:
            where["received_ms"] = {"$lt": max(received)}
        asked_ids: Collection[str] = frozenset(asked.event_ids)
        async for group in self._store.events_of([asked.visit_id], where, None, _EVENTS_PER_READ):
            for document in group:
                key = document["order_key"]
                if document["event_id"] not in asked_ids and _hash_at(before, key) != _hash_at(reported, key):
                    yield document


def _attributed(visit: Visit, document: Document, previous: Mapping[str, Attribution]) -> pb.AttributedEvent:
    """An event as it is attributed now. `previous`: the attributions before the transitions, by id of the event."""
    document = visit.attributed(document, {})
    found = pb.AttributedEvent(event=stored_event(document), erased=document.get("erased", False))
    if before := previous.get(document["event_id"]):
        found.previous.state = int(before.state)  # type: ignore[assignment]  # the enums have the same numbers
        found.previous.identity_id = before.identity
        found.previous.session_id = before.session_id
        found.previous.revision = visit.rev
    return found


def _reported(attribution: bytes) -> Reported:
    try:
        return _decode(attribution) if attribution else []
    except msgspec.DecodeError:
        raise RequestError.invalid("visits.attribution", "must be what this method returned") from None


def _first_difference(one: Reported, other: Reported) -> str:
    """The least order key whose attribution may differ."""
    for (start, hashed), (other_start, other_hashed) in zip(one, other, strict=False):
        if start != other_start:
            return min(start, other_start)
        if hashed != other_hashed:
            return start
    longer = max(one, other, key=len)
    return longer[min(len(one), len(other))][0]


def _hash_at(reported: Reported, key: str) -> str:
    return reported[bisect_right(reported, key, key=lambda part: part[0]) - 1][1]
