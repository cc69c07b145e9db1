"""The HistoryService RPCs: checks requests, queries the stores, and builds responses."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, Final, TypeVar

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceServicer
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.errors import RequestError
from footfall_timeline import LaterVersionError
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from footfall_history import queries
from footfall_history.dead_letters import DeadLetterQueue
from footfall_history.erasure import Eraser
from footfall_history.event_log import TRANSIENT_LOG_ERRORS
from footfall_history.event_streams import EventStreams
from footfall_history.identity_client import IdentityClient
from footfall_history.parts import stream_in_parts
from footfall_history.queries import Exporter, Reader, RelatedItems, user_agent
from footfall_history.storage import TRANSIENT_STORE_ERRORS, Store, Visit

Context = ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Found = TypeVar("Found")
Method = Callable[["HistoryService", Request, Context], Coroutine[Any, Any, Response]]
StreamMethod = Callable[["HistoryService", Request, Context], AsyncGenerator[Response, None]]

# During an upgrade, a later version may write data that this version cannot read. Another process will answer.
_TRANSIENT_ERRORS: Final = (*TRANSIENT_STORE_ERRORS, *TRANSIENT_LOG_ERRORS, LaterVersionError)
_RETRY_MS: Final = 1_000
# A stream's message is sent when it has reached this size, far below the limit of a channel.
_MESSAGE_BYTES: Final = 256 * 1024
_TIMELINE_PAGE_SIZE: Final = 1_000


@contextmanager
def _transient_errors_as_unavailable() -> Iterator[None]:
    try:
        yield
    except _TRANSIENT_ERRORS as error:
        message = "MongoDB or Redis does not answer, or a later version has written what is asked for; try again"
        raise RequestError.unavailable(message, _RETRY_MS) from error


def _unary(method: "Method[Request, Response]") -> "Method[Request, Response]":
    """A method that fails with UNAVAILABLE and the time to wait after a transient error of a store."""

    @wraps(method)
    async def call(self: "HistoryService", request: Request, context: Context) -> Response:
        with _transient_errors_as_unavailable():
            return await method(self, request, context)

    return call


def _streaming(method: "StreamMethod[Request, Response]") -> "StreamMethod[Request, Response]":
    """The same for a method that returns a stream."""

    @wraps(method)
    async def call(self: "HistoryService", request: Request, context: Context) -> AsyncGenerator[Response, None]:
        with _transient_errors_as_unavailable():
            async with aclosing(method(self, request, context)) as responses:
                async for response in responses:
                    yield response

    return call


@dataclass(eq=False)
class HistoryService(HistoryServiceServicer):
    """The methods are documented in history_service.proto. They raise RequestError."""

    store: Store
    reader: Reader
    identity_client: IdentityClient
    event_streams: EventStreams
    eraser: Eraser
    dead_letters: DeadLetterQueue
    exporter: Exporter
    site_groups: SiteGroups

    @_unary
    async def GetVisit(self, request: pb.GetVisitRequest, _context: Context) -> pb.GetVisitResponse:  # noqa: N802
        """One visit."""
        visit, _ = await self._visit(request)
        if visit.user_agent:
            visit.user_agent_details.CopyFrom(user_agent(visit.user_agent, visit.user_agent_id))
        return pb.GetVisitResponse(visit=visit)

    @_unary
    async def ExplainVisit(self, request: pb.ExplainVisitRequest, _context: Context) -> pb.ExplainVisitResponse:  # noqa: N802
        """The timeline of a visit."""
        message, visit = await self._visit(request)
        window = queries.page_window(request, default_size=_TIMELINE_PAGE_SIZE)
        inside = (step for step in visit.visit_state.steps if window.contains(step.transition.order_key))
        steps = [*islice(inside, window.size + 1)]
        explanations = await self.reader.explanations(visit, steps)
        page = window.cut(list(zip([step.transition.order_key for step in steps], explanations, strict=True)))
        return queries.with_next_token(
            pb.ExplainVisitResponse(visit=message, explanations=page.items), request, page.next_key
        )

    @_unary
    async def ListVisits(self, request: pb.ListVisitsRequest, _context: Context) -> pb.ListVisitsResponse:  # noqa: N802
        """Visits by identity, device, user agent, site and time."""
        self._widen_sites(request)
        window = queries.window(request, age_of_start=True)
        page = await self.reader.visits(queries.visit_conditions(request), window)
        return queries.with_next_page(pb.ListVisitsResponse(visits=page.items), request, page.next_key)

    @_unary
    async def GetPage(self, request: pb.GetPageRequest, _context: Context) -> pb.GetPageResponse:  # noqa: N802
        """One page entry."""
        page_id = queries.parse_uuid(request.page_id, "page_id")
        found = await self.reader.page(page_id, self.site_groups.sharing(request.sites))
        return pb.GetPageResponse(page=_found(found, "Page", page_id))

    @_unary
    async def ListPages(self, request: pb.ListPagesRequest, _context: Context) -> pb.ListPagesResponse:  # noqa: N802
        """Page entries of a visit, an identity or a session."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        page = await self.reader.pages(queries.parse_parent(request), conditions, window, request.sites)
        return queries.with_next_page(pb.ListPagesResponse(pages=page.items), request, page.next_key)

    @_unary
    async def GetSession(self, request: pb.GetSessionRequest, _context: Context) -> pb.GetSessionResponse:  # noqa: N802
        """One session."""
        session_id = queries.parse_uuid(request.session_id, "session_id")
        found = await self.reader.session(session_id, self.site_groups.sharing(request.sites))
        return pb.GetSessionResponse(session=_found(found, "Session", session_id))

    @_unary
    async def ListSessions(self, request: pb.ListSessionsRequest, _context: Context) -> pb.ListSessionsResponse:  # noqa: N802
        """Sessions of a visit or an identity."""
        await self._resolve(request)
        window = queries.window(request, age_of_start=True)
        conditions, identity = queries.session_conditions(request)
        page = await self.reader.sessions(conditions, identity, window)
        return queries.with_next_page(pb.ListSessionsResponse(sessions=page.items), request, page.next_key)

    @_unary
    async def GetEvent(self, request: pb.GetEventRequest, _context: Context) -> pb.GetEventResponse:  # noqa: N802
        """One event."""
        event_id = queries.parse_uuid(request.event_id, "event_id")
        sites = self.site_groups.sharing(request.sites)
        visit_ids = self._candidates(request.visit_id, sites) if request.visit_id else []
        found = await self.reader.event(event_id, visit_ids, sites)
        return pb.GetEventResponse(event=_found(found, "Event", event_id))

    @_unary
    async def GetReceipt(self, request: pb.GetReceiptRequest, _context: Context) -> pb.GetReceiptResponse:  # noqa: N802
        """What became of one event."""
        sites = self.site_groups.sharing(request.sites)
        visit_ids = self._candidates(request.visit_id, sites)
        event_id = queries.parse_uuid(request.event_id, "event_id")
        found = await queries.receipt(self.reader, self.dead_letters, visit_ids, event_id, sites)
        return pb.GetReceiptResponse(receipt=_found(found, "Receipt", event_id))

    @_unary
    async def ListEvents(self, request: pb.ListEventsRequest, _context: Context) -> pb.ListEventsResponse:  # noqa: N802
        """Events of a visit, an identity, a session or a page."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        page = await self.reader.events(queries.parse_parent(request), conditions, window, request.sites)
        return queries.with_next_page(pb.ListEventsResponse(events=page.items), request, page.next_key)

    @_unary
    async def ListVisitIdentities(  # noqa: N802
        self, request: pb.ListVisitIdentitiesRequest, context: Context
    ) -> pb.ListVisitIdentitiesResponse:
        """The identities of a visit, by id alone if the identity service does not answer."""
        message, visit = await self._visit(request)
        window = queries.page_window(request)
        associations = [
            (association.first.order_key, association)
            for association in visit.visit_state.associations
            if window.contains(association.first.order_key) and request.scope in {0, association.scope}
        ]
        selected = window.cut(associations)
        known, count = await self.identity_client.get(
            [association.identity for association in selected.items], context, request.sites
        )
        page = window.cut(
            [
                (key, queries.association_message(message.visit_id, association, known.get(association.identity)))
                for key, association in associations[:count]
            ]
        )
        following = associations[len(page.items) :]
        response = pb.ListVisitIdentitiesResponse(associations=page.items)
        return queries.with_next_token(response, request, following[0][0] if following else "")

    @_unary
    async def ListIdentityIds(  # noqa: N802
        self, request: pb.ListIdentityIdsRequest, _context: Context
    ) -> pb.ListIdentityIdsResponse:
        """Identities seen with a user agent."""
        self._widen_sites(request)
        window = queries.page_window(request)
        page = await self.reader.identity_ids(queries.identity_conditions(request), window.lower, window.size)
        return queries.with_next_token(pb.ListIdentityIdsResponse(identity_ids=page.items), request, page.next_key)

    @_streaming
    async def StreamRelated(  # noqa: N802
        self, request: pb.StreamRelatedRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamRelatedResponse, None]:
        """The items that belong to several parents."""
        items = RelatedItems(self.store, self.reader, request, self.site_groups).items()
        async for part in stream_in_parts(items, _MESSAGE_BYTES, pb.RelatedItem.ByteSize):
            yield pb.StreamRelatedResponse(items=part)

    @_streaming
    def StreamEvents(  # noqa: N802
        self, request: pb.StreamEventsRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamEventsResponse, None]:
        """Events as they arrive."""
        return self.event_streams.events(request)

    @_streaming
    def ExportIdentity(  # noqa: N802
        self, request: pb.ExportIdentityRequest, _context: Context
    ) -> AsyncGenerator[pb.ExportIdentityResponse, None]:
        """Everything stored about an identity."""
        sites = self.site_groups.sharing(request.sites)
        return self.exporter.export(queries.parse_identity_id(request.identity_id), sites)

    @_unary
    async def EraseIdentity(self, request: pb.EraseIdentityRequest, _context: Context) -> pb.EraseIdentityResponse:  # noqa: N802
        """Erase an identity."""
        identity = queries.parse_identity_id(request.identity_id)
        request.erasure.erasure_id = queries.parse_uuid(request.erasure.erasure_id, "erasure.erasure_id")
        visit_count, event_count = await self.eraser.erase(identity, request.erasure)
        return pb.EraseIdentityResponse(visit_count=visit_count, event_count=event_count)

    async def _visit(self, request: Any) -> tuple[visit_pb2.Visit, Visit]:
        queries.parse_uuid(request.visit_id, "visit_id")
        await self._resolve(request)
        return _found(await self.reader.visit(request.visit_id, request.sites), "Visit", request.visit_id)

    def _widen_sites(self, request: Any) -> None:
        """Add the sites to a request that its sites share visits with."""
        request.sites[:] = self.site_groups.sharing(request.sites)

    async def _resolve(self, request: Any) -> None:
        """Add shared sites to a request, and replace the id of its visit, if it names one, by the stored id."""
        self._widen_sites(request)
        if request.visit_id:
            scope = getattr(request, "scope", None)
            requested = [scope.site] if isinstance(scope, pb.Scope) and scope.site else []
            candidates = self._candidates(request.visit_id, request.sites or requested)
            [request.visit_id] = (await self.reader.resolve_visits({"": candidates}, request.sites)).values()

    def _candidates(self, visit_id: str, sites: Sequence[str]) -> list[str]:
        """The stored ids that a visit's id may stand for."""
        return self.site_groups.candidates(queries.parse_uuid(visit_id, "visit_id"), sites)


def _found(found: Found | None, resource_type: str, name: str) -> Found:
    if found is None:
        raise RequestError.not_found(resource_type, name)
    return found
