"""Reads the events of several visits in order, with bounded memory."""

from collections.abc import AsyncIterator, Sequence

from footfall_history.storage.documents import Document, event_time_ms
from footfall_history.storage.store import EventQuery, Store


async def events_of_visits(
    store: Store, visits: Sequence[Document], where: Document, fields: Sequence[str], size: int
) -> AsyncIterator[list[Document]]:
    """The matching events of visits with these fields, in groups of up to `size`. Those of one visit come together.

    The documents of the visits have `start_key`, and `last_key` if they have one. Long visits have one, and their
    events are read by ranges of keys.
    """
    if short := [visit["_id"] for visit in visits if "last_key" not in visit]:
        async for events in store.events_of(short, where, fields, size):
            yield events
    for visit in visits:
        if "last_key" in visit:
            query = EventQuery({"visit_id": visit["_id"]}, where, event_time_ms(visit["start_key"]))
            cursor = store.events_in_order(query, "", "", fields)
            while events := await cursor.take(size):
                yield events
