"""Site isolation: pages of a site neither see nor change anything of a site of another group."""

import asyncio
import random
import re
import uuid
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.sites import client_of, running_suite_of_sites, send
from tests.tools.suite import Suite
from tests.tools.variants import further
from tests.tools.visits import Event, event, live_state, now_ms, random_visit, scattered

VISITS = 6


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite of two groups of sites."""
    with running_suite_of_sites(tmp_path_factory.mktemp("isolated")) as suite:
        yield suite


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Another, which gets only what one site sends."""
    with running_suite_of_sites(tmp_path_factory.mktemp("alone")) as suite:
        yield suite


async def ids(http: httpx.AsyncClient, path: str, key: str) -> set[str]:
    answer = await http.get(path)
    return {one[key].replace("-", "").upper() for one in answer.json()} if answer.status_code == 200 else set()


def of_site(site: str, *events: Event) -> list[Event]:
    return [one | {"site": site} for one in events]


async def test_an_early_event_of_another_site_neither_takes_over_a_visit_nor_shows_it(isolated: Suite) -> None:
    visit, bob = str(uuid.uuid4()), f"bob-{uuid.uuid4()}"
    sign_in = event("SignIn", visit, now_ms(), bob, site="bank", data={"email": "bob@bank.example"})
    early = event("VisitStarted", visit, now_ms() - 3_600_000, site="shop")
    async with client_of(isolated, "bank") as bank, client_of(isolated, "shop") as shop:
        await send(bank, sign_in)
        await eventually(lambda: _is(bank, f"/server/data/visits/{visit}/events", 200))
        await send(shop, early)
        await eventually(lambda: _is(shop, f"/server/data/visits/{visit}/events", 200))
        events = f"/server/data/visits/{visit}/events"
        assert await ids(bank, events, "eventID") == {sign_in["eventID"]}
        assert await ids(shop, events, "eventID") == {early["eventID"]}
        assert (await bank.get(f"/api/v1/visits/{visit}/visitor")).json()["identityId"] == bob
        seen = await live_state(shop, visit)
        assert (seen["site"], seen["state"], seen["identityId"]) == ("shop", "ANONYMOUS", None)


async def _is(http: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await http.get(path)).status_code == status


async def test_a_sign_in_through_another_site_signs_nobody_in(isolated: Suite) -> None:
    visit = str(uuid.uuid4())
    async with client_of(isolated, "bank") as bank, client_of(isolated, "shop") as shop:
        await send(bank, event("PageEntered", visit, now_ms(), site="bank"))
        await send(shop, event("SignIn", visit, now_ms(), "mallory", site="shop"))
        assert (await live_state(bank, visit))["state"] == "ANONYMOUS"
        assert (await shop.get(f"/api/v1/visits/{visit}/visitor")).json()["state"] == "AUTHENTICATED"


async def test_sites_of_a_group_share_a_visit_whose_site_is_that_of_what_arrived_first(isolated: Suite) -> None:
    visit, carol = str(uuid.uuid4()), f"carol-{uuid.uuid4()}"
    page = event("PageEntered", visit, now_ms(), site="bank")
    sign_in = event("SignIn", visit, now_ms() - 600_000, carol, site="bank-help")
    async with client_of(isolated, "bank-help") as helper, client_of(isolated, "bank") as bank:
        await send(bank, page)
        await send(helper, sign_in)
        for http in (bank, helper):
            expected = {page["eventID"], sign_in["eventID"]}
            await eventually(partial(_has, http, f"/server/data/visits/{visit}/events", expected))
            await eventually(partial(_is_of, http, visit, "bank", carol))
            assert (await http.get(f"/api/v1/visits/{visit}/explain")).json()["site"] == "bank"


async def _is_of(http: httpx.AsyncClient, visit: str, site: str, identity: str) -> None:
    visitor = await live_state(http, visit)
    assert (visitor["visitId"], visitor["site"], visitor["identityId"]) == (visit, site, identity)


async def _has(http: httpx.AsyncClient, path: str, expected: set[str]) -> bool:
    return await ids(http, path, "eventID") == expected


async def test_who_may_see_all_finds_the_visit_that_arrived_first_and_by_site_the_other(isolated: Suite) -> None:
    visit = str(uuid.uuid4())
    first, second = (event("PageEntered", visit, now_ms() - at, site=site) for at, site in ((0, "bank"), (9, "shop")))
    path = f"/server/data/visits/{visit}/events"
    async with isolated.http() as http:
        await send(http, first)
        await asyncio.sleep(0.01)
        await send(http, second)
        await eventually(lambda: _has(http, f"{path}?site=shop", {second["eventID"]}))
        assert await ids(http, f"{path}?site=bank", "eventID") == {first["eventID"]}
        assert await ids(http, path, "eventID") == {first["eventID"]}


async def test_what_another_tracker_sends_is_of_the_site_of_its_key(isolated: Suite) -> None:
    visit, dana = str(uuid.uuid4()), f"dana-{uuid.uuid4()}"
    message = {"type": "page", "anonymousId": str(uuid.uuid4()), "context": {"sessionId": visit}, "messageId": visit}
    identify = message | {"type": "identify", "userId": dana, "messageId": str(uuid.uuid4())}
    async with client_of(isolated, "bank") as bank, client_of(isolated, "shop") as shop:
        for key, sent in (("bank", message), ("shop", identify)):
            answer = await shop.post("/v1/batch", json={"batch": [sent]}, auth=httpx.BasicAuth(key, ""))
            assert answer.status_code == 200, answer.text
        assert (await live_state(bank, visit))["state"] == "ANONYMOUS"
        assert (await live_state(shop, visit))["identityId"] == dana
        unknown = await shop.post("/v1/batch", json={"batch": [message], "writeKey": "other"})
        assert (unknown.status_code, unknown.json()["rejected"][0]["reason"]) == (400, "unknown_site")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mine", ["shop", further("bank")])
async def test_each_site_s_answers_are_those_of_a_suite_that_saw_its_events_alone(
    isolated: Suite, alone: Suite, mine: str
) -> None:
    chance = random.Random(mine)  # noqa: S311 - repeatable, not secret
    people = [f"{name}-{uuid.uuid4().hex[:8]}" for name in ("ann", "bob", "eve")]
    beacons: list[list[Event]] = []
    visits: dict[str, list[Event]] = {}
    for _ in range(VISITS):
        own = random_visit(chance, people, longest=8)
        visit_id = own[0]["visitID"]
        visits[visit_id] = of_site(mine, *own)
        others = [one | {"visitID": visit_id} for one in random_visit(chance, people, longest=8)]
        beacons += [of_site("bank" if mine == "shop" else "shop", *one) for one in scattered(others, chance)]
        beacons += scattered(visits[visit_id], chance)
    chance.shuffle(beacons)
    answers = []
    for suite, sites in ((isolated, {"shop", "bank"}), (alone, {mine})):
        async with client_of(suite, mine) as http:
            sent = [beacon for beacon in beacons if beacon[0]["site"] in sites]
            for beacon in sent:
                await send(http, *beacon)
            for visit_id, events in visits.items():
                expected = {one["eventID"] for one in events}
                await eventually(partial(_has, http, f"/server/data/visits/{visit_id}/events", expected), timeout=30)
            await eventually(partial(_knows, http, visits))
            answers.append({path: await said(http, path) for path in questions(visits, people)})
    assert answers[0] == answers[1]


async def _knows(http: httpx.AsyncClient, visits: dict[str, list[Event]]) -> bool:
    named = {one["data"]["userID"] for events in visits.values() for one in events if "userID" in one["data"]}
    answers = [await http.get(f"/server/data/identities/{person}") for person in named]
    return all(answer.status_code == 200 for answer in answers)


def questions(visits: dict[str, list[Event]], people: list[str]) -> Iterator[str]:
    """What there is to ask about visits and people."""
    everything = "include_events=true&include_events_detail=true&include_pages=true&include_sessions=true"
    for visit_id, events in visits.items():
        yield f"/server/data/visits/{visit_id}?{everything}"
        for name in ("pages", "sessions", "identities", "userAgent", "events?page_size=3"):
            yield f"/server/data/visits/{visit_id}/{name}"
        for name in ("visitor", "explain"):
            yield f"/api/v1/visits/{visit_id}/{name}"
        for one in events[:3]:
            yield f"/server/data/events/{one['eventID']}"
            yield f"/api/v1/receipts/{visit_id}/{one['eventID']}"
    for person in people:
        yield f"/server/data/identities/{person}?include_visits=true&{everything}"
        for name in ("visits", "events", "pages", "sessions"):
            yield f"/server/data/identities/{person}/{name}"
        yield f"/api/v1/identities/{person}/links"


async def said(http: httpx.AsyncClient, path: str) -> tuple[int, str]:
    """Status and body of an answer, but for when events were received: that was another moment in each suite."""
    answer = await http.get(path)
    return answer.status_code, re.sub(r'"(serverTimestamp|receivedTime)":\d+', "", answer.text)


async def test_a_key_of_a_site_writes_about_visits_of_its_site_only(isolated: Suite) -> None:
    visit, other, call = str(uuid.uuid4()), str(uuid.uuid4()), f"call-{uuid.uuid4()}"
    person = f"{uuid.uuid4()}@mail.example"
    async with isolated.http() as http, client_of(isolated, "shop") as shop, client_of(isolated, "bank") as bank:
        await send(http, event("SignIn", visit, now_ms(), person, site="shop"))
        await send(http, event("SignIn", other, now_ms(), "erik", site="bank"))

        async def report(client: httpx.AsyncClient, about: dict[str, str], note: str) -> int:
            answer = await client.post("/api/v1/interactions", json={"interactionId": call, "note": note, **about})
            return answer.status_code

        assert await report(shop, {"visitId": visit}, "of shop") == 200
        assert await report(shop, {"visitId": other}, "forged") == 404
        assert await report(shop, {"contactId": "c"}, "forged") == 400
        # The same id in another group of sites is another interaction.
        assert await report(bank, {"visitId": other}, "of bank") == 200
        assert await report(http, {"identityId": person}, "of all") == 200

        async def complete() -> None:
            of_person = f"/api/v1/interactions?identityId={person}"
            found = (await shop.get(of_person)).json()["interactions"]
            assert {one["note"] for one in found} == {"of shop", "of all"}
            assert (await bank.get(of_person)).status_code == 404
            for client, note in ((shop, "of shop"), (bank, "of bank")):
                assert (await client.get(f"/api/v1/interactions/{call}")).json()["note"] == note
                listed = (await client.get("/api/v1/interactions?page_size=1000")).json()["interactions"]
                assert [one["note"] for one in listed if one["interactionId"] == call] == [note]
            assert (await bank.get(f"/api/v1/visits/{visit}/interactions")).status_code == 404

        await eventually(complete, timeout=20)
