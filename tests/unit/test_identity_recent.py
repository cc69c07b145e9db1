"""Which events the log's consumer may leave out of its merge."""

import uuid

from footfall.event.v1 import event_pb2
from footfall_identity.recent import RecentEvents


def event(visit_id: str = "", **more: int) -> event_pb2.Event:
    return event_pb2.Event(visit_id=visit_id or str(uuid.uuid4()), event_id=str(uuid.uuid4()), **more)  # type: ignore[arg-type]  # enums are ints


def test_what_was_merged_is_known_by_visit_and_event_id() -> None:
    recent, merged = RecentEvents(), event()
    recent.add([merged])
    assert merged in recent
    assert event(merged.visit_id) not in recent
    assert event_pb2.Event(visit_id=str(uuid.uuid4()), event_id=merged.event_id) not in recent


def test_what_has_a_transition_is_never_left_out() -> None:
    recent = RecentEvents()
    plain = event()
    with_transition = event_pb2.Event(transition=event_pb2.TRANSITION_KIND_SIGN_OUT)
    with_transition.MergeFrom(plain)
    recent.add([plain, with_transition])
    assert with_transition not in recent


def test_the_oldest_are_forgotten() -> None:
    recent, events = RecentEvents(most=10), [event() for _ in range(100)]
    for each in events:
        recent.add([each])
    assert all(each in recent for each in events[-5:])
    assert not any(each in recent for each in events[:-10])
