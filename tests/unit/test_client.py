"""What footfall-client makes of messages and errors, without a service."""

import random
import time
from typing import Any

import grpc
import pytest
from footfall.history.v1.history_service_pb2 import StreamEventsRequest, StreamEventsResponse
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import (
    VISITOR_PRESENCE_ENDED,
    VISITOR_PRESENCE_LEFT,
    VISITOR_PRESENCE_PRESENT,
    Visitor,
)
from footfall_client import (
    FootfallError,
    InvalidRequestError,
    LiveChange,
    NotAllowedError,
    PositionLostError,
    Tls,
    UnavailableError,
    error_of,
)
from footfall_client.connection import credentials
from footfall_client.events import EventStream
from footfall_client.paging import next_request
from footfall_client.visitors import LiveVisitors, VisitorWatch
from footfall_servicekit.errors import RequestError

LOST = PositionLostError(grpc.StatusCode.FAILED_PRECONDITION, "", "RESUME_TOKEN_EXPIRED")
GONE = UnavailableError(grpc.StatusCode.UNAVAILABLE, "no connection")
END_OF_LIST = pb.WatchVisitorsResponse(resume_token="t0")


def visitor(visit_id: str, person: str = "", **more: Any) -> Visitor:
    state = 3 if person else 1
    fields: dict[str, Any] = {"visit_id": visit_id, "identity_id": person, "state": state, "presence": 1}
    return Visitor(**fields | more)


def listed(*people: Visitor) -> list[pb.WatchVisitorsResponse]:
    return [pb.WatchVisitorsResponse(visitor=one, changes=[pb.VISITOR_CHANGE_LISTED]) for one in people]


def change(before: Visitor, now: Visitor, after: str = "t1", kind: Any = pb.VISITOR_CHANGE_STATE) -> Any:
    return pb.WatchVisitorsResponse(
        visitor=now,
        previous_state=before.state,
        previous_identity_id=before.identity_id,
        previous_contact_id=before.contact_id,
        resume_token=after,
        changes=[kind],
    )


def live(stream: LiveVisitors, *messages: pb.WatchVisitorsResponse) -> list[LiveChange]:
    return [item for message in messages for item in stream.received(message)]


def test_a_list_that_breaks_off_is_read_again_and_given_once() -> None:
    stream = LiveVisitors(pb.WatchVisitorsRequest(site="shop"))
    assert (stream.request().list_first, stream.request().site) == (True, "shop")
    assert live(stream, *listed(visitor("a"), visitor("b"))) == []
    stream.ended(GONE)
    assert stream.request().resume_token == ""
    found = live(stream, *listed(visitor("b", "Bo")), END_OF_LIST)
    assert found == [LiveChange(None, visitor("b", "Bo"), (pb.VISITOR_CHANGE_LISTED,))]
    stream.ended(GONE)
    assert stream.request().resume_token == "t0"


@pytest.mark.parametrize("make", [LiveVisitors, VisitorWatch])
def test_changes_that_the_list_has_are_not_given_again(make: Any) -> None:
    anonymous, ann, bob = visitor("a"), visitor("a", "Ann"), visitor("a", "Bob")
    stream = make(pb.WatchVisitorsRequest(list_first=True))
    assert live(stream, *listed(ann), END_OF_LIST)
    again = change(anonymous, visitor("a", "Ann", url="/later"), kind=pb.VISITOR_CHANGE_ARRIVED)
    assert live(stream, again, change(ann, visitor("a", "Ann", title="late"))) == []
    assert len(live(stream, change(ann, bob), change(bob, ann))) == 2


def test_a_change_long_after_the_list_is_given_although_it_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = VisitorWatch(pb.WatchVisitorsRequest(list_first=True))
    erased = change(visitor("a"), visitor("a", "Eve"))
    assert (
        len([item for one in [*listed(visitor("a", "Ann")), END_OF_LIST, erased] for item in stream.received(one)]) == 1
    )
    later = time.monotonic() + 61
    monkeypatch.setattr("footfall_client.visitors.time.monotonic", lambda: later)
    assert [*stream.received(erased)] == [erased]


def test_a_list_after_a_lost_position_gives_the_differences() -> None:
    stream = LiveVisitors(pb.WatchVisitorsRequest())
    live(stream, *listed(visitor("a", "Ann"), visitor("b", "Bob"), visitor("c")), END_OF_LIST)
    stream.ended(LOST)
    request = stream.request()
    assert (request.resume_token, request.list_first) == ("", True)
    later = visitor("a", "Ann", url="/later")
    found = live(stream, *listed(later, visitor("b", "Eve"), visitor("d")), END_OF_LIST)
    assert {one.visitor.visit_id: (one.before, one.now) for one in found} == {
        "b": (visitor("b", "Bob"), visitor("b", "Eve")),
        "c": (visitor("c"), None),
        "d": (None, visitor("d")),
    }


def test_a_watch_lists_only_when_its_position_is_lost() -> None:
    stream = VisitorWatch(pb.WatchVisitorsRequest(resume_token="t7"))
    first = change(visitor("a"), visitor("a", "Ann"), after="t8")
    assert [*stream.received(first)] == [first]
    stream.ended(GONE)
    assert stream.request().resume_token == "t8"
    stream.ended(LOST)
    assert stream.request().list_first
    found = [item for message in [*listed(visitor("a", "Ann")), END_OF_LIST] for item in stream.received(message)]
    assert [(item.visitor.visit_id, [*item.changes]) for item in found] == [("a", [pb.VISITOR_CHANGE_LISTED])]


@pytest.mark.parametrize(
    ("filters", "before", "now"),
    [
        pytest.param({}, {}, {"presence": VISITOR_PRESENCE_ENDED}, id="ended"),
        pytest.param({}, {}, {"staff": True}, id="staff"),
        pytest.param({"states": [3]}, {"state": 3}, {"state": 2}, id="state"),
        pytest.param({"identity_ids": ["Ann", "x"]}, {"identity_id": "Ann"}, {"identity_id": "Bob"}, id="identity"),
        pytest.param({"contact_ids": ["c1"]}, {"contact_id": "c1"}, {"contact_id": ""}, id="contact"),
    ],
)
def test_a_visitor_who_no_longer_matches_is_gone(filters: Any, before: Any, now: Any) -> None:
    stream = LiveVisitors(pb.WatchVisitorsRequest(**filters))
    was, is_now = visitor("a", **before), visitor("a", **now)
    [_, gone] = live(stream, *listed(was), END_OF_LIST, change(was, is_now))
    assert (gone.before, gone.now) == (was, None)
    assert live(stream, change(is_now, visitor("a", **{**now, "presence": VISITOR_PRESENCE_ENDED}))) == []


def test_visitors_who_match_stay_when_they_leave_the_pages() -> None:
    stream = LiveVisitors(pb.WatchVisitorsRequest(visit_ids=["a"]))
    here, left = visitor("a", staff=True), visitor("a", staff=True, presence=VISITOR_PRESENCE_LEFT)
    found = live(stream, *listed(here), END_OF_LIST, change(here, left), change(left, here))
    assert [one.now and one.now.presence for one in found] == [1, VISITOR_PRESENCE_LEFT, VISITOR_PRESENCE_PRESENT]


def test_events_come_once_within_what_is_remembered() -> None:
    stream = EventStream(StreamEventsRequest(site="shop"), remembered=3)
    chance = random.Random(5)  # noqa: S311
    seen: list[str] = []
    sent: list[str] = []
    for number in range(60):
        again = chance.choice(sent[-3:]) if sent and chance.random() < 0.5 else str(number)
        message = StreamEventsResponse(resume_token=f"t{number}")
        message.event.event.event_id = again
        seen += [item.event.event.event_id for item in stream.received(message)]
        sent = [one for one in sent if one != again] + [again]
        assert stream.request().resume_token == f"t{number}"
    assert len(seen) == len({*seen}) > 20


def test_a_stream_of_all_events_reports_that_its_position_is_lost_and_one_of_a_visit_lists() -> None:
    with pytest.raises(PositionLostError):
        EventStream(StreamEventsRequest(), 9).ended(LOST)
    stream = EventStream(StreamEventsRequest(visit_id="v", site="s", json_as_text=True, resume_token="t"), 9)
    assert stream.missed() is None
    stream.ended(LOST)
    assert (stream.request().resume_token, stream.request().from_oldest) == ("", True)
    missed = stream.missed()
    assert missed
    assert (missed.visit_id, missed.scope.site, missed.json_as_text) == ("v", "s", True)
    stream.has_listed()
    assert stream.missed() is None


def test_a_stream_waits_longer_after_each_failure_and_as_long_as_the_service_says() -> None:
    stream = VisitorWatch(pb.WatchVisitorsRequest())
    pauses = [stream.ended(GONE) for _ in range(30)]
    assert pauses[0] < 0.3
    assert max(pauses) <= 2 < 2 * min(pauses[-5:]) + 0.1
    assert stream.ended(FootfallError(grpc.StatusCode.UNAVAILABLE, "", retry_after_s=7)) == 7
    stream.received(END_OF_LIST)
    assert stream.ended(None) < 0.3
    lasting = NotAllowedError(grpc.StatusCode.PERMISSION_DENIED, "", "ROLE_NOT_ALLOWED")
    with pytest.raises(NotAllowedError):
        stream.ended(lasting)


class Failed(grpc.RpcError):
    """An error as gRPC raises it."""

    def __init__(self, error: RequestError, *more: tuple[str, str | bytes]) -> None:
        self._error = error
        self._metadata = error.trailing_metadata + more

    def code(self) -> grpc.StatusCode:
        return self._error.code

    def details(self) -> str:
        return self._error.message

    def trailing_metadata(self) -> Any:
        return self._metadata


def test_an_error_has_the_details_of_the_service() -> None:
    invalid = error_of(Failed(RequestError.invalid("page_size", "must not be negative"), ("x-request-id", "r1")))
    assert isinstance(invalid, InvalidRequestError)
    assert [*invalid.violations] == [("page_size", "must not be negative")]
    assert (invalid.reason, invalid.request_id, invalid.retry_after_s) == ("INVALID_FIELD", "r1", None)
    assert str(invalid) == "INVALID_FIELD: page_size: must not be negative"
    down = error_of(Failed(RequestError.unavailable("no", 1_500)))
    assert isinstance(down, UnavailableError)
    assert down.retry_after_s == 1.5
    large = error_of(Failed(RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", "too large")))
    assert isinstance(large, InvalidRequestError)
    foreign = RequestError.not_found("Visit", "v")
    foreign.details = ()
    assert error_of(Failed(foreign)).resource_type == ""


def test_an_error_whose_details_are_malformed_keeps_its_status() -> None:
    error = Failed(RequestError.unavailable("no", 1), ("grpc-status-details-bin", b"\xff"))
    assert (error_of(error).code, error_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "")


def test_a_token_needs_tls_and_a_certificate_its_key() -> None:
    with pytest.raises(ValueError, match="token: needs tls"):
        credentials(None, "secret")
    with pytest.raises(ValueError, match="cert_file and key_file"):
        credentials(Tls("ca.crt", cert_file="client.crt"), None)
    assert credentials(None, None) is None


def test_the_last_page_has_no_next_request() -> None:
    request = pb.ListVisitorsRequest(site="shop", page_size=7)
    following = next_request(request, pb.ListVisitorsResponse(next_page_token="p2"))
    assert following == pb.ListVisitorsRequest(site="shop", page_size=7, page_token="p2")
    assert request.page_token == ""
    assert next_request(request, pb.ListVisitorsResponse()) is None
