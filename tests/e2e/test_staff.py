"""Staff through the running suite: marked by site, address or key, shown apart from customers, and no evidence."""

import uuid
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_gateway.auth.sessions import SESSION_HEADER
from footfall_gateway.commands import keys as keys_command

from tests.e2e.test_live import Watcher, gateway_of
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

DESK = "agent-desk"
OFFICE, HOME = ({"X-Forwarded-For": address} for address in ("198.51.100.7", "203.0.113.7"))


def new_id() -> str:
    return str(uuid.uuid4())


async def staff_of(http: httpx.AsyncClient, visit_id: str) -> bool:
    answer = await http.get(f"/api/v1/visits/{visit_id}/visitor")
    assert answer.status_code == 200, answer.text
    explained = await http.get(f"/api/v1/visits/{visit_id}/explain")
    assert explained.status_code == 200, explained.text
    assert explained.json()["staff"] is answer.json()["staff"]
    return bool(answer.json()["staff"])


async def listed(http: httpx.AsyncClient, device: str, **query: str) -> set[str]:
    answer = await http.get("/api/v1/visitors", params={"globalVisitId": device, **query})
    assert answer.status_code == 200, answer.text
    return {visitor["visitId"] for visitor in answer.json()["visitors"]}


async def test_site_address_and_key_mark_visits_and_nothing_a_page_sends_does(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    assert keys_command.run(["create", "desk", "--scope", "ingest", "--staff"], file) == 0
    bearer = {"Authorization": f"Bearer {capsys.readouterr().out.split()[-1]}"}
    assert keys_command.run(["list"], file) == 0
    assert capsys.readouterr().out.rstrip().endswith("\tstaff")
    by_site, by_address, by_key, by_session, customer, forged = (new_id() for _ in range(6))
    device = new_id()

    def signed_in(visit_id: str, **more: Any) -> dict[str, Any]:
        return event("SignIn", visit_id, now_ms(), f"dana-{visit_id}", globalVisitID=device, **more)

    claims = {"staff": True, "staffReason": 1, "staff_reason": "site"}
    own = {"keys_file": file, "trusted_proxies": "127.0.0.1", "redis_url": suite.redis_url}
    async with gateway_of(suite, **own) as http:
        sent = [(signed_in(by_site, site=DESK), HOME), (signed_in(by_address), OFFICE), (signed_in(customer), HOME)]
        # Only what the proxy has added counts, and the headers of a page are no address.
        spoofed = {
            "X-Forwarded-For": f"{OFFICE['X-Forwarded-For']}, {HOME['X-Forwarded-For']}",
            "X-Real-IP": "198.51.100.7",
        }
        sent += [(signed_in(forged, **claims, data=claims), spoofed)]
        for one, headers in sent:
            assert (await http.post("/beacon", json=[one], headers=headers)).status_code == 204
        async with httpx.AsyncClient(base_url=http.base_url) as desk:
            path = "/server/data/visits/{}/events"
            assert (await desk.post(path.format(by_key), json=signed_in(by_key), headers=bearer)).status_code == 200
            assert (await desk.post("/api/v1/session", headers=bearer)).status_code == 200
            by_cookie = {SESSION_HEADER: "1"}
            answer = await desk.post(path.format(by_session), json=signed_in(by_session), headers=by_cookie)
            assert answer.status_code == 200
        marked = [by_site, by_address, by_key, by_session]
        for visit_id in [*marked, customer, forged]:

            async def is_right(visit_id: str = visit_id) -> None:
                assert await staff_of(http, visit_id) is (visit_id in marked)

            await eventually(is_right)
        assert await listed(http, device) == await listed(http, device, staff="exclude") == {customer, forged}
        assert await listed(http, device, staff="only") == {*marked}
        assert await listed(http, device, staff="include") == {*marked, customer, forged}
        assert (await http.get("/api/v1/visitors", params={"staff": "yes"})).status_code == 400


async def test_the_mark_does_not_depend_on_the_order_and_links_no_contact(suite: Suite) -> None:
    mark, visits, started = uuid.uuid4().hex[:8], [new_id(), new_id()], now_ms() - 60_000
    async with suite.http() as http:
        body = {"emailAddresses": [f"dana-{mark}@shop.example"], "firstName": "Dana", "lastName": mark}
        assert (await http.put(f"/api/v1/contacts/{mark}", json=body)).status_code == 200
        for order, visit_id in zip((1, -1), visits, strict=True):
            # As the customer, by address, name and user id; the page before the sign-in is no event of staff.
            data = {"email": f"dana-{mark}@shop.example", "firstName": "Dana", "lastName": mark}
            events = [
                event("PageEntered", visit_id, started),
                event("SignIn", visit_id, started + 1, f"{visit_id}@{mark}.example", site=DESK, data=data),
                event("SignOut", visit_id, started + 2),
            ]
            for one in events[::order]:
                assert (await http.post("/beacon", json=[one])).status_code == 204

            async def is_of_staff(visit_id: str = visit_id) -> None:
                assert await staff_of(http, visit_id)
                identity = (await http.get(f"/server/data/identities/{visit_id}%40{mark}.example")).json()
                assert identity["entityInCS"] is None

            await eventually(is_of_staff)
        # The customer alone is evidence.
        own = event(
            "SignIn", new_id(), started, f"{visits[0]}@{mark}.example", data={"email": body["emailAddresses"][0]}
        )
        assert (await http.post("/beacon", json=[own])).status_code == 204

        async def is_linked() -> None:
            linked = (await http.get(f"/api/v1/identities/{visits[0]}%40{mark}.example/links")).json()["links"]
            assert [(one["contactId"], one["evidence"][0]["visitId"]) for one in linked] == [(mark, own["visitID"])]

        await eventually(is_linked)
        assert (await http.get(f"/api/v1/identities/{visits[1]}%40{mark}.example/links")).json()["links"] == []
        assert (await http.delete(f"/api/v1/contacts/{mark}")).status_code == 204


def has_changed(watcher: Watcher, visit_id: str) -> bool:
    return bool(watcher.changes(visit_id))


async def is_in_history(http: httpx.AsyncClient, sent: dict[str, Any]) -> bool:
    answer = await http.get(f"/server/data/visits/{sent['visitID']}/events")
    found = answer.json() if answer.status_code == 200 else []
    return any(uuid.UUID(one["eventID"]) == uuid.UUID(sent["eventID"]) for one in found)


async def test_the_live_stream_leaves_staff_out_unless_asked_and_says_when_a_visit_becomes_one_of_staff(
    suite: Suite,
) -> None:
    customer, agent, mark = new_id(), new_id(), uuid.uuid4().hex[:8]
    async with suite.http() as http:
        # Without a filter by site, to which the desk does not belong; by identity, to leave out other tests.
        people = {"identityId": f"dana-{mark}"}
        watchers = [
            Watcher(http, people),
            Watcher(http, {**people, "staff": "only"}),
            Watcher(http, {"visitId": agent}),
        ]
        async with watchers[0].watching(), watchers[1].watching(), watchers[2].watching():
            sent = [
                event("SignIn", customer, now_ms(), f"dana-{mark}"),
                event("SignIn", agent, now_ms(), f"dana-{mark}", site=DESK),
                event("AddToCart", customer, now_ms() + 1, site=DESK),
            ]
            for one in sent:
                assert (await http.post("/beacon", json=[one])).status_code == 204
                await eventually(partial(has_changed, watchers[1 if "site" in one else 0], one["visitID"]))
                await eventually(partial(is_in_history, http, one))  # a later event is of the person that history knows
            await eventually(lambda: len(watchers[2].events()) == 1)
            await eventually(lambda: len(watchers[1].events()) == 2)
            await eventually(lambda: len(watchers[0].changes(customer)) >= 2)
        of_customers, of_staff, of_agent = watchers
        assert (of_customers.changes(customer)[0][0], of_customers.changes(customer)[-1]) == ("ARRIVED", ["STAFF"])
        assert of_customers.changes(agent) == []
        assert len(of_customers.events()) == 1
        assert ["STAFF"] in of_staff.changes(customer)
        assert of_agent.changes(agent)[0][0] == "ARRIVED"
