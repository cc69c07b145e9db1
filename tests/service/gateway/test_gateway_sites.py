"""Keys limited to scopes and sites: the operations and the data that they may use."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import structlog
from footfall_eventlog.keys import Key, KeyFile, KeyScope, new_token
from footfall_timeline import page_id, session_id

from tests.service.gateway.conftest import before, running_gateway
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, live_state, now_ms


@dataclass(frozen=True)
class Trace:
    """The ids of one sign-in on one site."""

    visit: str
    page: str
    session: str
    event: str

    def paths(self) -> list[str]:
        """The paths of its resources."""
        return [
            f"/server/data/visits/{self.visit}",
            f"/server/data/visits/{self.visit}/events",
            f"/server/data/visits/{self.visit}/pages",
            f"/server/data/visits/{self.visit}/sessions",
            f"/server/data/visits/{self.visit}/identities",
            f"/server/data/sessions/{self.session}",
            f"/server/data/sessions/{self.session}/events",
            f"/server/data/pages/{self.page}",
            f"/server/data/pages/{self.page}/events",
            f"/server/data/events/{self.event}",
            f"/api/v1/visits/{self.visit}/visitor",
            f"/api/v1/visits/{self.visit}/explain",
            f"/api/v1/receipts/{self.visit}/{self.event}",
        ]


@dataclass(frozen=True)
class Scene:
    """A gateway, and a person who has been on two sites of a deployment."""

    http: httpx.AsyncClient
    file: Path
    person: str
    shop: Trace
    bank: Trace

    def key(self, *sites: str, scopes: str = "read") -> dict[str, str]:
        """The header of a new key."""
        token, key_id, token_hash = new_token()
        key = Key(
            id=key_id,
            name="limited",
            hash=token_hash,
            scopes=[KeyScope(scope) for scope in scopes.split()],
            sites=list(sites),
            create_ms=now_ms(),
        )
        with KeyFile(self.file).changing() as keys:
            keys[key_id] = key
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
async def scene(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    gateway = running_gateway(keys_file=file, **before(suite))
    async with gateway as owner, httpx.AsyncClient(base_url=owner.base_url) as http:
        person = f"dana-{uuid.uuid4()}"
        traces = [await left(http, site, person) for site in ("shop", "bank")]

        async def is_stored() -> None:
            for path in [path for trace in traces for path in trace.paths()]:
                assert (await owner.get(path)).status_code == 200

        await eventually(is_stored)
        yield Scene(http, file, person, *traces)


async def left(http: httpx.AsyncClient, site: str, person: str) -> Trace:
    visit, page, at_ms = str(uuid.uuid4()), uuid.uuid4().hex, now_ms() - 1_000
    sign_in = event("SignIn", visit, at_ms, person, site=site, pageID=page, eventID=str(uuid.uuid4()))
    events = [sign_in, event("PageEntered", visit, at_ms + 1, site=site, pageID=page)]
    assert (await http.post("/beacon", json=events)).status_code == 204
    return Trace(visit, page_id(visit, page), session_id(visit, sign_in["eventID"]), sign_in["eventID"])


async def test_a_key_of_a_site_sees_what_is_of_that_site_and_nothing_else_is_there(scene: Scene) -> None:
    headers = scene.key("shop")
    for path in scene.shop.paths():
        assert (await scene.http.get(path, headers=headers)).status_code == 200, path
    for path in scene.bank.paths():
        assert (await scene.http.get(path, headers=headers)).status_code == 404, path


async def test_a_key_of_a_site_sees_only_that_site_of_an_identity(scene: Scene) -> None:
    identity, headers = f"/server/data/identities/{scene.person}", scene.key("shop")
    for name, key, ours in (
        ("visits", "visitId", scene.shop.visit),
        ("events", "visitID", scene.shop.visit),
        ("pages", "visitId", scene.shop.visit),
        ("sessions", "sessionId", scene.shop.session),
    ):
        answer = await scene.http.get(f"{identity}/{name}", headers=headers)
        assert {one[key] for one in answer.json()} == {ours}
        assert (await scene.http.get(f"{identity}/{name}?site=bank", headers=headers)).status_code == 403
    included = await scene.http.get(f"{identity}?include_visits=true", headers=headers)
    assert included.json()["visitIds"] == [scene.shop.visit]


async def test_site_keys_without_a_sites_file_cause_a_warning(tmp_path: Path) -> None:
    _, key_id, token_hash = new_token()
    key = Key(id=key_id, name="limited", hash=token_hash, scopes=[KeyScope.READ], sites=["shop"], create_ms=1)
    sites = tmp_path / "sites.toml"
    sites.write_text('[[site]]\nname = "shop"\n')
    for file in (None, sites):
        keys_file = tmp_path / f"{file and file.stem}.json"
        with KeyFile(keys_file).changing() as keys:
            keys[key_id] = key
        with structlog.testing.capture_logs() as lines:
            async with running_gateway(keys_file=keys_file, SITES_FILE=file):
                pass
        assert any("without SITES_FILE" in line["event"] for line in lines) is (file is None)


async def test_a_key_of_several_sites_must_name_one(scene: Scene) -> None:
    path, headers = f"/server/data/identities/{scene.person}/visits", scene.key("shop", "bank")
    answer = await scene.http.get(path, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("site: must be given")
    answer = await scene.http.get(path, headers=headers, params={"site": "bank"})
    assert [visit["visitId"] for visit in answer.json()] == [scene.bank.visit]


async def test_site_keys_cannot_read_resources_that_belong_to_no_site(scene: Scene) -> None:
    headers = scene.key("shop", scopes="read contacts erase")
    for method, path in (
        ("GET", "/server/data/identities"),
        ("GET", f"/api/v1/identities/{scene.person}/export"),
        ("DELETE", f"/api/v1/identities/{scene.person}"),
    ):
        assert (await scene.http.request(method, path, headers=headers)).status_code == 403, path


async def test_a_key_of_a_site_lists_the_visitors_of_that_site(scene: Scene) -> None:
    answer = await scene.http.get("/api/v1/visitors", headers=scene.key("shop"), params={"page_size": 1000})
    assert {visitor["site"] for visitor in answer.json()["visitors"]} == {"shop"}


async def test_a_key_of_a_site_creates_events_of_that_site_only(scene: Scene) -> None:
    headers = scene.key("shop", scopes="read ingest")
    answer = await scene.http.post("/server/data/visits", json={}, headers=headers)
    assert answer.status_code == 200
    assert (await live_state(scene.http, answer.json()["visitId"], **headers))["site"] == "shop"
    assert (await scene.http.post("/server/data/visits", json={"site": "bank"}, headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/server/data/visits/x", "read"),
        ("GET", "/api/v1/contacts/nobody", "read"),
        ("POST", "/server/data/visits", "ingest"),
        ("POST", "/backend/data/visits/x/events", "ingest"),
        ("PUT", "/api/v1/contacts/nobody", "contacts"),
        ("DELETE", "/api/v1/contacts/nobody", "contacts"),
        ("PUT", "/api/v1/identities/x/contact", "contacts"),
        ("DELETE", "/api/v1/identities/x/contact", "contacts"),
        ("DELETE", "/api/v1/identities/nobody", "erase"),
    ],
)
async def test_each_operation_needs_its_scope(scene: Scene, method: str, path: str, scope: str) -> None:
    without = scene.key(scopes=" ".join({*KeyScope} - {scope}))
    refused = await scene.http.request(method, path, headers=without)
    assert refused.status_code == 403
    assert scope in refused.text
    allowed = await scene.http.request(method, path, headers=scene.key(scopes=scope))
    assert allowed.status_code not in {401, 403}


async def test_who_may_store_and_not_read_is_answered_what_it_sent(scene: Scene) -> None:
    headers, visit = scene.key(scopes="ingest"), scene.shop.visit
    answer = await scene.http.post(
        "/server/data/visits", json={"visitId": visit, "startDate": 1, "site": "shop"}, headers=headers
    )
    assert (answer.status_code, answer.json()["startDate"]) == (200, 1)
    sent = {"eventName": "Guess", "eventID": scene.shop.event, "site": "shop"}
    answer = await scene.http.post(f"/server/data/visits/{visit}/events", json=sent, headers=headers)
    assert (answer.status_code, answer.json()["eventName"]) == (200, "Guess")
    assert scene.person not in answer.text
