"""POST of visits and events: the rules and the durability of a beacon, and the created resource as response."""

import gzip
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from footfall_timeline import page_id, user_agent_id

from tests.service.gateway.conftest import ScriptedCollector, before, running_gateway
from tests.tools.suite import Suite
from tests.tools.visits import now_ms

JSON = {"Content-Type": "application/json ; charset=UTF-8"}


@pytest.fixture(scope="module")
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


async def test_creating_a_visit_returns_it_as_reading_does(http: httpx.AsyncClient) -> None:
    device, started = str(uuid.uuid4()), now_ms() - 5_000
    answer = await http.post(
        "/server/data/visits", json={"globalVisitID": device, "userAgent": "Kiosk/1", "startDate": started}
    )
    assert answer.status_code == 200, answer.text
    visit = answer.json()
    assert list(visit)[6:] == [
        "visitId",
        "startDate",
        "endDate",
        "activeSessionId",
        "globalVisitID",
        "userAgentId",
    ]
    assert (visit["globalVisitID"], visit["startDate"], visit["endDate"]) == (device, started, 0)
    assert visit["userAgentId"] == user_agent_id(visit["visitId"], "Kiosk/1")
    assert (await http.get(f"/server/data/visits/{visit['visitId']}")).content == answer.content
    [event] = (await http.get(f"/backend/data/visits/{visit['visitId']}/events")).json()
    assert (event["eventName"], event["timestamp"]) == ("VisitStarted", started)


@pytest.mark.parametrize("days", [2, 20, 4_000])
async def test_a_visit_may_have_begun_long_ago(http: httpx.AsyncClient, days: int) -> None:
    started = now_ms() - days * 86_400_000
    answer = await http.post("/server/data/visits", json={"startDate": started})
    assert (answer.status_code, answer.json()["startDate"]) == (200, started), answer.text
    assert (await http.get(f"/server/data/visits/{answer.json()['visitId']}")).json()["startDate"] == started


async def test_an_event_of_an_unknown_visit_creates_the_visit(http: httpx.AsyncClient) -> None:
    visit_id, browser_page = str(uuid.uuid4()), "8D116ECE173847D9BD9C172411E20B8F"
    before = now_ms()
    answer = await http.post(
        f"/server/data/visits/{visit_id.replace('-', '').upper()}/events",
        json={"eventName": "AddToCart", "visitID": str(uuid.uuid4()), "pageID": browser_page, "data": {"sku": "A"}},
    )
    assert answer.status_code == 200, answer.text
    event = answer.json()
    assert (event["visitID"], event["eventType"], event["data"]) == (visit_id, "BUSINESS", {"sku": "A"})
    assert before <= event["timestamp"] <= now_ms()
    assert uuid.UUID(event["eventID"]).version == 1
    assert event["pageID"] == page_id(visit_id, browser_page)
    assert (await http.get(f"/server/data/events/{event['eventID']}")).content == answer.content
    assert (await http.get(f"/server/data/visits/{visit_id}")).status_code == 200


@pytest.mark.parametrize("key", ["userID", "userid", "username", "email"])
async def test_a_posted_sign_in_identifies_the_visitor(http: httpx.AsyncClient, key: str) -> None:
    visit_id, person = str(uuid.uuid4()), f"dana-{uuid.uuid4()}"
    answer = await http.post(
        f"/server/data/visits/{visit_id}/events", json={"eventName": "SignIn", "data": {key: person}}
    )
    assert answer.status_code == 200
    visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
    assert (visitor["state"], visitor["identityId"]) == ("AUTHENTICATED", person)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("[1, {}]", b'{"value":[1, {}]}'),
        ('"a text"', b'{"value":"a text"}'),
        ("null", b"{}"),
        ('[{"password":"hunter2"}]', b'{"value":[{"password":"***"}]}'),
    ],
)
async def test_data_other_than_an_object_are_stored_as_value_without_secrets(
    http: httpx.AsyncClient, sent: str, kept: bytes
) -> None:
    path = f"/server/data/visits/{uuid.uuid4()}/events"
    answer = await http.post(path, content=f'{{"eventName":"A","data":{sent}}}', headers=JSON)
    assert answer.status_code == 200, answer.text
    assert b'"data":' + kept in answer.content
    assert b'"data":' + kept in (await http.get(path)).content


async def test_a_repeated_event_returns_the_one_stored_first(http: httpx.AsyncClient) -> None:
    path, event_id = f"/server/data/visits/{uuid.uuid4()}/events", str(uuid.uuid4())
    first = await http.post(path, json={"eventName": "A", "eventID": event_id, "timestamp": now_ms()})
    again = await http.post(path, json={"eventName": "B", "eventID": event_id, "timestamp": now_ms()})
    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert len((await http.get(path)).json()) == 1


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/visits", "[]", "body: expected object, got array"),
        ("/visits", '{"startDate":"now"}', "startDate: expected number, got str"),
        ("/visits", '{"globalVisitID":"x"}', "globalVisitID: "),
        ("/visits", '{"startDate":1700000000000,"visitId":"x"}', "visitId: "),
        ("/visits", '{"startDate":0}', "startDate: expected int >= 1"),
        ("/visits/{visit}/events", "{", "the body is not JSON"),
        ("/visits/{visit}/events", "[]", "events: must not be empty"),
        ("/visits/{visit}/events", "[{},{}]", "body: must be one event"),
        ("/visits/{visit}/events", "{}", "eventName: "),
        ("/visits/{visit}/events", '{"eventName":"A","timestamp":"x"}', "timestamp: expected number, got str"),
        ("/visits/{visit}/events", '{"eventName":"SignIn"}', "data.userID: "),
    ],
)
async def test_a_body_that_breaks_a_rule_is_400_and_the_rule_is_named(
    http: httpx.AsyncClient, path: str, body: str, words: str
) -> None:
    answer = await http.post("/server/data" + path.format(visit=uuid.uuid4()), content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == 400
    assert answer.json()["message"].startswith(words)


@pytest.mark.parametrize(
    ("path", "key", "answered"),
    [("/visits", "startDate", "startDate"), ("/visits/{visit}/events", "timestamp", "timestamp")],
)
@pytest.mark.parametrize("is_history_there", [True, False])
async def test_fractional_times_and_byte_order_marks_are_accepted(
    suite: Suite, path: str, key: str, answered: str, is_history_there: bool
) -> None:
    unavailable = {} if is_history_there else {"HISTORY_TARGET": "127.0.0.1:1"}
    now = now_ms()
    body = b'\xef\xbb\xbf{"eventName":"A","%b":%d.25}' % (key.encode(), now)
    async with running_gateway(**before(suite) | unavailable) as http:
        answer = await http.post("/server/data" + path.format(visit=uuid.uuid4()), content=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    assert f'"{answered}":{now},' in answer.text


async def test_a_compressed_body_is_refused_with_the_name_of_the_header(http: httpx.AsyncClient) -> None:
    body, encoded = gzip.compress(b"{}"), JSON | {"Content-Encoding": "gzip"}
    answer = await http.post("/server/data/visits", content=body, headers=encoded)
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert answer.json()["message"].startswith("Content-Encoding: ")


async def test_an_event_of_no_visit_is_404(http: httpx.AsyncClient) -> None:
    assert (await http.post("/server/data/visits/x/events", json={"eventName": "A"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [("/visits", {"userAgent": "Kiosk/1"}), ("/visits/{visit}/events", {"eventName": "AddToCart", "data": {"n": 1}})],
)
async def test_while_history_is_unavailable_the_response_is_what_was_sent(
    scripted_collector: ScriptedCollector, path: str, body: dict[str, Any]
) -> None:
    visit_id = str(uuid.uuid4())
    async with running_gateway(COLLECTOR_TARGET=scripted_collector.target, HISTORY_TARGET="127.0.0.1:1") as http:
        answer = await http.post("/server/data" + path.format(visit=visit_id), json=body)
    assert answer.status_code == 200
    [batch] = scripted_collector.batches
    [event] = batch.events
    if path == "/visits":
        assert answer.json()["visitId"] == event.visit_id
        assert batch.contexts[0].user_agent == "Kiosk/1"
    else:
        assert (answer.json()["eventID"], answer.json()["visitID"]) == (event.event_id, visit_id)
        assert answer.json()["data"] == {"n": 1}
