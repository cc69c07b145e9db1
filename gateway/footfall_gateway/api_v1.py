"""Turns Footfall's own operations (`/api/v1`, design section 4) into questions for identity and history."""

import msgspec
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1 import visitor_pb2
from starlette.responses import Response

from footfall_gateway.neighbours import Neighbours
from footfall_gateway.operations import Api, Call, NoQuery, Operation, json_answer
from footfall_gateway.problem import problem_response
from footfall_gateway.resources import milliseconds

PREFIX = "/api/v1"


class Visitor(msgspec.Struct, rename="camel"):
    """Who a visitor is, live."""

    visit_id: str
    global_visit_id: str | None
    site: str
    state: str
    """`ANONYMOUS`, `RECOGNIZED` or `AUTHENTICATED`."""
    identity_id: str | None
    session_id: str | None
    contact_id: str | None
    last_event_time: int
    """Milliseconds since the epoch."""


def visitor(live: visitor_pb2.Visitor) -> Visitor:
    """A visitor as the API answers it."""
    return Visitor(
        visit_id=live.visit_id,
        global_visit_id=live.global_visit_id or None,
        site=live.site,
        state=visitor_pb2.VisitorState.Name(live.state).removeprefix("VISITOR_STATE_"),
        identity_id=live.identity_id or None,
        session_id=live.session_id or None,
        contact_id=live.contact_id or None,
        last_event_time=milliseconds(live.last_event_time),
    )


class ApiV1:
    """The operations below /api/v1."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._ask = neighbours.ask
        self._identity = neighbours.identity

    def api(self) -> Api:
        """The operations."""
        operations = [
            Operation("getVisitor", "GET", "/visits/{visitId}/visitor", self.visitor, NoQuery, Visitor),
        ]
        return Api((PREFIX,), operations, problem_response)

    async def visitor(self, call: Call[NoQuery, None]) -> Response:
        """The live state of a visit."""
        request = identity.GetVisitorRequest(visit_id=call.uuid("visitId", "visit"))
        answer = await self._ask(self._identity.GetVisitor, request)
        return json_answer(visitor(answer.visitor))
