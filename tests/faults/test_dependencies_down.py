"""Services and stores that are stopped or frozen: beacons are accepted where possible, and processed afterwards."""

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.suite import Program, Suite
from tests.tools.visits import event, now_ms

LIVE_QUERY_S = 3.0
"""The time limit of live queries, 2 s, and a second for a busy machine."""


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


async def test_a_full_redis_makes_beacons_unready_with_the_reason_and_is_logged_once(suite: Suite) -> None:
    logs = {name: suite.data_dir / "log" / f"{name}.log" for name in (*suite.targets, "gateway")}
    begins = {name: log.stat().st_size for name, log in logs.items()}

    def lines(name: str = "gateway") -> list[dict[str, Any]]:
        found = map(json.loads, logs[name].read_bytes()[begins[name] :].splitlines())
        return [line for line in found if line["event"] not in {"request", "rpc"}]  # those of requests that are served

    async with suite.http() as http, Redis.from_url(suite.redis_url) as redis:

        async def status() -> int:
            return (await http.post("/beacon", json=event("PageEntered", str(uuid.uuid4()), now_ms()))).status_code

        await redis.config_set("maxmemory", 1)
        try:
            for _ in range(20):
                assert {*await asyncio.gather(*(status() for _ in range(5)))} == {503}
            await eventually(lambda: _ready_status(http, 503, "/readyz/beacons"), timeout=20)
            body = (await http.get("/readyz/beacons")).json()
            assert (body["services"], body["reasons"]) == ({"collector": False}, {"collector": "Redis is at maxmemory"})
        finally:
            await redis.config_set("maxmemory", 0)
        await eventually(lambda: _ready_status(http, 200, "/readyz/beacons"), timeout=3)

        async def has_ended() -> bool:
            assert await status() == 204
            return any(line["event"] == "collect failed (ended)" for line in lines())

        await eventually(has_ended, every=0.2)
    [first, *_, last] = [line for line in lines() if line["event"].startswith("collect failed")]
    assert (first["event"], first["level"], first["reason"]) == ("collect failed", "warning", "LOG_FULL")
    assert last["count"] > 1
    assert len(lines()) <= 4
    assert max(len(lines(name)) for name in suite.targets) <= 20


@pytest.mark.parametrize(("program", "live_status"), [("identity", 504), ("history", 200), ("mongo", 200)])
async def test_a_frozen_service_that_a_beacon_does_not_need_delays_it_by_a_deadline_at_most(
    suite: Suite, program: Program, live_status: int
) -> None:
    async with suite.http() as http:
        assert (
            await http.post("/beacon", json=event("SignIn", str(uuid.uuid4()), now_ms(), "dana"))
        ).status_code == 204
        with suite.frozen(program):
            assert (await http.get("/api/v1/visitors", timeout=LIVE_QUERY_S)).status_code == live_status
            for _ in range(3):
                answer = await http.post(
                    "/beacon", json=event("SignIn", str(uuid.uuid4()), now_ms(), "dana"), timeout=4
                )
                assert answer.status_code == 204


@pytest.mark.parametrize(("program", "live_status", "receipt_status"), [("valkey", 503, 503), ("collector", 200, 404)])
async def test_beacons_are_refused_while_a_required_program_is_frozen_and_accepted_after(
    suite: Suite, program: Program, live_status: int, receipt_status: int
) -> None:
    beacon = event("PageEntered", str(uuid.uuid4()), now_ms())
    receipt = f"/api/v1/receipts/{beacon['visitID']}/{beacon['eventID']}"
    async with suite.http() as http:
        with suite.frozen(program):
            answers = await asyncio.gather(
                *(http.get(path, timeout=LIVE_QUERY_S) for path in ("/api/v1/visitors", receipt))
            )
            assert [answer.status_code for answer in answers] == [live_status, receipt_status]
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
