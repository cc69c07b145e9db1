"""JSON in answers is bytes, or text for a caller that asks for it."""

import pytest
from footfall.event.v1.event_pb2 import Event
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.visit_pb2 import Association, StoredEvent
from footfall.identity.v1.identity_pb2 import Identity
from footfall_eventlog.json_text import json_as_asked
from google.protobuf.message import Message

EVENTS = pb.ListEventsResponse(
    events=[
        StoredEvent(event=Event(event_id="1", data_json='{"name":"Özgür"}'.encode(), proven_json=b"{}")),
        StoredEvent(event=Event(event_id="2", data_json=b"\xff")),
    ]
)
IDENTITIES = pb.ListVisitIdentitiesResponse(associations=[Association(identity=Identity(profile_json=b"{}"))])


@pytest.mark.parametrize(
    ("request_type", "answer", "expected"),
    [
        (
            pb.ListEventsRequest,
            EVENTS,
            pb.ListEventsResponse(
                events=[
                    StoredEvent(event=Event(event_id="1"), data_text='{"name":"Özgür"}', proven_text="{}"),
                    StoredEvent(event=Event(event_id="2"), data_text="\ufffd"),
                ]
            ),
        ),
        (
            pb.ListVisitIdentitiesRequest,
            IDENTITIES,
            pb.ListVisitIdentitiesResponse(associations=[Association(identity=Identity(profile_text="{}"))]),
        ),
    ],
    ids=["events", "identities"],
)
def test_json_is_text_in_place_of_bytes_if_the_request_asks_for_it(
    request_type: type[pb.ListEventsRequest | pb.ListVisitIdentitiesRequest], answer: Message, expected: Message
) -> None:
    def copy() -> Message:
        return type(answer).FromString(answer.SerializeToString())

    assert json_as_asked(request_type(), copy()) == answer
    assert json_as_asked(request_type(json_as_text=True), copy()) == expected
