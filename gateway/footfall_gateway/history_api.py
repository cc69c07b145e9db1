"""Turns the operations of the original's History API (gwe-facts 4.5) into questions for history and identity.

An empty collection is 204 when what it belongs to exists, and 404 otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1 import visitor_pb2
from starlette.responses import Response

from footfall_gateway import resources
from footfall_gateway.cursors import cursor, position
from footfall_gateway.history_queries import (
    EventsQuery,
    IdentitiesQuery,
    PagesQuery,
    Scoped,
    VisitIdentitiesQuery,
    VisitSessionsQuery,
    VisitsQuery,
)
from footfall_gateway.neighbours import Neighbours
from footfall_gateway.operations import Api, Call, NoQuery, Operation, json_answer
from footfall_gateway.problem import history_error_response
from footfall_gateway.resources import Event, Identity, Page, Session, Visit

PREFIXES = ("/server/data", "/backend/data")

_SCOPES = {
    None: visitor_pb2.VISITOR_STATE_UNSPECIFIED,
    "Authenticated": visitor_pb2.VISITOR_STATE_AUTHENTICATED,
    "Recognized": visitor_pb2.VISITOR_STATE_RECOGNIZED,
}


class Parent(NamedTuple):
    """What a collection belongs to: `visit`, `identity`, `session` or `page`, and its id."""

    kind: str
    id: str


class HistoryApi:
    """The History REST API."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._ask = neighbours.ask
        self._history = neighbours.history
        self._identity = neighbours.identity

    def api(self) -> Api:
        """Its operations."""
        operations = [
            _get("listIdentities", "/identities", self.identities, IdentitiesQuery, list[Identity]),
            _get("getIdentity", "/identities/{identityId}", self.identity, NoQuery, Identity),
            _get("listIdentityVisits", "/identities/{identityId}/visits", self.visits, VisitsQuery, list[Visit]),
            _get("listIdentityEvents", "/identities/{identityId}/events", self.events, EventsQuery, list[Event]),
            _get("listIdentityPages", "/identities/{identityId}/pages", self.pages, PagesQuery, list[Page]),
            _get("listIdentitySessions", "/identities/{identityId}/sessions", self.sessions, Scoped, list[Session]),
            _get("getVisit", "/visits/{visitId}", self.visit, NoQuery, Visit),
            _get(
                "listVisitIdentities",
                "/visits/{visitId}/identities",
                self.visit_identities,
                VisitIdentitiesQuery,
                list[Identity],
            ),
            _get("listVisitEvents", "/visits/{visitId}/events", self.events, EventsQuery, list[Event]),
            _get("listVisitPages", "/visits/{visitId}/pages", self.pages, PagesQuery, list[Page]),
            _get("listVisitSessions", "/visits/{visitId}/sessions", self.sessions, VisitSessionsQuery, list[Session]),
            _get("getSession", "/sessions/{sessionId}", self.session, NoQuery, Session),
            _get("listSessionEvents", "/sessions/{sessionId}/events", self.events, EventsQuery, list[Event]),
            _get("listSessionPages", "/sessions/{sessionId}/pages", self.pages, PagesQuery, list[Page]),
            _get("getPage", "/pages/{pageId}", self.page, NoQuery, Page),
            _get("listPageEvents", "/pages/{pageId}/events", self.events, EventsQuery, list[Event]),
            _get("getEvent", "/events/{eventId}", self.event, NoQuery, Event),
        ]
        return Api(PREFIXES, operations, history_error_response)

    async def identities(self, call: Call[IdentitiesQuery, None]) -> Response:
        """All identities, by identityId."""
        query = call.query
        request = identity.ListIdentitiesRequest(
            page_size=query.page_size, page_token=query.page_start, location=query.location
        )
        answer = await self._ask(self._identity.ListIdentities, request)
        return _collection([resources.identity(found) for found in answer.identities], answer.next_page_token)

    async def identity(self, call: Call[NoQuery, None]) -> Response:
        """An identity."""
        request = identity.GetIdentityRequest(identity_id=call.path["identityId"])
        answer = await self._ask(self._identity.GetIdentity, request)
        return json_answer(resources.identity(answer.identity))

    async def visit(self, call: Call[NoQuery, None]) -> Response:
        """A visit."""
        request = history.GetVisitRequest(visit_id=call.uuid("visitId", "visit"))
        return json_answer(resources.visit((await self._ask(self._history.GetVisit, request)).visit))

    async def session(self, call: Call[NoQuery, None]) -> Response:
        """A session."""
        request = history.GetSessionRequest(session_id=call.uuid("sessionId", "session"))
        return json_answer(resources.session((await self._ask(self._history.GetSession, request)).session))

    async def page(self, call: Call[NoQuery, None]) -> Response:
        """A page entry."""
        request = history.GetPageRequest(page_id=call.uuid("pageId", "page"))
        return json_answer(resources.page((await self._ask(self._history.GetPage, request)).page))

    async def event(self, call: Call[NoQuery, None]) -> Response:
        """An event; the first received when several visits have used its id."""
        request = history.GetEventRequest(event_id=call.uuid("eventId", "event"))
        return json_answer(resources.event((await self._ask(self._history.GetEvent, request)).event))

    async def visit_identities(self, call: Call[VisitIdentitiesQuery, None]) -> Response:
        """The identities a visit is associated with, each with the scope it has there."""
        parent = _parent(call)
        request = history.ListVisitIdentitiesRequest(
            visit_id=parent.id,
            scope=_SCOPES[call.query.association],
            page_size=call.query.page_size,
            page_token=call.query.page_start,
        )
        answer = await self._ask(self._history.ListVisitIdentities, request)
        found = [resources.visit_identity(association) for association in answer.associations]
        if not found:
            await self._must_exist(parent)
        return _collection(found, answer.next_page_token)

    async def visits(self, call: Call[VisitsQuery, None]) -> Response:
        """The visits associated with an identity."""
        query, parent = call.query, _parent(call)
        request = history.ListVisitsRequest(
            identity_id=parent.id, global_visit_id=query.global_visit_id, user_agent=query.user_agent
        )
        answer = await self._list(self._history.ListVisits, request, query, parent)
        return await self._answer([resources.visit(visit) for visit in answer.visits], answer, parent)

    async def pages(self, call: Call[PagesQuery, None]) -> Response:
        """The page entries of a visit, an identity or a session."""
        query, parent = call.query, _parent(call)
        request = history.ListPagesRequest(url=query.url, title=query.title, category=query.category)
        answer = await self._list(self._history.ListPages, request, query, parent)
        return await self._answer([resources.page(page) for page in answer.pages], answer, parent)

    async def sessions(self, call: Call[Scoped, None]) -> Response:
        """The sessions of a visit or an identity."""
        query, parent = call.query, _parent(call)
        request = history.ListSessionsRequest()
        if isinstance(query, VisitSessionsQuery):
            request.session_identity_id = query.identity_id
        answer = await self._list(self._history.ListSessions, request, query, parent)
        return await self._answer([resources.session(session) for session in answer.sessions], answer, parent)

    async def events(self, call: Call[EventsQuery, None]) -> Response:
        """The events of a visit, an identity, a session or a page entry."""
        query, parent = call.query, _parent(call)
        request = history.ListEventsRequest(
            event_name=query.event_name,
            event_type=query.type_number(),
            category=query.category,
            url=query.url,
            global_visit_id=query.global_visit_id,
            browser_page_id=query.browser_page_id,
        )
        answer = await self._list(self._history.ListEvents, request, query, parent)
        return await self._answer([resources.event(event) for event in answer.events], answer, parent)

    async def _list(self, method: Any, request: Any, query: Scoped, parent: Parent) -> Any:
        """Ask for one page of what belongs to a parent."""
        setattr(request, f"{parent.kind}_id", parent.id)
        request.scope.CopyFrom(query.scope())
        request.page_size = query.page_size
        if start := position(parent.id, query.page_start):
            request.start.CopyFrom(start)
        return await self._ask(method, request)

    async def _answer(self, items: Sequence[Any], answer: Any, parent: Parent) -> Response:
        if not items:
            await self._must_exist(parent)
        return _collection(items, cursor(parent.id, answer.next) if answer.HasField("next") else "")

    async def _must_exist(self, parent: Parent) -> None:
        """Tell an empty collection from one of nothing. Raises Problem 404."""
        match parent.kind:
            case "visit":
                await self._ask(self._history.GetVisit, history.GetVisitRequest(visit_id=parent.id))
            case "session":
                await self._ask(self._history.GetSession, history.GetSessionRequest(session_id=parent.id))
            case "page":
                await self._ask(self._history.GetPage, history.GetPageRequest(page_id=parent.id))
            case "identity":
                await self._ask(self._identity.GetIdentity, identity.GetIdentityRequest(identity_id=parent.id))


def _get(name: str, path: str, handler: Callable[[Any], Any], query: type[Any], answer: Any) -> Operation[Any, Any]:
    return Operation(name, "GET", path, handler, query, answer)


def _parent(call: Call[Any, Any]) -> Parent:
    """The one resource that the path names."""
    ((name, value),) = call.path.items()
    kind = name.removesuffix("Id")
    return Parent(kind, value if kind == "identity" else call.uuid(name, kind))


def _collection(items: Sequence[Any], next_page: str) -> Response:
    if not items:
        return Response(status_code=204)
    return json_answer(items, **({"Paging_Next": next_page} if next_page else {}))
