"""Queries about stored visits."""

import uuid
from typing import Any

import grpc
import pytest
from footfall.event.v1 import event_pb2
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import visitor_pb2
from footfall_history.ingest import last_keys
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_servicekit.errors import details_of
from footfall_timeline import order_key
from google.protobuf.timestamp_pb2 import Timestamp

from tests.tools.batches import CHROME
from tests.tools.history import entry
from tests.tools.stories import MINUTE_MS, Story
from tests.tools.visits import event, now_ms


@pytest.fixture
async def dana(attributor: Attributor) -> Story:
    """A stored visit."""
    story = Story("dana@shop.example")
    assert (await attributor.store([story.entry()])).unstorable == []
    return story


def names(answer: pb.ListEventsResponse) -> list[str]:
    return [stored.event.event_name for stored in answer.events]


async def test_a_visit_has_its_times_state_and_identity(stub: Any, dana: Story) -> None:
    visit = (await stub.GetVisit(pb.GetVisitRequest(visit_id=dana.visit_id.replace("-", "").upper()))).visit
    assert (visit.visit_id, visit.global_visit_id, visit.site) == (dana.visit_id, dana.device, "default")
    assert visit.start_time.ToMilliseconds() == dana.at_ms
    assert visit.last_event_time.ToMilliseconds() == dana.at_ms + 5_000
    assert (visit.user_agent, visit.revision, visit.ended, visit.staff) == (CHROME, 1, False, False)
    assert (visit.state, visit.identity_id) == (visitor_pb2.VISITOR_STATE_RECOGNIZED, dana.person)
    assert visit.active_session_id == ""


async def test_a_visit_ends_after_the_idle_time_without_events(stub: Any, attributor: Attributor) -> None:
    story = Story("dana", now_ms() - 31 * MINUTE_MS)
    await attributor.store([story.entry()])
    assert (await stub.GetVisit(pb.GetVisitRequest(visit_id=story.visit_id))).visit.ended


async def test_the_last_event_is_found_with_and_without_a_noted_key(
    stub: Any, attributor: Attributor, store: Store, dana: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended_ms() -> int:
        answer = await stub.GetVisit(pb.GetVisitRequest(visit_id=dana.visit_id))
        return int(answer.visit.last_event_time.ToMilliseconds())

    for noted_ms in (0, 3_000, 5_000, 9_000):  # the last of an event that was not stored
        await store.note_last_keys({dana.visit_id: order_key(dana.at_ms + noted_ms, "")})
        assert await ended_ms() == dana.at_ms + 5_000
    await store.visits.update_one({"_id": dana.visit_id}, {"$unset": {"last_key": ""}})
    monkeypatch.setattr(last_keys, "EVENTS_PER_NOTE", 1)
    for offset_ms in (8_000, 7_000):
        await attributor.store([entry([event("AddToCart", dana.visit_id, dana.at_ms + offset_ms)])])
        assert await ended_ms() == dana.at_ms + 8_000
    [visit] = await store.find_visits({"_id": dana.visit_id}, 1)
    assert visit["last_key"].startswith(str(dana.at_ms + 8_000))


async def test_a_visit_starts_with_its_earliest_event_whenever_that_arrives(stub: Any, attributor: Attributor) -> None:
    story = Story("dana")
    await attributor.store([entry(story.events[3:])])
    await attributor.store([entry(story.events[:3], user_agent="an earlier one")])
    visit = (await stub.GetVisit(pb.GetVisitRequest(visit_id=story.visit_id))).visit
    assert (visit.start_time.ToMilliseconds(), visit.user_agent) == (story.at_ms, "an earlier one")


async def test_events_of_a_visit_are_in_order_with_their_attribution(stub: Any, dana: Story) -> None:
    answer = await stub.ListEvents(pb.ListEventsRequest(visit_id=dana.visit_id))
    ids = [stored.event.event_id for stored in answer.events]
    assert set(ids) == {dana.event_id(position) for position in range(7)}
    assert [(e.event.event_time_ms, e.event.event_id) for e in answer.events] == sorted(
        (e.event.event_time_ms, e.event.event_id) for e in answer.events
    )
    attributions = {e.event.event_id: e.stamp for e in answer.events}
    assert attributions[dana.event_id(1)].state == visitor_pb2.VISITOR_STATE_ANONYMOUS
    for position in (2, 3, 6):
        assert attributions[dana.event_id(position)].identity_id == dana.person
        assert attributions[dana.event_id(position)].session_id == dana.session_id
    assert attributions[dana.event_id(6)].state == visitor_pb2.VISITOR_STATE_RECOGNIZED
    assert answer.next_page_token == ""


async def test_an_event_comes_back_as_it_was_admitted(stub: Any, attributor: Attributor) -> None:
    story = Story("dana")
    batch = story.entry()
    await attributor.store([batch])
    for sent in batch.events:
        stored = (await stub.GetEvent(pb.GetEventRequest(event_id=sent.event_id))).event
        if sent.assurance_reason == "no_key":
            sent.assurance_reason_code = event_pb2.ASSURANCE_REASON_NO_KEY  # in answers only
        assert stored.event == sent
        assert stored.received_time.ToMilliseconds() == batch.contexts[0].received_time_ms
        assert stored.address == batch.contexts[0].address


async def test_an_event_id_used_by_two_visits_means_the_one_received_first(stub: Any, attributor: Attributor) -> None:
    at_ms = now_ms()
    first = event("AddToCart", str(uuid.uuid4()), at_ms)
    second = first | {"visitID": str(uuid.uuid4())}
    await attributor.store([entry([second], received_time_ms=at_ms + 1), entry([first], received_time_ms=at_ms)])
    found = (await stub.GetEvent(pb.GetEventRequest(event_id=first["eventID"]))).event
    assert found.event.visit_id == first["visitID"]
    found = (await stub.GetEvent(pb.GetEventRequest(event_id=first["eventID"], visit_id=second["visitID"]))).event
    assert found.event.visit_id == second["visitID"]


async def test_the_first_stored_wins_and_other_content_is_flagged(stub: Any, attributor: Attributor) -> None:
    first, again = event("AddToCart", str(uuid.uuid4()), now_ms(), data={"sku": "A-1"}), now_ms() + 1
    other = event("AddToCart", first["visitID"], now_ms(), data={"sku": "A-2"})
    await attributor.store([entry([first, other])])
    retried = first | {"category": "by a rule that is new"}
    await attributor.store([entry([retried], received_time_ms=again), entry([other | {"data": {"sku": "B"}}])])
    answer = await stub.ListEvents(pb.ListEventsRequest(visit_id=first["visitID"]))
    stored = {found.event.data_json: found.conflict for found in answer.events}
    assert stored == {b'{"sku": "A-1"}': False, b'{"sku": "A-2"}': True}


async def test_a_visits_session_runs_from_sign_in_to_sign_out(stub: Any, dana: Story) -> None:
    [session] = (await stub.ListSessions(pb.ListSessionsRequest(visit_id=dana.visit_id))).sessions
    assert (session.session_id, session.identity_id, session.visit_id) == (dana.session_id, dana.person, dana.visit_id)
    assert session.start_time.ToMilliseconds() == dana.at_ms + 2_000
    assert session.end_time.ToMilliseconds() == dana.at_ms + 5_000
    assert (session.start_event_id, session.end_event_id) == (dana.event_id(2), dana.event_id(6))
    assert (await stub.GetSession(pb.GetSessionRequest(session_id=dana.session_id))).session == session
    others = pb.ListSessionsRequest(visit_id=dana.visit_id, session_identity_id="another person")
    assert not (await stub.ListSessions(others)).sessions


async def test_a_visits_identities_have_ids_only_while_identity_is_unavailable(stub: Any, dana: Story) -> None:
    request = pb.ListVisitIdentitiesRequest(visit_id=dana.visit_id)
    [association] = (await stub.ListVisitIdentities(request)).associations
    assert association.identity.identity_id == dana.person
    assert association.scope == association.identity.visit_scope == visitor_pb2.VISITOR_STATE_RECOGNIZED
    assert association.create_time.ToMilliseconds() == dana.at_ms + 2_000
    request.scope = visitor_pb2.VISITOR_STATE_AUTHENTICATED
    assert not (await stub.ListVisitIdentities(request)).associations


async def test_pages_have_title_time_and_identity(stub: Any, dana: Story) -> None:
    loans, cart = (await stub.ListPages(pb.ListPagesRequest(visit_id=dana.visit_id))).pages
    assert (loans.page_id, loans.title, loans.identity_id) == (dana.loans, "Loans", "")
    assert loans.end_time.ToMilliseconds() - loans.start_time.ToMilliseconds() == 3_999
    assert (cart.page_id, cart.title, cart.identity_id) == (dana.cart, "Cart", dana.person)
    assert not cart.HasField("end_time")
    assert (await stub.GetPage(pb.GetPageRequest(page_id=dana.loans))).page == loans
    for request in (
        pb.ListPagesRequest(identity_id=dana.person),
        pb.ListPagesRequest(session_id=dana.session_id),
        pb.ListPagesRequest(visit_id=dana.visit_id, title="Cart"),
        pb.ListPagesRequest(visit_id=dana.visit_id, url="https://shop.example/cart"),
    ):
        assert list((await stub.ListPages(request)).pages) == [cart]


async def test_events_are_found_by_every_parent(stub: Any, dana: Story) -> None:
    for request, positions in (
        (pb.ListEventsRequest(identity_id=dana.person), {2, 3, 4, 5, 6}),
        (pb.ListEventsRequest(session_id=dana.session_id), {2, 3, 4, 5, 6}),
        (pb.ListEventsRequest(page_id=dana.loans), {0, 1, 2, 3, 4}),
    ):
        answer = await stub.ListEvents(request)
        assert {found.event.event_id for found in answer.events} == {dana.event_id(n) for n in positions}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"event_name": "AddToCart"}, ["AddToCart"]),
        ({"event_type": event_pb2.EVENT_TYPE_BUSINESS}, ["AddToCart"]),
        ({"category": "bikes"}, ["AddToCart"]),
        ({"category": "bike"}, []),
        ({"category": "all categories", "event_name": "VisitStarted"}, []),
        ({"category": "all categories", "event_name": "SignIn"}, ["SignIn"]),
        ({"url": "https://shop.example/cart"}, ["PageEntered"]),
        ({"url": "https://shop.example/"}, []),
        ({"global_visit_id": str(uuid.uuid4())}, []),
        ({"scope": pb.Scope(site="elsewhere")}, []),
        ({"scope": pb.Scope(age_seconds=3600), "event_name": "SignIn"}, ["SignIn"]),
    ],
)
async def test_events_are_filtered(stub: Any, dana: Story, filters: dict[str, Any], expected: list[str]) -> None:
    assert names(await stub.ListEvents(pb.ListEventsRequest(visit_id=dana.visit_id, **filters))) == expected


async def test_age_filters_by_time_of_receipt_and_times_by_event_time(stub: Any, attributor: Attributor) -> None:
    story = Story("dana", received_time_ms=now_ms() - 10_000)
    await attributor.store([story.entry()])
    young = pb.ListEventsRequest(visit_id=story.visit_id, scope=pb.Scope(age_seconds=5))
    assert names(await stub.ListEvents(young)) == []
    some = pb.ListEventsRequest(visit_id=story.visit_id)
    some.scope.start_time.FromMilliseconds(story.at_ms + 2_000)
    some.scope.end_time.FromMilliseconds(story.at_ms + 4_000)
    assert names(await stub.ListEvents(some)) == ["SignIn", "AddToCart"]


async def test_visits_are_found_by_identity_device_user_agent_site_and_time(stub: Any, attributor: Attributor) -> None:
    person, agent = f"{uuid.uuid4()}@shop.example", f"agent {uuid.uuid4()}"
    stories = [Story(person, now_ms() - minutes * MINUTE_MS, user_agent=agent) for minutes in (3, 2, 1)]
    await attributor.store([story.entry() for story in stories])
    between = pb.Scope()
    between.start_time.FromMilliseconds(stories[1].at_ms)
    between.end_time.FromMilliseconds(stories[2].at_ms)
    for filters, expected in (
        ({"identity_id": person}, stories),
        ({"user_agent": agent}, stories),
        ({"global_visit_id": stories[0].device}, stories[:1]),
        ({"identity_id": person, "global_visit_id": stories[1].device}, stories[1:2]),
        ({"identity_id": person, "scope": pb.Scope(site="elsewhere")}, []),
        ({"scope": pb.Scope(site="default")}, stories),
        ({"identity_id": person, "scope": pb.Scope(age_seconds=90)}, stories[2:]),
        ({"identity_id": person, "scope": between}, stories[1:2]),
    ):
        found = (await stub.ListVisits(pb.ListVisitsRequest(**filters))).visits
        assert [visit.visit_id for visit in found] == [story.visit_id for story in expected], filters


async def test_sessions_of_an_identity_come_from_all_its_visits_in_order(stub: Any, attributor: Attributor) -> None:
    person = f"{uuid.uuid4()}"
    early, late = Story(person, now_ms() - 9 * MINUTE_MS), Story(person, now_ms() - 8 * MINUTE_MS)
    again = event("SignIn", early.visit_id, now_ms() - 7 * MINUTE_MS, person)
    await attributor.store([early.entry(), late.entry(), entry([again])])
    whole = (await stub.ListSessions(pb.ListSessionsRequest(identity_id=person))).sessions
    assert [session.visit_id for session in whole] == [early.visit_id, late.visit_id, early.visit_id]
    request, paged = pb.ListSessionsRequest(identity_id=person, page_size=1), []
    while True:
        answer = await stub.ListSessions(request)
        paged += answer.sessions
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert paged == list(whole)


async def test_a_visit_is_explained_step_by_step(stub: Any, dana: Story) -> None:
    answer = await stub.ExplainVisit(pb.ExplainVisitRequest(visit_id=dana.visit_id))
    assert answer.visit.visit_id == dana.visit_id
    sign_in, sign_out = answer.explanations
    assert (sign_in.event_id, sign_in.event_name, sign_in.rule) == (dana.event_id(2), "SignIn", "sign_in.opens_session")
    assert (sign_in.assurance, sign_in.assurance_reason) == (event_pb2.ASSURANCE_CLAIMED, "no_key")
    assert sign_in.rule_code == visit_pb2.TRANSITION_RULE_SIGN_IN_OPENS_SESSION
    assert sign_in.assurance_reason_code == event_pb2.ASSURANCE_REASON_NO_KEY
    assert sign_in.before.state == visitor_pb2.VISITOR_STATE_ANONYMOUS
    assert sign_in.after.session_id == dana.session_id
    assert "session opens" in sign_in.effect
    assert (sign_out.event_name, sign_out.rule) == ("SignOut", "sign_out.closes_session")


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("GetVisit", pb.GetVisitRequest(visit_id="x"), "visit_id"),
        ("ListEvents", pb.ListEventsRequest(), "parent"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x" * 513), "identity_id"),
        ("ListEvents", pb.ListEventsRequest(page_id="7"), "page_id"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x", page_size=-1), "page_size"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x", page_token="x"), "page_token"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x", start=pb.Position(time_ms=10**13)), "start.time_ms"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x", scope=pb.Scope(age_seconds=-1)), "scope.age_seconds"),
        ("ListVisits", pb.ListVisitsRequest(global_visit_id="x"), "global_visit_id"),
        ("ListVisits", pb.ListVisitsRequest(order_by="start_time asc"), "order_by"),
        ("ListVisits", pb.ListVisitsRequest(contact_id="x" * 257), "contact_id"),
        ("ListPages", pb.ListPagesRequest(identity_id="x", order_by="url desc"), "order_by"),
        ("ListSessions", pb.ListSessionsRequest(identity_id="x", order_by="start_time, id"), "order_by"),
        ("ListEvents", pb.ListEventsRequest(identity_id="x", order_by="start_time desc"), "order_by"),
    ],
)
async def test_a_bad_request_names_the_field(stub: Any, method: str, request_: Any, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await getattr(stub, method)(request_)
    details = details_of(raised.value)
    assert details.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation[0] for violation in details.violations] == [field]


@pytest.mark.parametrize("resource", ["Visit", "Page", "Session", "Event"])
async def test_unknown_resources_are_not_found(stub: Any, resource: str) -> None:
    request = getattr(pb, f"Get{resource}Request")(**{f"{resource.lower()}_id": str(uuid.uuid4())})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await getattr(stub, f"Get{resource}")(request)
    details = details_of(raised.value)
    assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, resource)


@pytest.mark.parametrize("parent", ["visit", "identity", "session", "page"])
async def test_a_parent_that_is_not_known_is_not_found_and_one_without_what_is_asked_for_is_empty(
    stub: Any, dana: Story, parent: str
) -> None:
    field = f"{parent}_id"
    known = {"visit": dana.visit_id, "identity": dana.person, "session": dana.session_id, "page": dana.loans}[parent]
    nothing, elsewhere = pb.Scope(end_time=Timestamp(seconds=1)), ["another site"]
    for kind in ("Events", "Pages", "Sessions"):
        request_type = getattr(pb, f"List{kind}Request")
        if field in [one.name for one in request_type.DESCRIPTOR.oneofs_by_name["parent"].fields]:
            method = getattr(stub, f"List{kind}")
            found = await method(request_type(**{field: known}, scope=nothing))
            assert found == type(found)(other_names_unavailable=parent == "identity")
            unknown = {field: str(uuid.uuid4())}
            for request in (request_type(**unknown), request_type(**{field: known}, sites=elsewhere)):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await method(request)
                details = details_of(raised.value)
                if parent == "identity":  # by another name it may be known, which identity does not say
                    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
                else:
                    assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, parent.capitalize())


async def test_a_list_of_a_contact_is_not_empty_but_fails_while_identity_is_unavailable(stub: Any) -> None:
    for method in ("ListVisits", "ListSessions", "ListPages", "ListEvents"):
        request = getattr(pb, f"{method}Request")(contact_id="dana")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(stub, method)(request)
        details = details_of(raised.value)
        assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_without_identity_what_other_names_did_is_missing_and_the_answer_says_so(stub: Any, dana: Story) -> None:
    for name in ("ListVisits", "ListPages", "ListSessions", "ListEvents", "ListInteractions"):
        request, call = getattr(pb, f"{name}Request"), getattr(stub, name)
        assert (await call(request(identity_id=dana.person))).other_names_unavailable, name
        if name != "ListVisits":
            of_visit = await call(request(visit_id=dana.visit_id))
            assert not of_visit.other_names_unavailable, name
