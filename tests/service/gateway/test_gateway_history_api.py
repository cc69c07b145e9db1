"""Every read operation of the History API over the running suite: order of keys, compact JSON, documented statuses."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from footfall.event.v1.event_pb2 import ASSURANCE_CLAIMED, TRANSITION_KIND_SIGN_IN, Event
from footfall.identity.v1.identity_service_pb2 import ImportedVisit, ImportIdentitiesRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_timeline import page_id, session_id, user_agent_id

from tests.tools.eventually import eventually
from tests.tools.suite import MUTUAL_TLS, Suite
from tests.tools.visits import new_id, now_ms

UNKNOWN = "00000000-0000-4000-8000-000000000000"
AGENT = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"

KEYS = {
    "event": "eventID category eventType eventName serverTimestamp browserPageID globalVisitID url timestamp visitID "
    "pageID data languageCode",
    "visit": "eventIds events pageIds pages sessionIds sessions visitId startDate endDate activeSessionId "
    "globalVisitID userAgentId",
    "identity": "eventIds events pageIds pages sessionIds sessions identityId name location entityInCS visitScope "
    "visitIds visits",
    "session": "eventIds events pageIds pages sessionId startDate endDate duration identityId",
    "page": "eventIds events pageId browserPageID visitId identityId url title category startDate endDate duration",
}


@dataclass(frozen=True)
class Story:
    """A visit in which a visitor views a page, signs in, views another page and signs out."""

    visit: str
    device: str
    person: str
    started: int
    ids: dict[str, str]
    pages: tuple[str, str]

    @property
    def session(self) -> str:
        return session_id(self.visit, self.ids["SignIn"])

    @property
    def page_ids(self) -> tuple[str, str]:
        return page_id(self.visit, self.pages[0]), page_id(self.visit, self.pages[1])


@pytest.fixture(scope="module")
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


@pytest.fixture(scope="module")
async def story(http: httpx.AsyncClient) -> Story:
    """The visit, stored."""
    ids = {name: str(uuid.uuid4()) for name in ("VisitStarted", "In1", "Click", "SignIn", "Out1", "In2", "SignOut")}
    told = Story(
        visit=str(uuid.uuid4()),
        device=str(uuid.uuid4()),
        person=f"çelik/{uuid.uuid4()}#7 100% @home",
        started=now_ms() - 60_000,
        ids=ids,
        pages=(new_id(), new_id()),
    )

    def event(key: str, name: str, second: float, page: int, **more: Any) -> dict[str, Any]:
        return {
            "eventName": name,
            "eventID": ids[key].replace("-", "").upper(),
            "pageID": told.pages[page],
            "timestamp": told.started + int(second * 1000),
            "category": "loans;cars" if page else "",
            "url": f"https://shop.example/{page}",
            "languageCode": "en-US",
            "visitID": told.visit,
            "globalVisitID": told.device,
        } | more

    events = [
        event("VisitStarted", "VisitStarted", 0, 0),
        event("In1", "PageEntered", 1, 0, data={"title": "One"}),
        event("Click", "AddToCart", 2, 0, data={"sku": "A-1", "price": 12.50}),
        event("SignIn", "SignIn", 3, 0, data={"userID": told.person}),
        event("Out1", "PageExited", 4.9, 0),
        event("In2", "PageEntered", 5, 1, data={"title": "Two"}),
        event("SignOut", "SignOut", 10.999, 1),
    ]
    answer = await http.post("/beacon", json={"sentAt": now_ms(), "events": events}, headers={"User-Agent": AGENT})
    assert answer.status_code == 204, answer.text

    async def is_stored() -> bool:
        events, identity = [
            await http.get(f"/server/data/{path}")
            for path in (f"visits/{told.visit}/events", f"identities/{quote(told.person, safe='')}")
        ]
        return events.status_code == 200 and len(events.json()) == len(ids) and identity.status_code == 200

    await eventually(is_stored)
    return told


async def resource(http: httpx.AsyncClient, kind: str, path: str, **query: Any) -> Any:
    """One resource or a list of them, checked for form."""
    answer = await http.get(f"/server/data{path}", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert (await http.get(f"/backend/data{path}", params=query)).content == answer.content
    body = answer.json()
    assert answer.content == json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    for one in body if isinstance(body, list) else [body]:
        assert " ".join(one) == KEYS[kind]
    return body


def escaped(text: str) -> str:
    return quote(text, safe="")


async def test_a_visit(http: httpx.AsyncClient, story: Story) -> None:
    assert await resource(http, "visit", f"/visits/{story.visit.upper()}") == {
        **dict.fromkeys(("eventIds", "events", "pageIds", "pages", "sessionIds", "sessions")),
        "visitId": story.visit,
        "startDate": story.started,
        "endDate": 0,
        "activeSessionId": "00000000-0000-1000-8000-000000000000",
        "globalVisitID": story.device,
        "userAgentId": user_agent_id(story.visit, AGENT),
    }


async def test_an_identity_by_an_id_with_every_awkward_character(http: httpx.AsyncClient, story: Story) -> None:
    assert await resource(http, "identity", f"/identities/{escaped(story.person)}") == {
        **dict.fromkeys(("eventIds", "events", "pageIds", "pages", "sessionIds", "sessions")),
        "identityId": story.person,
        "name": None,
        "location": None,
        "entityInCS": None,
        "visitScope": "Recognized",
        "visitIds": None,
        "visits": None,
    }


async def test_an_event(http: httpx.AsyncClient, story: Story) -> None:
    found = await resource(http, "event", f"/events/{story.ids['Click']}")
    assert abs(found.pop("serverTimestamp") - now_ms()) < 60_000
    assert found == {
        "eventID": story.ids["Click"],
        "category": "",
        "eventType": "BUSINESS",
        "eventName": "AddToCart",
        "browserPageID": story.pages[0],
        "globalVisitID": story.device,
        "url": "https://shop.example/0",
        "timestamp": story.started + 2000,
        "visitID": story.visit,
        "pageID": story.page_ids[0],
        "data": {"sku": "A-1", "price": 12.5},
        "languageCode": "en-US",
    }


async def test_a_parsed_user_agent(http: httpx.AsyncClient, story: Story) -> None:
    answer = await http.get(f"/server/data/visits/{story.visit}/userAgent")
    assert answer.json() == {
        "userAgentId": user_agent_id(story.visit, AGENT),
        "userAgent": AGENT,
        "family": "Firefox",
        "version": "128.0",
        "os": "Linux",
        "osVersion": "",
        "device": "",
        "bot": False,
    }


async def test_a_session(http: httpx.AsyncClient, story: Story) -> None:
    expected = {
        **dict.fromkeys(("eventIds", "events", "pageIds", "pages")),
        "sessionId": story.session,
        "startDate": story.started + 3000,
        "endDate": story.started + 10_999,
        "duration": 7,
        "identityId": story.person,
    }
    assert await resource(http, "session", f"/sessions/{story.session}") == expected
    assert await resource(http, "session", f"/visits/{story.visit}/sessions") == [expected]
    assert await resource(http, "session", f"/identities/{escaped(story.person)}/sessions") == [expected]


async def test_a_page(http: httpx.AsyncClient, story: Story) -> None:
    first = {
        **dict.fromkeys(("eventIds", "events")),
        "pageId": story.page_ids[0],
        "browserPageID": story.pages[0],
        "visitId": story.visit,
        "identityId": None,
        "url": "https://shop.example/0",
        "title": "One",
        "category": "",
        "startDate": story.started + 1000,
        "endDate": story.started + 4900,
        "duration": 3,
    }
    second = first | {
        "pageId": story.page_ids[1],
        "browserPageID": story.pages[1],
        "identityId": story.person,
        "url": "https://shop.example/1",
        "title": "Two",
        "category": "loans;cars",
        "startDate": story.started + 5000,
        "endDate": 0,
        "duration": 0,
    }
    assert await resource(http, "page", f"/pages/{story.page_ids[0]}") == first
    assert await resource(http, "page", f"/visits/{story.visit}/pages") == [first, second]
    assert await resource(http, "page", f"/identities/{escaped(story.person)}/pages") == [second]
    assert await resource(http, "page", f"/sessions/{story.session}/pages") == [second]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/visits/{visit}/events", "VisitStarted In1 Click SignIn Out1 In2 SignOut"),
        ("/identities/{person}/events", "SignIn Out1 In2 SignOut"),
        ("/sessions/{session}/events", "SignIn Out1 In2 SignOut"),
        ("/pages/{page}/events", "VisitStarted In1 Click SignIn Out1"),
        ("/visits/{visit}/events?eventName=AddToCart", "Click"),
        ("/visits/{visit}/events?eventType=BUSINESS", "Click"),
        ("/visits/{visit}/events?eventType=SYSTEM&category=cars", "In2 SignOut"),
        ("/visits/{visit}/events?category=all%20categories", "In2 SignOut"),
        ("/visits/{visit}/events?category=car", ""),
        ("/visits/{visit}/events?url=https://shop.example/1", "In2 SignOut"),
        ("/visits/{visit}/events?url=https://shop.example/", ""),
        ("/visits/{visit}/events?browserPageID={browserPage}", "In2 SignOut"),
        ("/identities/{person}/events?globalVisitID={device}", "SignIn Out1 In2 SignOut"),
        ("/identities/{person}/events?globalVisitID=" + UNKNOWN, ""),
        ("/visits/{visit}/events?age=3600", "VisitStarted In1 Click SignIn Out1 In2 SignOut"),
        ("/visits/{visit}/events?from={second4}", "Out1 In2 SignOut"),
        ("/visits/{visit}/events?to={second4}", "VisitStarted In1 Click SignIn"),
        ("/visits/{visit}/events?site=default&unknown=ignored", "VisitStarted In1 Click SignIn Out1 In2 SignOut"),
        ("/visits/{visit}/events?site=elsewhere", ""),
    ],
)
async def test_events_by_parent_and_filter(http: httpx.AsyncClient, story: Story, path: str, keys: str) -> None:
    answer = await http.get("/server/data" + filled(path, story))
    assert answer.status_code == (200 if keys else 204), answer.text
    names = {event_id: key for key, event_id in story.ids.items()}
    assert " ".join(names[event["eventID"]] for event in (answer.json() if keys else [])) == keys


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/identities/{person}/visits", True),
        ("/identities/{person}/visits?globalVisitID={device}", True),
        ("/identities/{person}/visits?userAgent={agent}", True),
        ("/identities/{person}/visits?age=3600&from={second0}", True),
        ("/identities/{person}/visits?globalVisitID=" + UNKNOWN, False),
        ("/identities/{person}/visits?userAgent=Firefox", False),
        ("/identities/{person}/visits?to={second0}", False),
        ("/visits/{visit}/pages?title=Two&category=loans&url=https://shop.example/1", True),
        ("/visits/{visit}/pages?title=Tw", False),
        ("/visits/{visit}/sessions?identityId={person}", True),
        ("/visits/{visit}/sessions?identityId=other", False),
        ("/visits/{visit}/identities", True),
        ("/visits/{visit}/identities?association=Recognized", True),
        ("/visits/{visit}/identities?association=Authenticated", False),
    ],
)
async def test_other_filters(http: httpx.AsyncClient, story: Story, path: str, found: bool) -> None:
    answer = await http.get("/server/data" + filled(path, story))
    assert answer.status_code == (200 if found else 204), answer.text
    assert len(answer.json() if found else []) == found


async def test_ids_and_whole_objects_can_be_included(http: httpx.AsyncClient, story: Story) -> None:
    everything = {f"include_{name}": "true" for name in ("visits", "pages", "sessions", "events")}
    person = f"/identities/{escaped(story.person)}"
    of_person = {
        "visitIds": [story.visit],
        "pageIds": [story.page_ids[1]],
        "sessionIds": [story.session],
        "eventIds": [story.ids[key] for key in ("SignIn", "Out1", "In2", "SignOut")],
    }
    known = await resource(http, "identity", person, **everything)
    assert {key: known[key] for key in of_person} == of_person
    assert (known["visits"], known["pages"], known["sessions"], known["events"]) == (None, None, None, None)

    with_detail = everything | {f"{name}_detail": "true" for name in everything}
    known = await resource(http, "identity", person, **with_detail)
    assert {key: known[key] for key in of_person} == of_person
    assert known["visits"] == await resource(http, "visit", f"{person}/visits")
    assert known["pages"] == await resource(http, "page", f"{person}/pages")
    assert known["sessions"] == await resource(http, "session", f"{person}/sessions")
    assert known["events"] == await resource(http, "event", f"{person}/events")

    [listed] = await resource(http, "identity", f"/visits/{story.visit}/identities", **with_detail)
    assert listed == known


@pytest.mark.parametrize(
    ("path", "kind", "included"),
    [
        ("/visits/{visit}", "visit", {"pages": 2, "sessions": 1, "events": 7}),
        ("/identities/{person}/visits", "visit", {"pages": 2, "sessions": 1, "events": 7}),
        ("/sessions/{session}", "session", {"pages": 1, "events": 4}),
        ("/visits/{visit}/sessions", "session", {"pages": 1, "events": 4}),
        ("/identities/{person}/sessions", "session", {"pages": 1, "events": 4}),
        ("/pages/{page}", "page", {"events": 5}),
        ("/visits/{visit}/pages?page_size=1", "page", {"events": 5}),
    ],
)
async def test_every_resource_that_may_include_others_does(
    http: httpx.AsyncClient, story: Story, path: str, kind: str, included: dict[str, int]
) -> None:
    path, _, query = filled(path, story).partition("?")
    asked = dict(part.split("=") for part in query.split("&") if part)
    for name in included:
        asked |= {f"include_{name}": "true", f"include_{name}_detail": "true"}
    found = await resource(http, kind, path, **asked)
    one = found[0] if isinstance(found, list) else found
    for name, count in included.items():
        assert len(one[f"{name[:-1]}Ids"]) == len(one[name]) == count
        assert all(" ".join(inner) == KEYS[name[:-1]] for inner in one[name])


async def test_identities_by_user_agent_and_location(http: httpx.AsyncClient, story: Story) -> None:
    agent, place = f"Agent {uuid.uuid4()}", f"Town {uuid.uuid4()}"
    for person in (f"a-{agent}", f"b-{agent}"):
        sign_in = {
            "eventName": "SignIn",
            "eventID": new_id(),
            "visitID": str(uuid.uuid4()),
            "timestamp": now_ms(),
            "data": {"userID": person, "location": place if person.startswith("b") else "elsewhere"},
        }
        assert (await http.post("/beacon", json=sign_in, headers={"User-Agent": agent})).status_code == 204

    async def ids(**query: str) -> list[str]:
        answer = await http.get("/server/data/identities", params=query)
        return [known["identityId"] for known in answer.json()] if answer.status_code == 200 else []

    async def are_listed() -> None:
        assert await ids(userAgent=agent) == [f"a-{agent}", f"b-{agent}"]
        assert await ids(userAgent=agent, location=place) == [f"b-{agent}"]
        assert await ids(location=place) == [f"b-{agent}"]

    await eventually(are_listed)
    assert await ids(userAgent=agent[:-1]) == []


@pytest.mark.parametrize(
    "path",
    [
        "/visits/{unknown}",
        "/visits/not-a-uuid",
        "/visits/{unknown}/events",
        "/visits/{unknown}/pages",
        "/visits/{unknown}/sessions",
        "/visits/{unknown}/identities",
        "/identities/nobody%2Fat%23all",
        "/identities/nobody/visits",
        "/identities/nobody/events",
        "/sessions/{unknown}",
        "/sessions/{unknown}/events",
        "/sessions/x/pages",
        "/pages/{unknown}",
        "/pages/{unknown}/events",
        "/events/{unknown}",
        "/nothing",
    ],
)
async def test_a_missing_resource_is_404_in_the_style_of_the_api(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/server/data{path.format(unknown=UNKNOWN)}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert list(answer.json()) == ["code", "message"]
    assert answer.json()["code"] == 404


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/visits/{visit}/events?age=old", "age"),
        ("/visits/{visit}/events?age=0", "age"),
        ("/visits/{visit}/events?eventType=Business", "eventType"),
        ("/visits/{visit}/events?page_size=0", "page_size"),
        ("/visits/{visit}/events?page_size=1001", "page_size"),
        ("/visits/{visit}/events?page_start=x", "page_start"),
        ("/visits/{visit}/events?from=-1", "from"),
        ("/visits/{visit}/identities?association=Anonymous", "association"),
        ("/visits/{visit}?include_events=yes", "include_events"),
        ("/visits/{visit}?include_events_detail=true", "include_events_detail"),
        ("/identities?page_start=x", "page_start"),
        ("/visits/{visit}/identities?page_start=x", "page_start"),
    ],
)
async def test_a_bad_parameter_is_named(http: httpx.AsyncClient, story: Story, path: str, parameter: str) -> None:
    answer = await http.get("/server/data" + filled(path, story))
    assert answer.status_code == 400
    assert answer.json()["code"] == 400
    assert answer.json()["message"].startswith(f"{parameter}: ")


def filled(path: str, story: Story) -> str:
    return path.format(
        visit=story.visit,
        person=escaped(story.person),
        session=story.session,
        page=story.page_ids[0],
        browserPage=story.pages[1],
        device=story.device,
        agent=escaped(AGENT),
        second0=story.started,
        second4=story.started + 4000,
        unknown=UNKNOWN,
    )


@pytest.mark.skipif(MUTUAL_TLS, reason="only history may import identities")
async def test_collections_of_an_identity_without_visits_are_empty(suite: Suite, http: httpx.AsyncClient) -> None:
    person = f"imported/{uuid.uuid4()}"
    sign_in = Event(
        event_id=str(uuid.uuid4()),
        event_name="SignIn",
        visit_id=str(uuid.uuid4()),
        event_time_ms=now_ms(),
        transition=TRANSITION_KIND_SIGN_IN,
        identity_id=person,
        assurance=ASSURANCE_CLAIMED,
    )
    visit = ImportedVisit(visit_id=sign_in.visit_id, revision=1, identity_ids=[person])
    async with suite.channel("identity") as channel:
        await IdentityServiceStub(channel).ImportIdentities(ImportIdentitiesRequest(events=[sign_in], visits=[visit]))
    for name in ("visits", "pages", "sessions", "events"):
        assert (await http.get(f"/server/data/identities/{quote(person, safe='')}/{name}")).status_code == 204
        assert (await http.get(f"/server/data/identities/{uuid.uuid4()}/{name}")).status_code == 404
