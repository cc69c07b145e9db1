"""The history of a contact is that of all its identities, in one order."""

import uuid
from operator import itemgetter

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall_servicekit.errors import details_of

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_a_contacts_history_is_that_of_its_identities_in_one_order(suite: Suite) -> None:
    contact, at_ms = f"contact-{uuid.uuid4()}", now_ms() - 60_000
    people = [f"{uuid.uuid4()}@mail.example" for _ in range(3)]
    visits = [str(uuid.uuid4()) for _ in people]
    events = []
    for number, (visit, person) in enumerate(zip(visits, people, strict=True)):
        events.append(event("SignIn", visit, at_ms + number, person))
        events += [
            event("PageEntered", visit, at_ms + 100 * (n + 1) + number, pageID=uuid.uuid4().hex) for n in range(5)
        ]
    async with suite.http() as http:
        body = {"emailAddresses": people[:2]}
        assert (await http.put(f"/api/v1/contacts/{contact}", json=body)).status_code == 200
        assert (await http.post("/beacon", json=events)).status_code == 204
    async with suite.channel("history") as channel:
        history = HistoryServiceStub(channel)

        async def all_there() -> None:
            request = pb.ListEventsRequest(contact_id=contact)
            assert len((await history.ListEvents(request)).events) == 12

        await eventually(all_there)
        entered = [one for one in events if one["eventName"] == "PageEntered" and one["visitID"] in visits[:2]]
        oldest_first = [one["pageID"] for one in sorted(entered, key=itemgetter("timestamp"))]
        for order, wanted in (("", oldest_first), ("event_time desc", oldest_first[::-1])):
            for size in (1, 3, 4, 10, 50):
                request = pb.ListPagesRequest(contact_id=contact, order_by=order, page_size=size)
                found = []
                while True:
                    answer = await history.ListPages(request)
                    found += [page.browser_page_id for page in answer.pages]
                    request.page_token = answer.next_page_token
                    if not request.page_token:
                        break
                assert found == wanted, (order, size)
        newest = "start_time desc"
        listed = await history.ListVisits(pb.ListVisitsRequest(contact_id=contact, order_by=newest))
        assert [visit.visit_id for visit in listed.visits] == [visits[1], visits[0]]
        sessions = await history.ListSessions(pb.ListSessionsRequest(contact_id=contact, order_by=newest))
        assert [session.identity_id for session in sessions.sessions] == [people[1], people[0]]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await history.ListEvents(pb.ListEventsRequest(contact_id="unknown"))
        details = details_of(raised.value)
        assert (details.code, details.resource_type) == (grpc.StatusCode.NOT_FOUND, "Contact")
