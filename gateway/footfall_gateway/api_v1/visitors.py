"""Turns requests about visitors into questions for identity, and for history, which knows why they are who they are."""

from typing import Annotated, Any, Final

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1 import visitor_pb2
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.backends import Backends
from footfall_gateway.http import Call, NoQuery, Operation, json_answer

_MOST_TRANSITIONS: Final = 2_000
"""As many as MAX_TRANSITIONS_PER_VISIT allows at most, so that an answer without `page_size` is whole."""


class VisitorsQuery(msgspec.Struct):
    """Which visitors."""

    state: Annotated[resources.State, Meta(description="Only visitors in this state.")] | UnsetType = UNSET
    site: Annotated[str, Meta(description="Only visitors of this website.")] = ""
    page_size: Annotated[int, Meta(description="At most so many.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the page before.")] = ""


class ExplainQuery(msgspec.Struct):
    """Which part of a timeline."""

    page_size: (
        Annotated[int, Meta(description="At most so many transitions. Without it: all, 2,000 at most.", ge=1, le=1_000)]
        | UnsetType
    ) = UNSET
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
            Operation(
                "explainVisit", "GET", "/visits/{visitId}/explain", self.explain, ExplainQuery, resources.Explanation
            ),
        ]

    async def visitors(self, call: Call[VisitorsQuery, None]) -> Response:
        """Who is on the site now, latest activity first."""
        query = call.query
        request = identity.ListVisitorsRequest(
            state=resources.STATES[query.state] if query.state else visitor_pb2.VISITOR_STATE_UNSPECIFIED,
            site=call.principal.filter(query.site),
            page_size=query.page_size,
            page_token=query.page_token,
        )
        answer = await self._ask(self._identity.ListVisitors, request, call.principal)
        found = [resources.visitor(live) for live in answer.visitors]
        return json_answer(resources.Visitors(found, answer.next_page_token or None))

    async def visitor(self, call: Call[NoQuery, None]) -> Response:
        """The live state of a visit: who it is as soon as the beacon is answered, all else within 300 ms."""
        request = identity.GetVisitorRequest(visit_id=call.uuid("visitId", "visit"))
        live = (await self._ask(self._identity.GetVisitor, request, call.principal)).visitor
        return json_answer(resources.visitor(live))

    async def explain(self, call: Call[ExplainQuery, None]) -> Response:
        """The timeline of a visit: every transition with its rule, its evidence and its assurance.

        All transitions (2,000 at most) or, with `page_size`, a page of them: `nextPageToken` is there when more follow.
        """
        query = call.query
        most = query.page_size or _MOST_TRANSITIONS
        request = history.ExplainVisitRequest(visit_id=call.uuid("visitId", "visit"), page_token=query.page_token)
        transitions: list[resources.Transition] = []
        while True:  # with long user ids one message holds few
            request.page_size = most - len(transitions)
            answer = await self._ask(self._history.ExplainVisit, request, call.principal)
            transitions += resources.transitions(answer)
            request.page_token = answer.next_page_token
            if not request.page_token or len(transitions) >= most:
                break
        return json_answer(resources.explanation(answer.visit, transitions, request.page_token))
