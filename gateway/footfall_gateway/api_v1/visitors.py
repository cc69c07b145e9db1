"""Turns requests about visitors into questions for identity, and for history, which knows why they are who they are."""

from typing import Annotated, Any

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1 import visitor_pb2
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.backends import Backends
from footfall_gateway.http import Call, NoQuery, Operation, json_response


class VisitorsQuery(msgspec.Struct):
    """Which visitors."""

    state: Annotated[resources.State, Meta(description="Only visitors in this state.")] | UnsetType = UNSET
    site: Annotated[str, Meta(description="Only visitors of this website.")] = ""
    page_size: Annotated[int, Meta(description="At most so many.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the page before.")] = ""


class VisitorsApi:
    """Who is on the site, and why we say so."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity
        self._history = backends.history

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation("listVisitors", "GET", "/visitors", self.visitors, VisitorsQuery, resources.Visitors),
            Operation("getVisitor", "GET", "/visits/{visitId}/visitor", self.visitor, NoQuery, resources.Visitor),
            Operation("explainVisit", "GET", "/visits/{visitId}/explain", self.explain, NoQuery, resources.Explanation),
        ]

    async def visitors(self, call: Call[VisitorsQuery, None]) -> Response:
        """Who is on the site now, latest activity first."""
        query = call.query
        request = identity.ListVisitorsRequest(
            state=resources.STATES[query.state] if query.state else visitor_pb2.VISITOR_STATE_UNSPECIFIED,
            site=call.principal.site_filter(query.site),
            page_size=query.page_size,
            page_token=query.page_token,
        )
        answer = await self._ask(self._identity.ListVisitors, request, call.principal)
        found = [resources.visitor(live) for live in answer.visitors]
        return json_response(resources.Visitors(found, answer.next_page_token or None))

    async def visitor(self, call: Call[NoQuery, None]) -> Response:
        """The live state of a visit: who it is as soon as the beacon is answered, all else within 300 ms."""
        request = identity.GetVisitorRequest(visit_id=call.uuid("visitId", "visit"))
        live = (await self._ask(self._identity.GetVisitor, request, call.principal)).visitor
        return json_response(resources.visitor(live))

    async def explain(self, call: Call[NoQuery, None]) -> Response:
        """The timeline of a visit: every transition with its rule, its evidence and its assurance."""
        request = history.ExplainVisitRequest(visit_id=call.uuid("visitId", "visit"))
        answer = await self._ask(self._history.ExplainVisit, request, call.principal)
        explained = resources.explanation(answer)
        while answer.next_page_token:
            request.page_token = answer.next_page_token
            answer = await self._ask(self._history.ExplainVisit, request, call.principal)
            explained.transitions += resources.transitions(answer)
        return json_response(explained)
