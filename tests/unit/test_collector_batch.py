"""Validation of a whole batch, and its split over partitions."""

import pytest
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import EventBatch
from footfall_collector.pipeline import split_by_partition
from footfall_collector.service import check_batch
from footfall_servicekit.errors import RequestError

from tests.tools.batches import batch, context, message, new_uuid
from tests.tools.later import knows_later, later


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (EventBatch(), "batch.events"),
        (batch(*(message() for _ in range(1_001))), "batch.events"),
        (batch(*(message(data={"text": "x" * 60_000}) for _ in range(18))), "batch.events"),
        (batch(message(), contexts=[context(received_time_ms=1)]), "batch.contexts.received_time_ms"),
        (batch(message(), contexts=[context(received_time_ms=-1)]), "batch.contexts.received_time_ms"),
        (batch(message(), contexts=[context(received_time_ms=10**13)]), "batch.contexts.received_time_ms"),
        (EventBatch(erasure=event_pb2.Erasure(erasure_id=new_uuid())), "batch.events"),
        (EventBatch(events=[message()], contexts=[context()], erasure=event_pb2.Erasure()), "batch.erasure"),
    ],
)
def test_what_is_wrong_with_a_batch_names_its_field(sent: EventBatch, field: str) -> None:
    with pytest.raises(RequestError, match=rf"^{field}: must ") as refused:
        check_batch(sent)
    assert refused.value.reason == "INVALID_FIELD"


def test_contexts_do_not_count_into_the_size_of_a_batch() -> None:
    events = [message(data={"text": "x" * 800}, context_index=number) for number in range(1_000)]
    check_batch(batch(*events, contexts=[context(traceparent="x" * 500) for _ in range(1_000)]))


def test_a_batch_for_one_partition_is_not_copied() -> None:
    sent = batch(message(), message())
    assert split_by_partition(sent, [3, 3])[3] is sent
    assert split_by_partition(sent, [-1, -1]) == {}


def test_each_partition_gets_its_events_in_order_with_their_contexts() -> None:
    contexts = [context(traceparent=name) for name in "abc"]
    indices = [2, 0, 2, 1, 0]
    events = [message(context_index=index) for index in indices]
    entries = split_by_partition(batch(*events, contexts=contexts), [1, 0, 1, -1, 1])
    assert sorted(entries) == [0, 1]
    assert [event.event_id for event in entries[0].events] == [events[1].event_id]
    assert [event.event_id for event in entries[1].events] == [events[position].event_id for position in (0, 2, 4)]
    assert [c.traceparent for c in entries[0].contexts] == ["a"]
    assert [entries[1].contexts[event.context_index].traceparent for event in entries[1].events] == ["c", "c", "a"]


def test_unknown_fields_of_a_later_version_go_to_every_partition() -> None:
    sent = later(batch(later(message()), later(message()), contexts=[later(context())]))
    entries = split_by_partition(sent, [0, 1])
    for entry in entries.values():
        assert [knows_later(part) for part in (entry, entry.events[0], entry.contexts[0])] == [True] * 3
