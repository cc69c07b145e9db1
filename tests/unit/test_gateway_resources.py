"""The resources of the History API, to the byte, as in the samples of the GWE 8.5 documentation."""

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from footfall_gateway.history_api import resources
from google.protobuf.timestamp_pb2 import Timestamp

VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
DEVICE = "6513270e-269e-4d37-b2a7-4de452e6b438"
SESSION = "acd62510-ea1a-11f0-ab7c-02a1c45f9e30"
PAGE = "885115b0-ea1a-11f0-ab7c-02a1c45f9e30"


def at(ms: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(ms)
    return timestamp


def encoded(resource: msgspec.Struct) -> bytes:
    return msgspec.json.encode(resource)


def test_a_visit_is_the_345_bytes_of_the_sample() -> None:
    stored = visit_pb2.Visit(
        visit_id=VISIT,
        start_time=at(1767606012345),
        last_event_time=at(1767606073825),
        active_session_id=SESSION,
        global_visit_id=DEVICE,
        user_agent_id="8831cde0-ea1a-11f0-ab7c-02a1c45f9e30",
    )
    expected = (
        b'{"eventIds":null,"events":null,"pageIds":null,"pages":null,"sessionIds":null,"sessions":null,'
        b'"visitId":"d23f0824-128b-4f33-8c5c-7fd0a6a3a450","startDate":1767606012345,"endDate":0,'
        b'"activeSessionId":"acd62510-ea1a-11f0-ab7c-02a1c45f9e30",'
        b'"globalVisitID":"6513270e-269e-4d37-b2a7-4de452e6b438",'
        b'"userAgentId":"8831cde0-ea1a-11f0-ab7c-02a1c45f9e30"}'
    )
    assert encoded(resources.visit(stored)) == expected
    assert len(expected) == 345


def test_a_visit_that_is_over_ends_with_its_last_event_and_has_no_session() -> None:
    stored = visit_pb2.Visit(visit_id=VISIT, start_time=at(1_000), last_event_time=at(5_999), ended=True)
    over = resources.visit(stored)
    assert (over.end_date, over.active_session_id) == (5_999, "00000000-0000-1000-8000-000000000000")
    assert (over.global_visit_id, over.user_agent_id) == (None, None)


def test_a_session_is_the_208_bytes_of_the_sample() -> None:
    stored = visit_pb2.Session(
        session_id=SESSION,
        identity_id="alice@example.com",
        start_time=at(1767606073825),
        end_time=at(1767606674326),
    )
    body = encoded(resources.session(stored))
    assert body == (
        b'{"eventIds":null,"events":null,"pageIds":null,"pages":null,'
        b'"sessionId":"acd62510-ea1a-11f0-ab7c-02a1c45f9e30",'
        b'"startDate":1767606073825,"endDate":1767606674326,"duration":600,"identityId":"alice@example.com"}'
    )
    assert len(body) == 208


def test_a_session_shorter_than_a_second_has_duration_0_and_an_open_one_has_no_end() -> None:
    short = resources.session(visit_pb2.Session(session_id=SESSION, start_time=at(5_000), end_time=at(5_454)))
    assert (short.end_date, short.duration) == (5_454, 0)
    still_open = resources.session(visit_pb2.Session(session_id=SESSION, start_time=at(5_000)))
    assert (still_open.end_date, still_open.duration) == (0, 0)


def test_an_event_has_its_keys_in_order_and_its_data_verbatim() -> None:
    data = b'{"userID":"dana@example.com", "name":"Dana","age":4.10e1}'
    stored = visit_pb2.StoredEvent(
        event=event_pb2.Event(
            event_id="acd5afe0-ea1a-11f0-ab7c-02a1c45f9e30",
            event_name="SignIn",
            event_type=event_pb2.EVENT_TYPE_SYSTEM,
            visit_id=VISIT,
            global_visit_id=DEVICE,
            browser_page_id="9531985D5D9D49F89818E811892F902B",
            page_id=PAGE,
            url="https://shop.example.com/login",
            language_code="en-US",
            timestamp_ms=1767606073401,
            data_json=data,
        ),
        received_time=at(1767606073822),
    )
    assert encoded(resources.event(stored)) == (
        b'{"eventID":"acd5afe0-ea1a-11f0-ab7c-02a1c45f9e30","category":"","eventType":"SYSTEM","eventName":"SignIn",'
        b'"serverTimestamp":1767606073822,"browserPageID":"9531985D5D9D49F89818E811892F902B",'
        b'"globalVisitID":"6513270e-269e-4d37-b2a7-4de452e6b438","url":"https://shop.example.com/login",'
        b'"timestamp":1767606073401,"visitID":"d23f0824-128b-4f33-8c5c-7fd0a6a3a450",'
        b'"pageID":"885115b0-ea1a-11f0-ab7c-02a1c45f9e30","data":' + data + b',"languageCode":"en-US"}'
    )


def test_missing_values_of_an_event_are_null_except_its_category() -> None:
    bare = visit_pb2.StoredEvent(event=event_pb2.Event(event_name="Click", event_type=event_pb2.EVENT_TYPE_BUSINESS))
    answered = msgspec.json.decode(encoded(resources.event(bare)))
    assert answered["category"] == ""
    assert answered["data"] == {}
    assert {key for key, value in answered.items() if value is None} == {
        "browserPageID",
        "globalVisitID",
        "url",
        "pageID",
        "languageCode",
    }


def test_an_identity_has_its_keys_in_order() -> None:
    stored = identity_pb2.Identity(identity_id="dana@example.com", visit_scope=visitor_pb2.VISITOR_STATE_AUTHENTICATED)
    assert encoded(resources.identity(stored)) == (
        b'{"eventIds":null,"events":null,"pageIds":null,"pages":null,"sessionIds":null,"sessions":null,'
        b'"identityId":"dana@example.com","name":null,"location":null,"entityInCS":null,'
        b'"visitScope":"Authenticated","visitIds":null,"visits":null}'
    )


def test_the_sample_list_of_two_identities_has_477_bytes() -> None:
    identities = [resources.Identity(identity_id="i" * length, visit_scope="Authenticated") for length in (27, 19)]
    assert len(msgspec.json.encode(identities)) == 477


def test_an_identity_of_a_visit_has_its_scope_in_that_visit() -> None:
    association = visit_pb2.Association(
        identity=identity_pb2.Identity(
            identity_id="dana", contact_id="C-1", visit_scope=visitor_pb2.VISITOR_STATE_AUTHENTICATED
        ),
        scope=visitor_pb2.VISITOR_STATE_RECOGNIZED,
    )
    answered = resources.visit_identity(association)
    assert (answered.visit_scope, answered.entity_in_cs) == ("Recognized", "C-1")


def test_a_page_has_its_keys_in_order() -> None:
    stored = visit_pb2.Page(
        page_id=PAGE,
        browser_page_id="9531985D5D9D49F89818E811892F902B",
        visit_id=VISIT,
        url="https://shop.example.com/loans/cars",
        title="Car loans",
        category="loans;cars",
        start_time=at(1767606012555),
        end_time=at(1767606061200),
    )
    assert encoded(resources.page(stored)) == (
        b'{"eventIds":null,"events":null,"pageId":"885115b0-ea1a-11f0-ab7c-02a1c45f9e30",'
        b'"browserPageID":"9531985D5D9D49F89818E811892F902B","visitId":"d23f0824-128b-4f33-8c5c-7fd0a6a3a450",'
        b'"identityId":null,"url":"https://shop.example.com/loans/cars","title":"Car loans","category":"loans;cars",'
        b'"startDate":1767606012555,"endDate":1767606061200,"duration":48}'
    )
