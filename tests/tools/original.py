"""An old server: answers the History API as Genesys Web Engagement (GWE) 8.5 does, as far as that is documented."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.tools.eventually import eventually
from tests.tools.ports import free_ports

Json = dict[str, Any]
USER, PASSWORD = "agent", "påss:word"


def server_id() -> str:
    """An id as the original's server makes them."""
    return str(uuid.uuid1())


class OldVisit:
    """A visit to the original: what happened is (event name, milliseconds after its start, data)."""

    def __init__(self, started_ms: int, happened: Sequence[tuple[str, int, Json]], **identities: str) -> None:
        """`identities`: whom it names, each with the scope."""
        self.id, self.started_ms, self.identities = str(uuid.uuid4()), started_ms, identities
        page_id, browser_page_id = server_id(), uuid.uuid4().hex.upper()
        device = str(uuid.uuid4())
        self.resource = {
            **dict.fromkeys(["eventIds", "events", "pageIds", "pages", "sessionIds", "sessions"]),
            "visitId": self.id,
            "startDate": started_ms,
            "endDate": 0,
            "activeSessionId": "00000000-0000-1000-8000-000000000000",
            "globalVisitID": device,
            "userAgentId": server_id(),
        }
        system = {"VisitStarted", "PageEntered", "PageExited", "SignIn", "SignOut", "UserInfo"}
        self.events = [
            {
                "eventID": server_id(),
                "category": "",
                "eventType": "SYSTEM" if name in system else "BUSINESS",
                "eventName": name,
                "serverTimestamp": started_ms + after_ms + 421,
                "browserPageID": browser_page_id,
                "globalVisitID": device,
                "url": "https://shop.example.com/login",
                "timestamp": started_ms + after_ms,
                "visitID": self.id,
                "pageID": page_id,
                "data": data,
            }
            for name, after_ms, data in happened
        ]


class Original:
    """The server. `failures`: so many of the next answers are 503. `cursors`: the parameter that takes them back."""

    def __init__(self, visits: Sequence[OldVisit]) -> None:
        self.visits = visits
        self.failures = 0
        self.cursors = "page_start"
        self.url = ""
        self._authorization = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    def _listed(self, items: list[Any]) -> Response:
        return JSONResponse(items) if items else Response(status_code=204)

    def _identities(self, visits: Sequence[OldVisit]) -> list[Json]:
        scopes = {name: scope for visit in visits for name, scope in visit.identities.items()}
        return [{"identityId": name, "name": None, "visitScope": scope} for name, scope in scopes.items()]

    def _answer(self, parts: list[str], query: Any) -> Response:
        match parts:
            case ["identities"]:
                return self._listed(self._identities(self.visits))
            case ["identities", name, "visits"]:
                return self._listed([visit.resource for visit in self.visits if name in visit.identities])
            case ["visits", id_, *rest] if found := [visit for visit in self.visits if visit.id == id_]:
                [visit] = found
                match rest:
                    case []:
                        return JSONResponse(visit.resource)
                    case ["identities"]:
                        return self._listed(self._identities([visit]))
                    case ["events"]:
                        return self._events(visit, query)
        return Response("no such thing", 404)

    def _events(self, visit: OldVisit, query: Any) -> Response:
        start, size = query.get(self.cursors, ""), int(query.get("page_size", 0)) or len(visit.events)
        at = next((n for n, event in enumerate(visit.events) if start.endswith(event["eventID"])), 0)
        following = visit.events[at + size : at + size + 1]
        cursors = [f"{visit.id}#{event['timestamp']}#{event['eventID']}" for event in following]
        return JSONResponse(visit.events[at : at + size], headers={"Paging-Next": cursors[0]} if cursors else {})

    async def _handle(self, request: Request) -> Response:
        if request.headers.get("Authorization") != self._authorization:
            return Response("who are you?", 401)
        if self.failures:
            self.failures -= 1
            return Response("busy", 503)
        return self._answer(request.path_params["path"].split("/"), request.query_params)


@asynccontextmanager
async def running_original(*visits: OldVisit) -> AsyncIterator[Original]:
    """The server with these visits."""
    original, [port] = Original(visits), free_ports(1)
    app = Starlette(routes=[Route("/server/data/{path:path}", original._handle)])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())

    async def started() -> None:
        assert server.started

    await eventually(started)
    original.url = f"http://127.0.0.1:{port}"
    try:
        yield original
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving
