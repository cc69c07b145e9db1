"""Claims that a sign-in token proved, in stored events and after an erasure."""

from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import EventContext
from footfall_history.storage.documents import attribution_fields, erasable, erased, event_document, stored_event
from footfall_timeline import ANONYMOUS

from tests.tools.batches import new_uuid
from tests.tools.identity import admitted


def test_proven_claims_are_stored_with_the_event_until_erasure() -> None:
    proof = {"proven_json": b'{"email":"ann@mail.example"}', "token_id": "a" * 16}
    event = admitted("SignIn", new_uuid(), 1_767_606_012_466, "ann", assurance=event_pb2.ASSURANCE_PROVEN, **proof)
    document = event_document(event, EventContext(received_time_ms=1_767_606_012_466))
    fields, _ = attribution_fields(ANONYMOUS, 1)
    assert stored_event(document | fields).event == event
    without = erasable(of_system=True)
    for left in (erased(document), {name: value for name, value in document.items() if name not in without}):
        assert b"ann@mail.example" not in repr(left).encode()
        assert "token_id" not in left
