"""Operations of visitors, answered by the identity service. History adds the evidence for their identities."""

from typing import Annotated, Any, Final

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall_eventlog.events import MAX_EVENT_TIME_MS
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.backends import Backends
from footfall_gateway.http import Call, Operation, json_response

_MAX_TRANSITIONS: Final = 2_000
"""The largest MAX_TRANSITIONS_PER_VISIT, so that a response without `page_size` is complete."""


class VisitorsQuery(msgspec.Struct):
    """Filters of visitors. A visitor has to match all that are given."""

    state: Annotated[
        list[resources.State],
        Meta(description="Only visitors in this state. Repeat it for several states.", max_length=10),
    ] = []
    site: Annotated[
        list[str], Meta(description="Only visitors of this website. Repeat it for several websites.", max_length=100)
    ] = []
    identity_id: Annotated[
        str,
        Meta(description="Only visits that belong to this identity now.", extra_json_schema={"maxLength": 512}),
    ] = msgspec.field(name="identityId", default="")
    contact_id: Annotated[
        str,
        Meta(
            description="Only visits whose identity is linked to this contact. 503 while MongoDB does not answer.",
            extra_json_schema={"maxLength": 256},
        ),
    ] = msgspec.field(name="contactId", default="")
    global_visit_id: Annotated[
        str, Meta(description="Only visits of this device, a UUID.", extra_json_schema={"maxLength": 36})
    ] = msgspec.field(name="globalVisitId", default="")
    presence: Annotated[
        list[resources.Presence],
        Meta(
            description="Only visitors with this presence. Repeat it for several. Default: `PRESENT`. Of ended visits, "
            "only those with a SignIn, UserInfo or SignOut are listed, from at most a minute after their end on.",
            max_length=10,
        ),
    ] = []
    staff: Annotated[
        resources.StaffFilter,
        Meta(description="`exclude`: no visits of staff. `include`: those too. `only`: no others."),
    ] = "exclude"
    page_size: Annotated[int, Meta(description="Maximum number of visitors.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the previous response.")] = ""


AsOf = Annotated[
    int,
    Meta(
        description="Who the visitor was at this time (ms). Default: after the last transition.",
        ge=0,
        le=MAX_EVENT_TIME_MS,
    ),
]
KnownAt = Annotated[
    int,
    Meta(
        description="As known at this time (ms): only what the server had received by then counts. Default: as known "
        "now. What was erased since is missing.",
        ge=0,
        le=MAX_EVENT_TIME_MS,
    ),
]


class VisitorQuery(msgspec.Struct):
    """A moment to look back at."""

    as_of: AsOf | UnsetType = msgspec.field(name="asOf", default=UNSET)
    known_at: KnownAt | UnsetType = msgspec.field(name="knownAt", default=UNSET)


class ExplainQuery(VisitorQuery):
    """One page of a timeline, as at a moment."""

    page_size: (
        Annotated[int, Meta(description="Maximum number of transitions. Default: all.", ge=1, le=1_000)] | UnsetType
    ) = UNSET
    page_token: Annotated[str, Meta(description="`nextPageToken` of the previous response.")] = ""


class VisitorsApi:
    """The visitors on the site, and the evidence for their identities."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity
        self._history = backends.history

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation("listVisitors", "GET", "/visitors", self.visitors, VisitorsQuery, resources.Visitors),
            Operation("getVisitor", "GET", "/visits/{visitId}/visitor", self.visitor, VisitorQuery, resources.Visitor),
            Operation(
                "explainVisit", "GET", "/visits/{visitId}/explain", self.explain, ExplainQuery, resources.Explanation
            ),
        ]

    async def visitors(self, call: Call[VisitorsQuery, None]) -> Response:
        """The visitors on the site now, latest start of the visit first.

        Pages are stable: no visitor is missed by acting between two pages. A page may be short, or even empty, although
        more visitors follow: read on until `nextPageToken` is null.
        """
        query = call.query
        sites = [call.principal.site_filter(one) for one in query.site or [""]]
        request = identity.ListVisitorsRequest(
            states=[resources.STATES[one] for one in query.state],
            in_sites=filter(None, sites),
            identity_id=query.identity_id,
            contact_id=query.contact_id,
            global_visit_id=query.global_visit_id,
            presences=[resources.PRESENCES[one] for one in query.presence],
            staff=resources.STAFF_FILTERS[query.staff],
            page_size=query.page_size,
            page_token=query.page_token,
        )
        response = await self._ask(self._identity.ListVisitors, request, call.principal, is_live=True)
        found = [resources.visitor(live) for live in response.visitors]
        return json_response(resources.Visitors(found, response.next_page_token or None))

    async def visitor(self, call: Call[VisitorQuery, None]) -> Response:
        """The live state of a visit: transitions when their beacon is answered, everything else within 300 ms.

        With `asOf` or `knownAt`, who the visitor was at that moment, from history. The contact is that of now; presence
        and page are null.
        """
        request = identity.GetVisitorRequest(visit_id=call.uuid("visitId", "visit"))
        _set_moment(request, call.query)
        live = await self._ask(self._identity.GetVisitor, request, call.principal, is_live=True)
        return json_response(resources.visitor(live.visitor))

    async def explain(self, call: Call[ExplainQuery, None]) -> Response:
        """The timeline of a visit: every transition with its rule, evidence and assurance.

        Without `page_size` all transitions. With `page_size` one page, and `nextPageToken` when there are more.
        """
        query = call.query
        limit = query.page_size or _MAX_TRANSITIONS
        request = history.ExplainVisitRequest(visit_id=call.uuid("visitId", "visit"), page_token=query.page_token)
        _set_moment(request, query)
        transitions: list[resources.Transition] = []
        while True:  # history returns fewer at a time when user ids are long
            request.page_size = limit - len(transitions)
            response = await self._ask(self._history.ExplainVisit, request, call.principal)
            transitions += resources.transitions(response)
            request.page_token = response.next_page_token
            if not request.page_token or len(transitions) >= limit:
                break
        return json_response(resources.explanation(response.visit, transitions, request.page_token))


def _set_moment(request: identity.GetVisitorRequest | history.ExplainVisitRequest, query: VisitorQuery) -> None:
    if query.as_of is not UNSET:
        request.as_of_time.FromMilliseconds(query.as_of)
    if query.known_at is not UNSET:
        request.known_at_time.FromMilliseconds(query.known_at)
