"""What goes out: CloudEvents about events and erasures, and their signatures."""

import base64
import json
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Erasure
from footfall.history.v1.history_service_pb2 import AttributedEvent
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.visitor_pb2 import (
    CONTACT_STATUS_LINKED,
    VISITOR_STATE_ANONYMOUS,
    VISITOR_STATE_AUTHENTICATED,
)
from footfall_relay.messages import (
    EVENT,
    REVISED,
    Reference,
    body_of,
    changed_to,
    erasure_message,
    erasure_reference,
    event_message,
    sequence_of,
)
from footfall_relay.outlets.webhook import signatures

VISIT, EVENT_ID = "7c9f1e0a-3b52-4d0e-9a41-0f6d5c2b8e11", "1d7a55c0-98a4-4f4b-8a64-5f1f0a6f2b77"
SEQUENCE = sequence_of("1790000000000-3", 2)


def attributed() -> AttributedEvent:
    found = AttributedEvent()
    event, stamp = found.event.event, found.event.stamp
    event.visit_id, event.event_id, event.event_name, event.site = VISIT, EVENT_ID, "SignIn", "shop"
    event.event_time_ms, event.data_json, event.identity_id = 1_790_000_000_123, b'{"userID":"Dana"}', "Dana"
    stamp.state, stamp.identity_id, stamp.session_id = VISITOR_STATE_AUTHENTICATED, "Dana", "a session"
    found.previous.state = VISITOR_STATE_ANONYMOUS
    return found


def sent(kind: str, contact: Identity | None = None) -> dict[str, Any]:
    message = event_message(Reference(kind, SEQUENCE, VISIT, EVENT_ID), attributed(), contact, ("h1", "h2"))
    found: dict[str, Any] = json.loads(body_of([message], is_batch=False))
    return found


def test_an_event_has_the_required_attributes_of_cloudevents_and_says_who_the_visitor_was() -> None:
    found = sent(EVENT, Identity(identity_id="Dana", contact_id="c-1", contact_status=CONTACT_STATUS_LINKED))
    assert (found["specversion"], found["id"], found["source"]) == ("1.0", f"{VISIT}/{EVENT_ID}", "/footfall/shop")
    assert (found["type"], found["subject"], found["revised"]) == ("footfall.event", VISIT, False)
    assert (found["time"], found["datacontenttype"]) == ("2026-09-21T14:13:20.123+00:00", "application/json")
    assert found["data"]["data"] == {"userID": "Dana"}
    assert found["data"]["previous"] == {"state": "ANONYMOUS", "identityId": None}
    assert found["data"]["visitor"] == {
        "state": "AUTHENTICATED",
        "identityId": "Dana",
        "identityHash": "h1",
        "sessionId": "a session",
        "contactId": "c-1",
        "contactStatus": "LINKED",
    }


def test_a_contact_that_identity_did_not_say_is_unknown_and_not_none() -> None:
    assert sent(EVENT)["data"]["visitor"]["contactStatus"] == "UNKNOWN"


def test_a_revision_is_another_message_about_the_same_event() -> None:
    found = sent(REVISED)
    assert found["revised"]
    assert found["id"] == f"{VISIT}/{EVENT_ID}/{SEQUENCE}"


def test_an_erasure_names_the_identity_by_its_hash() -> None:
    erasure = Erasure(identity_hash=b"\x01" * 32, erase_time_ms=5, erasure_id=EVENT_ID)
    [found] = json.loads(body_of([erasure_message(erasure_reference(erasure, SEQUENCE))], is_batch=True))
    assert found["type"] == "footfall.erasure"
    assert found["data"] == {"erasureId": EVENT_ID, "identityHash": "01" * 32, "eraseTime": 5}


def test_sequences_sort_as_the_log() -> None:
    ids = [("999-9", 0), ("1000-2", 1), ("1000-10", 0), ("1000-10", 10)]
    assert sorted(sequence_of(*one) for one in ids) == [sequence_of(*one) for one in ids]


def test_only_what_changes_who_the_visitor_is_is_a_change() -> None:
    found = attributed()
    assert changed_to(found) == "AUTHENTICATED"
    found.previous.CopyFrom(found.event.stamp)
    assert changed_to(found) == ""
    found.previous.identity_id = "Bob"
    assert changed_to(found) == "AUTHENTICATED"
    found.ClearField("previous")
    assert changed_to(found) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_a_signature_is_that_of_standard_webhooks(count: int) -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="  # the example of its specification
    body = b'{"test": 2432232314}'
    found = signatures([key] * count, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found.split() == [expected] * count
