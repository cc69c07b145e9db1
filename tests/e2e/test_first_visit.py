"""A visit goes in by beacon and comes out of the History API, on real stores: the request of the quickstart."""

import uuid

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_a_beacon_is_live_at_once_and_in_history_soon(suite: Suite) -> None:
    visit_id, started = str(uuid.uuid4()), now_ms() - 5_000
    events = [
        event("VisitStarted", visit_id, started),
        event("PageEntered", visit_id, started + 1),
        event("SignIn", visit_id, started + 2_000, "dana@example.com"),
        event("AddToCart", visit_id, started + 3_000, data={"sku": "A-1", "price": 12.5}),
    ]
    async with suite.http() as http:
        answer = await http.post("/beacon", json=events)
        assert answer.status_code == 204, answer.text

        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
        assert (visitor["state"], visitor["identityId"]) == ("AUTHENTICATED", "dana@example.com")

        async def stored() -> list[dict[str, object]]:
            answer = await http.get(f"/server/data/visits/{visit_id}/events")
            assert answer.status_code == 200, answer.text
            assert len(answer.json()) == len(events)
            return list(answer.json())

        listed = await eventually(stored)
        assert [e["eventName"] for e in listed] == ["VisitStarted", "PageEntered", "SignIn", "AddToCart"]
        assert listed[3]["data"] == {"sku": "A-1", "price": 12.5}

        identities = (await http.get(f"/server/data/visits/{visit_id}/identities")).json()
        assert [(i["identityId"], i["visitScope"]) for i in identities] == [("dana@example.com", "Authenticated")]
        visit = (await http.get(f"/backend/data/visits/{visit_id}")).json()
        assert visit["startDate"] == started
        assert visit["activeSessionId"] == visitor["sessionId"]
        [session] = (await http.get(f"/server/data/visits/{visit_id}/sessions")).json()
        assert (session["sessionId"], session["endDate"]) == (visitor["sessionId"], 0)


async def test_a_retried_beacon_is_one_event(suite: Suite) -> None:
    visit_id = str(uuid.uuid4())
    beacon = [event("PageEntered", visit_id, now_ms())]
    async with suite.http() as http:
        for _ in range(3):
            assert (await http.post("/beacon", json=beacon)).status_code == 204
        last = event("PageExited", visit_id, now_ms() + 1)
        assert (await http.post("/beacon", json=last)).status_code == 204

        async def names() -> bool:
            answer = await http.get(f"/server/data/visits/{visit_id}/events")
            return answer.status_code == 200 and [e["eventName"] for e in answer.json()] == [
                "PageEntered",
                "PageExited",
            ]

        await eventually(names)
