"""`make bench-history` fills the store with the documents that the consumer would have stored."""

from itertools import islice
from operator import itemgetter

from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones

from bench.past import EVENTS_A_PERSON, Past, documents


async def test_the_documents_of_a_past_are_those_the_consumer_stores(
    store: Store, attributor: Attributor, tombstones: Tombstones
) -> None:
    entries = list(islice(Past(EVENTS_A_PERSON).visits(), 4))
    visits, events = documents(entries, tombstones)
    assert (await attributor.store(entries)).unstorable == []
    stored = await store.find_visits({}, len(entries))
    for visit in stored:
        visit.pop("last_key", None)  # visits are noted at random
    assert stored == sorted(visits, key=itemgetter("start_key"))
    assert await store.events.find().sort("order_key").to_list(None) == events


def test_a_past_has_as_many_events_as_it_says() -> None:
    past = Past(2 * EVENTS_A_PERSON, longest=500)
    assert sum(len(entry.events) for entry in past.visits()) == past.events + past.longest
