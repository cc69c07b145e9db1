"""Every operation is called with success and with each error; every answer is one that /openapi.json describes."""

import asyncio
import base64
import json
import re
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from footfall_eventlog.keys import KeyScope
from footfall_gateway.commands import keys as keys_command

from tests.service.gateway.conftest import before, running_gateway
from tests.tools.description import Described, Description
from tests.tools.eventually import eventually
from tests.tools.history import append_unfit
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

UNREACHABLE = "127.0.0.1:1"
TARGETS = ("COLLECTOR_TARGET", "IDENTITY_TARGET", "HISTORY_TARGET")
IDS = ("visitId", "identityId", "contactId", "sessionId", "pageId", "eventId", "interactionId", "valueId")
UNKNOWN = dict.fromkeys(IDS, str(uuid.uuid4()))
MALFORMED = dict.fromkeys(IDS, "unknown")
LAST = ("unlinkContact", "deleteContact", "eraseIdentity")
"""Called after all others, in this order, because they remove what the others read."""
SESSIONS = ("getCaller", "beginSession", "endSession", "createSessionLink", "useSessionLink")
"""They need no scope."""
NOT_PROVOKED = {("eraseIdentity", 409)}
"""Beside 500. It needs services without ERASURE_KEY."""
FAR_MS = "253402300799000"
NOTHING = {"from": FAR_MS, "location": "nowhere", "association": "Recognized"}
"""Parameters with which a list is empty; the first that an operation has is enough."""


def pixel(body: Any) -> str:
    """The value of `e` for a body."""
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


def requests_of(visit_id: str, contact_id: str) -> dict[str, dict[str, Any]]:
    """What a successful request has beside path and method, by operation."""
    page = event("PageEntered", visit_id, now_ms(), data={"title": "Loans"})
    link = f"{uuid.uuid4()}.{uuid.uuid4()}.{now_ms()}"
    shop = {"Origin": "https://www.shop.example", "Host": "gate.shop.example"}
    return {
        "postBeacon": {"json": [page]},
        "getPixel": {"params": {"e": pixel(page)}},
        "createVisit": {"json": {"userAgent": "Mozilla/5.0"}},
        "createEvent": {"json": {"eventName": "Call"}},
        "putContact": {"json": {"firstName": "Eve", "lastName": "Lee"}},
        "patchContact": {"json": {"title": "Dr."}},
        "writeContacts": {"json": {"contacts": [{"contactId": "sent"}], "generation": 2}},
        "deleteContacts": {"json": {"contactIds": ["sent"]}},
        "finishContactSync": {"json": {"generation": 2, "maxDeletedPercent": 100, "validateOnly": True}},
        "getContext": {"params": {"contactId": contact_id}},
        "linkContact": {"json": {"contactId": contact_id}},
        "renameIdentity": {"json": {"identityId": f"new-{visit_id}"}},
        "mergeContacts": {"json": {"contactId": f"other-{contact_id}"}},
        "decideGenericValue": {"json": {"allowed": True}},
        "listDoubtfulLinks": {"params": {"doubt": "ambiguous"}},
        "recordInteraction": {"json": {"interactionId": f"call-{visit_id}", "visitId": visit_id}},
        "replayDeadLetters": {"json": {"all": True}},
        "repairDeadLetter": {"json": {"deadLetterId": "unknown", "set": {"category": "loans"}}},
        "useLink": {"params": {"name": link}},
        "useSessionLink": {"json": {"token": "a" * 43}},
        "createVisitCode": {"params": {"visitID": visit_id}},
        "renewCookie": {"params": {"id": str(uuid.uuid4()), "domain": "shop.example"}, "headers": shop},
    }


class Caller:
    """Calls operations at one gateway, and checks each answer."""

    def __init__(self, http: httpx.AsyncClient, description: Description) -> None:
        self._http = http
        self._description = description
        self._requests = requests_of(str(uuid.uuid4()), "unknown")

    async def call(self, operation: Described, ids: Mapping[str, str] = UNKNOWN, **request: Any) -> httpx.Response:
        """Call with the usual request of the operation, and these parts of another one."""
        whole = self._requests.get(operation.name, {}) | request
        if "content" in whole:
            whole.pop("json", None)
        if query := whole.pop("query", ""):
            whole.pop("params", None)
        url = operation.url(ids) + query
        answer = await self._http.request(operation.method, url, **whole)
        return self._description.check(operation.name, answer)

    async def call_until_answered(
        self, operation: Described, ids: Mapping[str, str] = UNKNOWN, **request: Any
    ) -> httpx.Response:
        """Like `call`, again if a service has taken longer than its time limit, as on a busy machine."""
        for _ in range(5):
            answer = await self.call(operation, ids, **request)
            if answer.status_code not in {503, 504}:
                break
            await asyncio.sleep(0.2)
        return answer

    async def call_without_body(self, operation: Described) -> httpx.Response:
        """Announce a body and never send it."""
        host, port = self._http.base_url.host, self._http.base_url.port
        head = [
            f"{operation.method} {operation.url(UNKNOWN)} HTTP/1.1",
            f"Host: {host}",
            f"Authorization: Basic {base64.b64encode(b'tester:secret').decode()}",
            "Content-Type: application/json",
            "Content-Length: 1",
        ]
        reader, writer = await asyncio.open_connection(host, port)
        writer.write("\r\n".join([*head, "", ""]).encode())
        received, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status, *fields = received.decode().split("\r\n")
        headers = dict(field.split(": ", 1) for field in fields)
        answer = httpx.Response(int(status.split()[1]), headers=headers, content=body)
        return self._description.check(operation.name, answer)

    async def is_refused_with_another_method(self, operation: Described) -> None:
        """Check that the path of an operation answers 405 to REPORT, which no operation has, and lists its methods."""
        answer = await self._http.request("REPORT", operation.url(UNKNOWN))
        assert answer.status_code == 405, operation.name
        assert operation.method in answer.headers["Allow"].split(", "), operation.name

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Another connection, on which nothing is sent."""
        _, writer = await asyncio.open_connection(self._http.base_url.host, self._http.base_url.port)
        yield
        writer.close()

    async def all_get(self, status: int, *, but: tuple[str, ...] = (), **request: Any) -> None:
        """Make such requests to all operations that have this status, and check that each is answered so."""
        called = [one for one in self._description if status in one.statuses and one.name not in but]
        ask = self.call if status in {503, 504} else self.call_until_answered
        answers = await asyncio.gather(*(ask(operation, **request) for operation in called))
        others = {one.name: got.text for one, got in zip(called, answers, strict=True) if got.status_code != status}
        assert not others, (status, others)


@asynccontextmanager
async def gateway_before(target: str, description: Description, **settings: Any) -> AsyncIterator[Caller]:
    """A caller of a gateway whose three services have this address."""
    async with running_gateway(**dict.fromkeys(TARGETS, target), **settings) as http:
        yield Caller(http, description)


async def live_messages(http: httpx.AsyncClient, description: Description, site: str, story: Awaitable[None]) -> str:
    """Check one message of each kind in the live stream while the story happens; return the last id."""
    schema, awaited, last_id, name = description.component("LiveMessage"), {"event", "transition"}, "", ""
    async with http.stream("GET", "/api/v1/live", params={"site": site}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        description.seen.add(("watchLive", answer.status_code))
        happening = asyncio.ensure_future(story)
        async for line in answer.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                description.validate(schema["properties"][name], json.loads(value), name)
                awaited.discard(name)
            elif key == "id":
                last_id = value
                if not awaited:
                    break
        await happening
    return last_id


async def make_visit(http: httpx.AsyncClient, visit_id: str, site: str, user: str) -> None:
    """A visit with a page and a sign-in, of a contact."""
    contact: dict[str, Any] = {"emailAddresses": [user], "firstName": "Eve", "lastName": "Lee"}
    for contact_id in (site, f"other-{site}"):
        (await http.put(f"/api/v1/contacts/{contact_id}", json=contact)).raise_for_status()
        contact = {}
    at_ms = now_ms() - 1_000
    events = [
        event("VisitStarted", visit_id, at_ms, site=site, globalVisitID=str(uuid.uuid4())),
        event("SignIn", visit_id, at_ms + 1, user, site=site),
        event("PageEntered", visit_id, at_ms + 2, site=site, data={"title": "Loans"}),
    ]
    agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/142.0.0.0"}
    (await http.post("/beacon", json=events, headers=agent)).raise_for_status()
    interaction = requests_of(visit_id, site)["recordInteraction"]
    (await http.post("/api/v1/interactions", **interaction)).raise_for_status()
    address = {"email": f"office.{user}"}
    many = [event("SignIn", str(uuid.uuid4()), at_ms, f"{n}.{user}", data=address) for n in range(21)]
    (await http.post("/beacon", json=many)).raise_for_status()


async def ids_of(http: httpx.AsyncClient, visit_id: str, contact_id: str, user: str) -> dict[str, str]:
    """The ids of all resources of the visit, once history has them."""

    async def found() -> dict[str, str]:
        lists = []
        for name in ("sessions", "pages", "events"):
            answer = await http.get(f"/server/data/visits/{visit_id}/{name}")
            assert answer.status_code == 200
            lists.append(answer.json())
        sessions, pages, events = lists
        assert len(events) == 3
        interaction_id = f"call-{visit_id}"
        assert (await http.get(f"/api/v1/interactions/{interaction_id}")).status_code == 200
        values = (await http.get("/api/v1/generic-values")).json()["values"]
        assert values
        return {
            "visitId": visit_id,
            "identityId": user,
            "contactId": contact_id,
            "sessionId": sessions[0]["sessionId"],
            "pageId": pages[0]["pageId"],
            "eventId": events[0]["eventID"],
            "interactionId": interaction_id,
            "valueId": values[0]["valueId"],
        }

    return await eventually(found)


async def a_dead_letter(suite: Suite, http: httpx.AsyncClient) -> str:
    letter_id = await append_unfit(suite.redis_url, str(uuid.uuid4()))

    async def is_listed() -> bool:
        letters = (await http.get("/api/v1/dead-letters")).json()["deadLetters"]
        return letter_id in [one["deadLetterId"] for one in letters]

    await eventually(is_listed)
    return letter_id


async def call_the_whole_suite(suite: Suite, description: Description) -> None:
    """Every operation with success, and the errors that need services."""
    site, visit_id = f"site-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    user = f"eve.{site}@shop.example"
    async with suite.http() as http:
        last_id = await live_messages(http, description, site, make_visit(http, visit_id, site, user))
        ids = await ids_of(http, visit_id, site, user)
        caller = Caller(http, description)
        order = sorted(description, key=lambda one: (LAST.index(one.name) + 1) if one.name in LAST else 0)
        for operation in order:
            if operation.name in {"watchLive", *LAST}:
                continue
            request = requests_of(visit_id, site).get(operation.name, {})
            if operation.name == "useSessionLink":
                request = {"json": {"token": (await caller.call(description["createSessionLink"])).json()["token"]}}
            if operation.name == "repairDeadLetter":
                request = {"json": {"deadLetterId": await a_dead_letter(suite, http), "drop": ["transition"]}}
            included = dict.fromkeys((name for name in operation.parameters if name.startswith("include_")), "true")
            answer = await caller.call_until_answered(operation, ids, **({"params": included} | request))
            assert answer.is_success, (operation.name, answer.text)
            empty = next((name for name in NOTHING if name in operation.parameters), None)
            if 204 in operation.statuses and 200 in operation.statuses and empty:
                assert (await caller.call(operation, ids, params={empty: NOTHING[empty]})).status_code == 204
        good, bad = event("PageEntered", visit_id, now_ms()), {"eventName": "x"}
        assert (await caller.call(description["postBeacon"], json=[good, bad])).status_code == 200
        await caller.call(description["getPixel"], params={"e": pixel([good, bad])})
        await caller.all_get(404, but=("listInteractions",), ids=MALFORMED)
        unknown = {"identityId": UNKNOWN["identityId"]}
        assert (await caller.call(description["listInteractions"], params=unknown)).status_code == 404
        expired = re.sub(r"^\d+-\d+", "9" * 13 + "-0", last_id)
        assert (await caller.call(description["watchLive"], headers={"Last-Event-ID": expired})).status_code == 409
        for name in ("putContact", "patchContact", "deleteContact"):
            assert (await caller.call(description[name], ids, headers={"If-Match": '"0"'})).status_code == 412
        for name, kind, other in (
            ("renameIdentity", "identityId", f"new-{visit_id}"),
            ("mergeContacts", "contactId", f"other-{site}"),
        ):
            assert (await caller.call(description[name], ids, json={kind: other})).is_success
            circle = await caller.call(description[name], ids | {kind: other}, json={kind: ids[kind]})
            assert circle.status_code == 409
        for name in ("undoRename", "undoMerge"):
            assert (await caller.call(description[name])).status_code == 409, name
            assert (await caller.call(description[name], ids)).is_success, name
        earlier = {"contacts": [], "generation": 1}
        assert (await caller.call(description["writeContacts"], json=earlier)).status_code == 409
        assert (await caller.call(description["finishContactSync"], json={"generation": 3})).status_code == 409
        for name in LAST:
            assert (await caller.call(description[name], ids)).is_success, name
        assert (await caller.call(description["unlinkContact"])).status_code == 409
    async with running_gateway(**before(suite) | {"HISTORY_TARGET": UNREACHABLE}) as http:
        answer = await Caller(http, description).call(description["eraseIdentity"], ids)
        assert (answer.status_code, answer.json()["history"]) == (202, "pending")


async def send_faulty_requests(description: Description, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests that the gateway refuses by itself."""
    tokens = {}
    for scope in (KeyScope.INGEST, KeyScope.ERASE):
        assert keys_command.run(["create", "desk", "--scope", scope], file) == 0
        tokens[scope] = {"Authorization": f"Bearer {capsys.readouterr().out.split()[-1]}"}
    faults: list[tuple[int, dict[str, Any]]] = [
        (400, {"query": "?x=%FF", "content": b"{"}),
        (414, {"query": "?x=" + "a" * 17_000}),
        (415, {"headers": {"Content-Type": "text/html"}, "content": b"{}"}),
        (431, {"headers": {"x": "a" * 66_000}}),
    ]
    json_type = {"Content-Type": "application/json"}
    async with gateway_before(UNREACHABLE, description, keys_file=file) as caller:
        for status, request in faults:
            request.setdefault("headers", json_type)
            await caller.all_get(status, but=("getPixel",) if status == 414 else (), **request)
        for operation in description:
            await caller.is_refused_with_another_method(operation)
        await caller.all_get(401, auth=None, headers={})
        await caller.all_get(413, but=("getPixel",), headers=json_type, content=b" " * (1024 * 1024 + 1))
        for query in (pixel([{}] * 1_001), "a" * 65_000):
            await caller.call(description["getPixel"], params={"e": query})
        ingesting = ("createVisit", "createEvent", "replayDeadLetters", "repairDeadLetter")
        await caller.all_get(403, but=(*ingesting, *SESSIONS), auth=None, headers=tokens[KeyScope.INGEST])
        for name in ("beginSession", "endSession", "createSessionLink"):
            elsewhere = await caller.call(description[name], headers={"Origin": "https://elsewhere.example"})
            assert elsewhere.status_code == 403, name
        for name in ingesting:
            await caller.call(description[name], auth=None, headers=tokens[KeyScope.ERASE])

    async with gateway_before(UNREACHABLE, description, body_timeout_ms=20) as caller:
        for operation in description:
            if operation.has_body:
                assert (await caller.call_without_body(operation)).status_code == 408


async def reach_limits(description: Description) -> None:
    """Requests beyond the limits of an address, and of connections."""
    limits = {"max_failed_logins_per_minute": 1, "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS": 1}
    async with gateway_before(UNREACHABLE, description, rate_limit_loopback=True, **limits) as caller:
        two = [event("PageEntered", str(uuid.uuid4()), now_ms())] * 2
        await caller.call(description["postBeacon"], json=two)
        assert (await caller.call(description["useLink"])).status_code == 429
        assert (await caller.call(description["getVisit"], auth=("tester", "wrong"))).status_code == 401
        await caller.all_get(429, auth=("tester", "wrong"))
    async with gateway_before(UNREACHABLE, description, max_connections_per_address=1) as caller, caller.connected():
        await caller.all_get(503)
        assert (await caller.call(description["getHealth"])).status_code == 200


async def call_without_services(description: Description) -> None:
    """Requests to a gateway whose services are unreachable, of an earlier version, or silent."""
    async with gateway_before(UNREACHABLE, description) as caller:
        without_services = ("getMetrics", "getSystemHealth", "renewCookie", "useLink", *SESSIONS)
        await caller.all_get(503, but=without_services)
        assert (await caller.call(description["useLink"])).status_code == 409
    older = grpc.aio.server()
    port = older.add_insecure_port("127.0.0.1:0")
    await older.start()
    async with gateway_before(f"127.0.0.1:{port}", description) as caller:
        await caller.all_get(501)
    await older.stop(None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = "{}:{}".format(*silent.getsockname())
        async with gateway_before(target, description, query_timeout_ms=20, live_query_timeout_ms=20) as caller:
            await caller.all_get(504)


async def test_every_operation_has_all_statuses_that_are_described_and_no_others(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with suite.blocking_http() as http:
        description = Description(http.get("/openapi.json").json())
    await call_the_whole_suite(suite, description)
    await send_faulty_requests(description, tmp_path / "keys.json", capsys)
    await reach_limits(description)
    await call_without_services(description)
    assert description.unseen() - {(one.name, 500) for one in description} == NOT_PROVOKED
