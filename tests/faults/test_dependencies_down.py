"""Services and stores that are stopped or frozen: beacons are accepted where possible, and processed afterwards."""

import uuid

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Program, Suite
from tests.tools.visits import event, now_ms


async def test_beacons_are_accepted_while_identity_is_down_and_applied_after_its_return(suite: Suite) -> None:
    visit_id = str(uuid.uuid4())
    async with suite.http() as http:
        suite.stop("identity")
        try:
            for number, name in enumerate(["PageEntered", "SignIn", "PageExited"]):
                user = "dana" if name == "SignIn" else None
                answer = await http.post("/beacon", json=event(name, visit_id, now_ms() + number, user))
                assert answer.status_code == 204, answer.text
            assert (await http.get(f"/api/v1/visits/{visit_id}/visitor")).status_code == 503
        finally:
            suite.start("identity")

        async def authenticated() -> bool:
            answer = await http.get(f"/api/v1/visits/{visit_id}/visitor")
            return answer.status_code == 200 and answer.json()["state"] == "AUTHENTICATED"

        await eventually(authenticated, timeout=20)
        await eventually(lambda: _is_listed(http, "dana"))


async def test_without_mongodb_history_is_unready_and_beacons_are_accepted(suite: Suite) -> None:
    visit_id = str(uuid.uuid4())
    async with suite.http() as http:
        suite.stop("mongo")
        try:
            await eventually(lambda: _ready_status(http, 503), timeout=20)
            answer = await http.post("/beacon", json=event("PageEntered", visit_id, now_ms()))
            assert answer.status_code == 204
            assert (await http.get("/readyz/beacons")).status_code == 200
        finally:
            suite.start("mongo")
        await eventually(lambda: _ready_status(http, 200), timeout=30)

        async def stored() -> bool:
            return (await http.get(f"/server/data/visits/{visit_id}/events")).status_code == 200

        await eventually(stored, timeout=20)


async def test_beacons_are_refused_while_the_log_is_down_and_accepted_after(suite: Suite) -> None:
    beacon = event("PageEntered", str(uuid.uuid4()), now_ms())
    async with suite.http() as http:
        suite.stop("valkey")
        try:
            answer = await http.post("/beacon", json=beacon)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            await eventually(lambda: _ready_status(http, 503, "/readyz/beacons"), timeout=20)
        finally:
            suite.start("valkey")

        async def accepted() -> bool:
            return (await http.post("/beacon", json=beacon)).status_code == 204

        await eventually(accepted, timeout=20)
        await eventually(lambda: _ready_status(http, 200), timeout=30)


async def test_an_erasure_without_history_is_pending_and_completed_from_the_log(suite: Suite) -> None:
    visit_id, person = str(uuid.uuid4()), f"{uuid.uuid4()}@shop.example"
    async with suite.http() as http:
        assert (await http.post("/beacon", json=event("SignIn", visit_id, now_ms(), person))).status_code == 204

        async def named() -> bool:
            return person in (await http.get(f"/server/data/visits/{visit_id}/events")).text

        await eventually(named, timeout=20)
        suite.stop("history")
        try:
            answer = await http.delete(f"/api/v1/identities/{person}")
            assert (answer.status_code, answer.json()["history"], answer.json()["visits"]) == (202, "pending", None)
        finally:
            suite.start("history")
        await eventually(lambda: _ready_status(http, 200), timeout=30)

        async def is_erased() -> bool:
            found = await http.get(f"/server/data/visits/{visit_id}/events")
            return found.status_code == 200 and person not in found.text

        await eventually(is_erased, timeout=20)
        again = await http.delete(f"/api/v1/identities/{person}")
        assert (again.status_code, again.json()["history"], again.json()["visits"]) == (200, "done", 0)


@pytest.mark.parametrize("program", ["identity", "history", "mongo"])
async def test_a_frozen_service_that_a_beacon_does_not_need_delays_it_by_a_deadline_at_most(
    suite: Suite, program: Program
) -> None:
    async with suite.http() as http:
        with suite.frozen(program):
            for _ in range(3):
                answer = await http.post(
                    "/beacon", json=event("SignIn", str(uuid.uuid4()), now_ms(), "dana"), timeout=4
                )
                assert answer.status_code == 204


@pytest.mark.parametrize("program", ["valkey", "collector"])
async def test_beacons_are_refused_while_a_required_program_is_frozen_and_accepted_after(
    suite: Suite, program: Program
) -> None:
    beacon = event("PageEntered", str(uuid.uuid4()), now_ms())
    async with suite.http() as http:
        with suite.frozen(program):
            answer = await http.post("/beacon", json=beacon)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1

        async def accepted() -> bool:
            return (await http.post("/beacon", json=beacon)).status_code == 204

        await eventually(accepted, timeout=20)


async def _ready_status(http: httpx.AsyncClient, status: int, path: str = "/readyz") -> bool:
    return (await http.get(path)).status_code == status


async def _is_listed(http: httpx.AsyncClient, identity_id: str) -> bool:
    return (await http.get(f"/server/data/identities/{identity_id}")).status_code == 200
