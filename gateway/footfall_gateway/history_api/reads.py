"""The read operations of the History API, answered by the history and identity services.

An empty collection is 204 when its parent exists, and 404 otherwise.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2, visitor_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from starlette.responses import Response

from footfall_gateway.auth import Principal
from footfall_gateway.backends import Backends
from footfall_gateway.history_api import resources
from footfall_gateway.history_api.cursors import format_cursor, parse_cursor
from footfall_gateway.history_api.embedding import Embedder
from footfall_gateway.history_api.lookup import Lookup, parent_of
from footfall_gateway.history_api.params import (
    EventsQuery,
    FilteredQuery,
    IdentitiesQuery,
    IdentityQuery,
    PagesQuery,
    VisitIdentitiesQuery,
    VisitSessionsQuery,
    VisitsQuery,
)
from footfall_gateway.history_api.resources import Event, Identity, Page, Session, UserAgent, Visit
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

_PAGE_START = {"page_token": "page_start"}

_INCLUDES: Mapping[Any, tuple[str, ...]] = {
    Identity: ("visits", "pages", "sessions", "events"),
    Visit: ("pages", "sessions", "events"),
    Session: ("pages", "events"),
    Page: ("events",),
}
"""The lists that `include_*` may name, by type of resource."""


class HistoryReads:
    """The read operations of the History API."""

    def __init__(self, backends: Backends, lookup: Lookup) -> None:
        self._ask = backends.ask
        self._history = backends.history
        self._identity = backends.identity
        self._lookup = lookup
        self._embedder = Embedder(backends)

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        identity, visit = "/identities/{identityId}", "/visits/{visitId}"
        session, page = "/sessions/{sessionId}", "/pages/{pageId}"
        identities, visits, sessions = list[Identity], list[Visit], list[Session]
        pages, events = list[Page], list[Event]
        return [
            _get("listIdentities", "/identities", self.identities, IdentitiesQuery, identities),
            _get("getIdentity", identity, self.identity, IdentityQuery, Identity),
            _get("listIdentityVisits", f"{identity}/visits", self.visits, VisitsQuery, visits),
            _get("listIdentityEvents", f"{identity}/events", self.events, EventsQuery, events),
            _get("listIdentityPages", f"{identity}/pages", self.pages, PagesQuery, pages),
            _get("listIdentitySessions", f"{identity}/sessions", self.sessions, FilteredQuery, sessions),
            _get("listVisits", "/visits", self.all_visits, VisitsQuery, visits),
            _get("getVisit", visit, self.visit, NoQuery, Visit),
            _get("getVisitUserAgent", f"{visit}/userAgent", self.user_agent, NoQuery, UserAgent),
            _get("listVisitIdentities", f"{visit}/identities", self.visit_identities, VisitIdentitiesQuery, identities),
            _get("listVisitEvents", f"{visit}/events", self.events, EventsQuery, events),
            _get("listVisitPages", f"{visit}/pages", self.pages, PagesQuery, pages),
            _get("listVisitSessions", f"{visit}/sessions", self.sessions, VisitSessionsQuery, sessions),
            _get("getSession", session, self.session, NoQuery, Session),
            _get("listSessionEvents", f"{session}/events", self.events, EventsQuery, events),
            _get("listSessionPages", f"{session}/pages", self.pages, PagesQuery, pages),
            _get("getPage", page, self.page, NoQuery, Page),
            _get("listPageEvents", f"{page}/events", self.events, EventsQuery, events),
            _get("getEvent", "/events/{eventId}", self.event, NoQuery, Event),
        ]

    async def identities(self, call: Call[IdentitiesQuery, None]) -> Response:
        """All identities, by identityId."""
        call.principal.require_all_sites()
        if call.query.user_agent:
            known, next_page = await self._by_user_agent(call.query, call.principal)
        else:
            request = identity.ListIdentitiesRequest(
                page_size=call.query.page_size, page_token=call.query.page_start, location=call.query.location
            )
            response = await self._ask(self._identity.ListIdentities, request, call.principal, _PAGE_START)
            known, next_page = response.identities, response.next_page_token
        found = {one.identity_id: resources.identity(one) for one in known}
        return await self._listed("identity", found, call, next_page)

    async def identity(self, call: Call[IdentityQuery, None]) -> Response:
        """An identity. The old name of one that was renamed leads to the current one, with the lists of all names."""
        stored = await self._lookup.identity(call.path["identityId"], call.principal)
        found = resources.identity(stored)
        await self._embed("identity", dict.fromkeys([stored.identity_id, *stored.other_identity_ids], found), call)
        return json_response(found)

    async def visit(self, call: Call[NoQuery, None]) -> Response:
        """A visit."""
        stored = await self._lookup.visit(call.uuid("visitId", "visit"), call.principal)
        found = resources.visit(stored)
        await self._embed("visit", {_unique_id(stored): found}, call)
        return json_response(found)

    async def user_agent(self, call: Call[NoQuery, None]) -> Response:
        """The parsed user agent of a visit: the record that `userAgentId` names."""
        visit = await self._lookup.visit(call.uuid("visitId", "visit"), call.principal)
        if not visit.user_agent_id:
            raise Problem(404, "no such user agent")
        return json_response(resources.user_agent(visit))

    async def session(self, call: Call[NoQuery, None]) -> Response:
        """A session."""
        found = resources.session(await self._lookup.session(call.uuid("sessionId", "session"), call.principal))
        await self._embed("session", {found.session_id: found}, call)
        return json_response(found)

    async def page(self, call: Call[NoQuery, None]) -> Response:
        """A page entry."""
        found = resources.page(await self._lookup.page(call.uuid("pageId", "page"), call.principal))
        await self._embed("page", {found.page_id: found}, call)
        return json_response(found)

    async def event(self, call: Call[NoQuery, None]) -> Response:
        """An event. When several visits have used its id: the one received first."""
        return json_response(resources.event(await self._lookup.event(call.uuid("eventId", "event"), call.principal)))

    async def visit_identities(self, call: Call[VisitIdentitiesQuery, None]) -> Response:
        """The identities of a visit, each with its `visitScope` in this visit."""
        parent, wanted = parent_of(call), call.query.association or "unspecified"
        request = history.ListVisitIdentitiesRequest(
            visit_id=parent.id,
            scope=visitor_pb2.VisitorState.Value(f"VISITOR_STATE_{wanted.upper()}"),
            page_size=call.query.page_size,
            page_token=call.query.page_start,
        )
        response = await self._ask(self._history.ListVisitIdentities, request, call.principal, _PAGE_START)
        if not response.associations:
            await self._lookup.require_exists(parent, call.principal)
        found = {one.identity.identity_id: resources.visit_identity(one) for one in response.associations}
        return await self._listed("identity", found, call, response.next_page_token)

    async def all_visits(self, call: Call[VisitsQuery, None]) -> Response:
        """All visits, including those without an identity. GWE does not have this operation."""
        return await self.visits(call)

    async def visits(self, call: Call[VisitsQuery, None]) -> Response:
        """The visits of an identity."""
        query = call.query
        request = history.ListVisitsRequest(global_visit_id=query.global_visit_id, user_agent=query.user_agent)
        response, next_page = await self._fetch(self._history.ListVisits, request, call, history.ListVisitsResponse())
        found = {_unique_id(visit): resources.visit(visit) for visit in response.visits}
        return await self._listed("visit", found, call, next_page, response)

    async def pages(self, call: Call[PagesQuery, None]) -> Response:
        """The page entries of a visit, an identity or a session."""
        query = call.query
        request = history.ListPagesRequest(url=query.url, title=query.title, category=query.category)
        response, next_page = await self._fetch(self._history.ListPages, request, call, history.ListPagesResponse())
        found = {page.page_id: resources.page(page) for page in response.pages}
        return await self._listed("page", found, call, next_page, response)

    async def sessions(self, call: Call[FilteredQuery, None]) -> Response:
        """The sessions of a visit or an identity."""
        request = history.ListSessionsRequest()
        if isinstance(call.query, VisitSessionsQuery):
            request.session_identity_id = call.query.identity_id
        response, next_page = await self._fetch(
            self._history.ListSessions, request, call, history.ListSessionsResponse()
        )
        found = {session.session_id: resources.session(session) for session in response.sessions}
        return await self._listed("session", found, call, next_page, response)

    async def events(self, call: Call[EventsQuery, None]) -> Response:
        """The events of a visit, an identity, a session or a page entry."""
        query = call.query
        request = history.ListEventsRequest(
            event_name=query.event_name,
            event_type=event_pb2.EventType.Value(f"EVENT_TYPE_{query.event_type or 'UNSPECIFIED'}"),
            category=query.category,
            url=query.url,
            global_visit_id=query.global_visit_id,
            browser_page_id=query.browser_page_id,
        )
        response, next_page = await self._fetch(self._history.ListEvents, request, call, history.ListEventsResponse())
        events = [resources.event(event) for event in response.events]
        return _collection(events, next_page, is_complete=not response.other_names_unavailable)

    async def _fetch(self, method: Any, request: Any, call: Call[Any, None], empty: Any) -> tuple[Any, str]:
        """One page of a collection, and the cursor of the next page. `empty`: the response without items.

        Raises Problem 404 when the page is empty because the collection's parent does not exist. History does not know
        an identity without visits, which identity may know.
        """
        parent = parent_of(call)
        query: FilteredQuery = call.query
        if parent.kind:
            setattr(request, f"{parent.kind}_id", parent.id)
        request.scope.CopyFrom(query.to_scope(call.principal.site_filter(query.site)))
        request.page_size = query.page_size
        if start := parse_cursor(parent.id, query.page_start):
            request.start.CopyFrom(start)
        try:
            response = await self._ask(method, request, call.principal)
        except Problem as problem:
            if problem.status != 404:
                raise
            response = empty
        if not response.ListFields():
            await self._lookup.require_exists(parent, call.principal)
        return response, format_cursor(parent.id, response.next) if response.HasField("next") else ""

    async def _by_user_agent(
        self, query: IdentitiesQuery, principal: Principal
    ) -> tuple[Sequence[identity_pb2.Identity], str]:
        """One page of the identities seen with a user agent, and the token of the next page."""
        request = history.ListIdentityIdsRequest(
            user_agent=query.user_agent, page_size=query.page_size, page_token=query.page_start
        )
        while True:
            ids = await self._ask(self._history.ListIdentityIds, request, principal, _PAGE_START)
            batch = identity.BatchGetIdentitiesRequest(identity_ids=ids.identity_ids)
            known = identity.BatchGetIdentitiesResponse()
            if ids.identity_ids:
                known = await self._ask(self._identity.BatchGetIdentities, batch, principal)
            if known.unread_identity_ids:  # the page ends before them, and only history has the token for that place
                request.page_size = len(ids.identity_ids) - len(known.unread_identity_ids)
                continue
            found = [one for one in known.identities if query.location in {"", one.location}]
            if found or not ids.next_page_token:
                return found, ids.next_page_token
            request.page_size, request.page_token = query.page_size, ids.next_page_token

    async def _listed(
        self, kind: str, found: Mapping[str, Any], call: Call[Any, None], next_page: str, response: Any = None
    ) -> Response:
        """The response with a page of resources of one kind, by id. `response`: that of history, if it says more."""
        await self._embed(kind, found, call)
        is_complete = response is None or not response.other_names_unavailable
        return _collection(found.values(), next_page, is_complete=is_complete)

    async def _embed(self, kind: str, found: Mapping[str, Any], call: Call[Any, None]) -> None:
        """Fill in the included lists. Items of a visit have its site; those of an identity may be of several sites."""
        if call.includes:
            site = call.principal.site_filter(call.query.site) if kind == "identity" else ""
            await self._embedder.embed(kind, found, call.includes, site, call.principal)


def _get(
    name: str, path: str, handler: Callable[[Any], Any], query: type[msgspec.Struct], response_type: Any
) -> Operation[Any, Any]:
    (resource,) = get_args(response_type) or (response_type,)
    return Operation(name, "GET", path, handler, query, response_type, includes=_INCLUDES.get(resource, ()))


def _unique_id(visit: visit_pb2.Visit) -> str:
    return visit.scoped_visit_id or visit.visit_id


def _collection(items: Iterable[Any], next_page: str, *, is_complete: bool = True) -> Response:
    listed = list(items)
    # Only identity knows the other names of an identity that was renamed.
    headers = {} if is_complete else {"Other-Names": "unavailable"}
    if not listed:
        return Response(status_code=204, headers=headers)
    if next_page:
        headers["Paging-Next"] = next_page
    return json_response(listed, **headers)
