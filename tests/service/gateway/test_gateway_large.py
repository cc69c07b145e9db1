"""Lists of large items come in shorter pages instead of being refused."""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

pytestmark = pytest.mark.long
COUNT = 80


class Scene(NamedTuple):
    """Many people with large profiles, 5 MB in all, who have signed in during one visit and belong to one contact."""

    http: httpx.AsyncClient
    agent: str
    visit: str
    people: list[str]
    contact: str


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of its own, because the tests of other suites expect all people on one page."""
    with running_suite(tmp_path_factory.mktemp("suite")) as suite:
        yield suite


@pytest.fixture(scope="module")
async def scene(suite: Suite) -> AsyncIterator[Scene]:
    agent, visit, contact = f"Agent {uuid.uuid4()}", str(uuid.uuid4()), f"C-{uuid.uuid4()}"
    people = [f"{number:02}-{uuid.uuid4()}" for number in range(COUNT)]
    data = {f"key {number:02}": "x" * 4_000 for number in range(15)}
    at = now_ms() - 10_000
    async with suite.http(timeout=30) as http:
        assert (await http.put(f"/api/v1/contacts/{contact}", json={"lastName": "Many"})).status_code == 200
        for start in range(0, COUNT, 10):
            events = [
                event("SignIn", visit, at + number, people[number], data=data) for number in range(start, start + 10)
            ]
            body = {"sentAt": now_ms(), "events": events}
            assert (await http.post("/beacon", json=body, headers={"User-Agent": agent})).status_code == 204
        for person in people:
            link = await http.put(f"/api/v1/identities/{person}/contact", json={"contactId": contact})
            assert link.status_code == 200
        scene = Scene(http, agent, visit, people, contact)

        async def is_stored() -> bool:
            known = await http.get(f"/server/data/identities/{people[-1]}")
            explained = await http.get(f"/api/v1/visits/{visit}/explain")
            return known.status_code == 200 and len(explained.json().get("transitions", [])) == COUNT

        await eventually(is_stored, timeout=20)
        yield scene


async def parts(http: httpx.AsyncClient, path: str) -> list[list[str]]:
    """The ids of identities, page by page, as a client reads them."""
    found, cursor = [], ""
    while True:
        start = f"&page_start={quote(cursor, safe='')}" if cursor else ""
        answer = await http.get(f"/server/data{path}page_size=1000{start}")
        assert answer.status_code == 200, answer.text
        found.append([one["identityId"] for one in answer.json()])
        cursor = answer.headers.get("Paging-Next", "")
        if not cursor:
            return found


async def test_identities_with_large_profiles_are_listed_in_several_pages(scene: Scene) -> None:
    for path in (f"/identities?userAgent={quote(scene.agent)}&", f"/visits/{scene.visit}/identities?"):
        found = await parts(scene.http, path)
        assert [one for part in found for one in part] == scene.people
        assert len(found) == 3


async def test_a_person_is_returned_whole_or_in_pages(scene: Scene) -> None:
    path = f"/api/v1/contacts/{scene.contact}/person"
    whole = (await scene.http.get(path)).json()
    assert [one["identityId"] for one in whole["identities"]] == scene.people
    assert {tuple(one["visitIds"]) for one in whole["identities"]} == {(scene.visit,)}
    assert whole["nextPageToken"] is None
    query: dict[str, Any] = {"page_size": 50}
    first = (await scene.http.get(path, params=query)).json()
    second = (await scene.http.get(path, params=query | {"page_token": first["nextPageToken"]})).json()
    assert first["contact"] == second["contact"] == whole["contact"]
    assert (len(first["identities"]), len(second["identities"])) == (50, 30)
    assert first["identities"] + second["identities"] == whole["identities"]
    assert second["nextPageToken"] is None
    assert (await scene.http.get(path, params={"page_token": "x"})).status_code == 400
    other = f"/api/v1/contacts/C-{uuid.uuid4()}"
    assert (await scene.http.put(other, json={"lastName": "Other"})).status_code == 200
    refused = await scene.http.get(f"{other}/person", params={"page_token": first["nextPageToken"]})
    assert (refused.status_code, refused.json()["detail"][:11]) == (400, "page_token:")


async def test_a_visit_with_long_names_is_explained_whole_or_in_pages(scene: Scene) -> None:
    visit, people = str(uuid.uuid4()), [letter * 512 for letter in "🐈🐕"] * 300
    events = [event("SignIn", visit, now_ms() - 1_000 + number, person) for number, person in enumerate(people)]
    for start in range(0, len(events), 200):
        body = {"sentAt": now_ms(), "events": events[start : start + 200]}
        assert (await scene.http.post("/beacon", json=body)).status_code == 204

    path = f"/api/v1/visits/{visit}/explain"

    async def is_explained() -> None:
        explained = (await scene.http.get(path)).json()
        transitions = explained.get("transitions", [])
        assert [step["after"]["identityId"] for step in transitions] == people
        assert all(step["evidence"][0]["eventName"] for step in transitions)  # stored after the timeline

    await eventually(is_explained)
    whole = (await scene.http.get(path)).json()
    assert "nextPageToken" not in whole
    pages: list[Any] = []
    query: dict[str, Any] = {"page_size": 250}
    while not pages or "nextPageToken" in pages[-1]:
        pages.append((await scene.http.get(path, params=query)).json())
        query["page_token"] = pages[-1].get("nextPageToken")
    assert [len(page["transitions"]) for page in pages] == [250, 250, 100]
    assert [step for page in pages for step in page["transitions"]] == whole["transitions"]
    rest = (await scene.http.get(path, params={"page_token": pages[0]["nextPageToken"]})).json()
    assert rest["transitions"] == whole["transitions"][250:]
    for token in (pages[0]["nextPageToken"], "x"):
        refused = await scene.http.get(f"/api/v1/visits/{scene.visit}/explain", params={"page_token": token})
        assert (refused.status_code, refused.json()["detail"][:11]) == (400, "page_token:")
    for size in (0, 1_001, "x"):
        assert (await scene.http.get(path, params={"page_size": size})).status_code == 400
