"""Turns calls of HistoryService into questions to the reader, and its answers into responses."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import wraps
from typing import Any, Final, TypeVar

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceServicer
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from footfall_timeline import LaterVersionError, Walls
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from footfall_history import event_log, queries, storage
from footfall_history.erasure import Eraser
from footfall_history.event_streams import LiveTail
from footfall_history.identity_client import Identities
from footfall_history.queries import Children, Exporter, Reader, Receipts, user_agent
from footfall_history.storage import Store, Visit

Context = ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Found = TypeVar("Found")
Method = Callable[["HistoryService", Request, Context], Coroutine[Any, Any, Response]]

# A later version will read what it has written, while it replaces this one.
_UNAVAILABLE: Final = (*storage.Unavailable, *event_log.Unavailable, LaterVersionError)
_RETRY_MS: Final = 1_000
_NO_WALLS: Final = Walls()


Answers = Callable[["HistoryService", Request, Context], AsyncGenerator[Response, None]]

# A message of a stream is sent when it has grown so large: far below what a channel takes.
_MESSAGE_BYTES: Final = 256 * 1024
_TIMELINE_PAGE: Final = 1_000


def _answered(method: "Method[Request, Response]") -> "Method[Request, Response]":
    """A method that says UNAVAILABLE, with the time to wait, when a store does not answer, or with what it can read."""

    @wraps(method)
    async def answer(self: "HistoryService", request: Request, context: Context) -> Response:
        try:
            return await method(self, request, context)
        except _UNAVAILABLE as error:
            raise _unavailable() from error

    return answer


def _streamed(method: "Answers[Request, Response]") -> "Answers[Request, Response]":
    """The same of a method that streams, at any message."""

    @wraps(method)
    async def answers(self: "HistoryService", request: Request, context: Context) -> AsyncGenerator[Response, None]:
        try:
            async with aclosing(method(self, request, context)) as found:
                async for answer in found:
                    yield answer
        except _UNAVAILABLE as error:
            raise _unavailable() from error

    return answers


def _unavailable() -> RequestError:
    return RequestError.unavailable("a store of history does not answer what this version can read", _RETRY_MS)


class HistoryService(HistoryServiceServicer):
    """The contract in history_service.proto."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        identities: Identities,
        tail: LiveTail,
        eraser: Eraser,
        *,
        receipts: Receipts,
        exporter: Exporter,
        walls: Walls = _NO_WALLS,
    ) -> None:
        self._store = store
        self._reader = reader
        self._identities = identities
        self._tail = tail
        self._eraser = eraser
        self._receipts = receipts
        self._exporter = exporter
        self._walls = walls

    @_answered
    async def GetVisit(self, request: pb.GetVisitRequest, _context: Context) -> pb.GetVisitResponse:  # noqa: N802
        """One visit."""
        visit, _ = await self._visit(request)
        if visit.user_agent:
            visit.user_agent_details.CopyFrom(user_agent(visit.user_agent, visit.user_agent_id))
        return pb.GetVisitResponse(visit=visit)

    @_answered
    async def ExplainVisit(self, request: pb.ExplainVisitRequest, _context: Context) -> pb.ExplainVisitResponse:  # noqa: N802
        """The timeline of a visit."""
        visit, known = await self._visit(request)
        window = queries.page_window(request, default_size=_TIMELINE_PAGE)
        explanations = await self._reader.explanations(known)
        keyed = zip([step.transition.order_key for step in known.fold.steps], explanations, strict=True)
        page = window.cut([(key, explanation) for key, explanation in keyed if window.contains(key)])
        response = pb.ExplainVisitResponse(visit=visit, explanations=page.items)
        if page.next_key:
            response.next_page_token = paging.encode(page.next_key, paging.fingerprint(request))
        return response

    @_answered
    async def ListVisits(self, request: pb.ListVisitsRequest, _context: Context) -> pb.ListVisitsResponse:  # noqa: N802
        """Visits by identity, device, user agent, site and time."""
        self._widen(request)
        window = queries.window(request, age_of_start=True)
        page = await self._reader.visits(queries.visit_conditions(request), window)
        response = pb.ListVisitsResponse(visits=page.items)
        queries.point_to_next(response, request, page.next_key)
        return response

    @_answered
    async def GetPage(self, request: pb.GetPageRequest, _context: Context) -> pb.GetPageResponse:  # noqa: N802
        """One page entry."""
        page_id = queries.uuid_of(request.page_id, "page_id")
        found = await self._reader.page(page_id, self._walls.sharing(request.sites))
        return pb.GetPageResponse(page=_known(found, "Page", page_id))

    @_answered
    async def ListPages(self, request: pb.ListPagesRequest, _context: Context) -> pb.ListPagesResponse:  # noqa: N802
        """Page entries of a visit, an identity or a session."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        page = await self._reader.pages(queries.parent_of(request), conditions, window, request.sites)
        response = pb.ListPagesResponse(pages=page.items)
        queries.point_to_next(response, request, page.next_key)
        return response

    @_answered
    async def GetSession(self, request: pb.GetSessionRequest, _context: Context) -> pb.GetSessionResponse:  # noqa: N802
        """One session."""
        session_id = queries.uuid_of(request.session_id, "session_id")
        found = await self._reader.session(session_id, self._walls.sharing(request.sites))
        return pb.GetSessionResponse(session=_known(found, "Session", session_id))

    @_answered
    async def ListSessions(self, request: pb.ListSessionsRequest, _context: Context) -> pb.ListSessionsResponse:  # noqa: N802
        """Sessions of a visit or an identity."""
        await self._resolve(request)
        window = queries.window(request, age_of_start=True)
        conditions, identity = queries.session_conditions(request)
        page = await self._reader.sessions(conditions, identity, window)
        response = pb.ListSessionsResponse(sessions=page.items)
        queries.point_to_next(response, request, page.next_key)
        return response

    @_answered
    async def GetEvent(self, request: pb.GetEventRequest, _context: Context) -> pb.GetEventResponse:  # noqa: N802
        """One event."""
        event_id = queries.uuid_of(request.event_id, "event_id")
        sites = self._walls.sharing(request.sites)
        visit_ids = self._candidates(request.visit_id, sites) if request.visit_id else []
        found = await self._reader.event(event_id, visit_ids, sites)
        return pb.GetEventResponse(event=_known(found, "Event", event_id))

    @_answered
    async def GetReceipt(self, request: pb.GetReceiptRequest, _context: Context) -> pb.GetReceiptResponse:  # noqa: N802
        """What became of one event."""
        sites = self._walls.sharing(request.sites)
        visit_ids = self._candidates(request.visit_id, sites)
        event_id = queries.uuid_of(request.event_id, "event_id")
        receipt = _known(await self._receipts.get(visit_ids, event_id, sites), "Receipt", event_id)
        return pb.GetReceiptResponse(receipt=receipt)

    @_answered
    async def ListEvents(self, request: pb.ListEventsRequest, _context: Context) -> pb.ListEventsResponse:  # noqa: N802
        """Events of a visit, an identity, a session or a page."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        page = await self._reader.events(queries.parent_of(request), conditions, window, request.sites)
        response = pb.ListEventsResponse(events=page.items)
        queries.point_to_next(response, request, page.next_key)
        return response

    @_answered
    async def ListVisitIdentities(  # noqa: N802
        self, request: pb.ListVisitIdentitiesRequest, context: Context
    ) -> pb.ListVisitIdentitiesResponse:
        """The identities a visit is associated with, as identity knows them or by id alone when it does not answer."""
        visit, known = await self._visit(request)
        window = queries.page_window(request)
        page = window.cut(
            [
                (association.first.order_key, association)
                for association in known.fold.associations
                if window.contains(association.first.order_key) and request.scope in {0, association.scope}
            ]
        )
        identities, count = await self._identities.get(
            [association.identity for association in page.items], context, request.sites
        )
        shown = window.cut(
            [
                (
                    association.first.order_key,
                    queries.association_message(visit.visit_id, association, identities.get(association.identity)),
                )
                for association in page.items[:count]
            ]
        )
        left = page.items[len(shown.items) :]
        next_key = left[0].first.order_key if left else page.next_key
        response = pb.ListVisitIdentitiesResponse(associations=shown.items)
        if next_key:
            response.next_page_token = paging.encode(next_key, paging.fingerprint(request))
        return response

    @_answered
    async def ListIdentityIds(  # noqa: N802
        self, request: pb.ListIdentityIdsRequest, _context: Context
    ) -> pb.ListIdentityIdsResponse:
        """Identities seen with a user agent."""
        self._widen(request)
        window = queries.page_window(request)
        page = await self._reader.identity_ids(queries.identity_conditions(request), window.lower, window.size)
        response = pb.ListIdentityIdsResponse(identity_ids=page.items)
        if page.next_key:
            response.next_page_token = paging.encode(page.next_key, paging.fingerprint(request))
        return response

    @_streamed
    async def StreamRelated(  # noqa: N802
        self, request: pb.StreamRelatedRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamRelatedResponse, None]:
        """What belongs to several parents."""
        response, size = pb.StreamRelatedResponse(), 0
        async for item in Children(self._store, self._reader, request, self._walls).items():
            response.items.append(item)
            size += item.ByteSize()
            if size >= _MESSAGE_BYTES:
                yield response
                response, size = pb.StreamRelatedResponse(), 0
        if response.items:
            yield response

    @_streamed
    async def StreamEvents(  # noqa: N802
        self, request: pb.StreamEventsRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamEventsResponse, None]:
        """Events as they arrive."""
        async with aclosing(self._tail.events(request)) as answers:
            async for answer in answers:
                yield answer

    @_streamed
    async def ExportIdentity(  # noqa: N802
        self, request: pb.ExportIdentityRequest, _context: Context
    ) -> AsyncGenerator[pb.ExportIdentityResponse, None]:
        """Everything known of an identity."""
        sites = self._walls.sharing(request.sites)
        async with aclosing(self._exporter.export(queries.identity_of(request.identity_id), sites)) as answers:
            async for answer in answers:
                yield answer

    @_answered
    async def EraseIdentity(self, request: pb.EraseIdentityRequest, _context: Context) -> pb.EraseIdentityResponse:  # noqa: N802
        """Forget a person."""
        identity = queries.identity_of(request.identity_id)
        request.erasure.erasure_id = queries.uuid_of(request.erasure.erasure_id, "erasure.erasure_id")
        erased = await self._eraser.erase(identity, request.erasure)
        return pb.EraseIdentityResponse(visit_count=erased.visit_count, event_count=erased.event_count)

    async def _visit(self, request: Any) -> tuple[visit_pb2.Visit, Visit]:
        queries.uuid_of(request.visit_id, "visit_id")
        await self._resolve(request)
        return _known(await self._reader.visit(request.visit_id, request.sites), "Visit", request.visit_id)

    def _widen(self, request: Any) -> None:
        """Let a request name all sites that its sites share visits with."""
        request.sites[:] = self._walls.sharing(request.sites)

    async def _resolve(self, request: Any) -> None:
        """Widen a request, and let it name the visit that it names, if it does, by the id that it is stored under."""
        self._widen(request)
        if request.visit_id:
            scope = getattr(request, "scope", None)
            asked = [scope.site] if isinstance(scope, pb.Scope) and scope.site else []
            candidates = self._candidates(request.visit_id, request.sites or asked)
            [request.visit_id] = (await self._reader.meant({"": candidates}, request.sites)).values()

    def _candidates(self, text: str, sites: Sequence[str]) -> list[str]:
        return self._walls.candidates(queries.uuid_of(text, "visit_id"), sites)


def _known(found: Found | None, resource_type: str, name: str) -> Found:
    if found is None:
        raise RequestError.not_found(resource_type, name)
    return found
