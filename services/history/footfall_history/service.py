"""The HistoryService RPCs: checks requests, queries the stores, and builds responses."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceServicer
from footfall_eventlog.json_text import json_as_asked
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.errors import RequestError
from footfall_servicekit.indexes import IndexMissingError
from footfall_timeline import LaterVersionError
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from footfall_history import queries
from footfall_history.dead_letters import DeadLetterQueue, list_dead_letters, repair_dead_letter, replay_dead_letters
from footfall_history.erasure import Eraser
from footfall_history.event_log import TRANSIENT_LOG_ERRORS
from footfall_history.event_streams import EventStreams
from footfall_history.identity_client import IdentityClient, PersonNames
from footfall_history.parts import in_parts, stream_in_parts
from footfall_history.policies import PolicyTrials
from footfall_history.queries import (
    Attributions,
    CustomerContexts,
    Exporter,
    InteractionReader,
    LiveVisits,
    Reader,
    RelatedItems,
    user_agent,
)
from footfall_history.scorecards import list_scorecards
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
_INDEX_RETRY_MS: Final = 10_000
# A stream's message is sent when it has reached this size, far below the limit of a channel.
_MESSAGE_BYTES: Final = 256 * 1024
_TIMELINE_PAGE_SIZE: Final = 1_000


@contextmanager
def _transient_errors_as_unavailable() -> Iterator[None]:
    try:
        yield
    except IndexMissingError as error:
        message = "an index that this query needs is being built; try again later"
        raise RequestError.unavailable(message, _INDEX_RETRY_MS, "INDEX_BEING_BUILT") from error
    except _TRANSIENT_ERRORS as error:
        message = "MongoDB or Redis does not answer, or a later version has written what is asked for; try again"
        # A store has been waited for, but a process of the later version can answer now.
        raise RequestError.unavailable(message, _RETRY_MS, repeats=isinstance(error, LaterVersionError)) from error


def _unary(method: "Method[Request, Response]") -> "Method[Request, Response]":
    """A method that fails with UNAVAILABLE and the time to wait after a transient error of a store.

    Its answer has JSON in the form that the request asks for.
    """

    @wraps(method)
    async def call(self: "HistoryService", request: Request, context: Context) -> Response:
        with _transient_errors_as_unavailable():
            return json_as_asked(request, await method(self, request, context))

    return call


def _streaming(method: "StreamMethod[Request, Response]") -> "StreamMethod[Request, Response]":
    """The same for a method that returns a stream."""

    @wraps(method)
    async def call(self: "HistoryService", request: Request, context: Context) -> AsyncGenerator[Response, None]:
        with _transient_errors_as_unavailable():
            async with aclosing(method(self, request, context)) as responses:
                async for response in responses:
                    yield json_as_asked(request, response)

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
    live_visits: LiveVisits
    site_groups: SiteGroups
    contexts: CustomerContexts
    interactions: InteractionReader
    policy_trials: PolicyTrials
    attributions: Attributions
    max_event_age_ms: int

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
        moment = queries.parse_moment(request)
        message, visit = await self._visit(request)
        window = queries.page_window(request, default_size=_TIMELINE_PAGE_SIZE)
        visit = await self.reader.seen(visit, moment)
        queries.set_attribution(message, visit.visit_state.attribution)
        page = await self.reader.explanations(visit, window, moment)
        return queries.with_next_token(
            pb.ExplainVisitResponse(visit=message, explanations=page.items), request, page.next_key
        )

    @_unary
    async def ListVisits(self, request: pb.ListVisitsRequest, context: Context) -> pb.ListVisitsResponse:  # noqa: N802
        """Visits by contact, identity, device, user agent, site and time."""
        self._widen_sites(request)
        window, person = queries.window(request, age_of_start=True), PersonNames([])
        if request.contact_id:
            contact_id = queries.parse_contact_id(request.contact_id)
            person = PersonNames(await self.identity_client.ids_of_contact(contact_id, context, request.sites))
        elif request.identity_id:
            person = await self._names(request.identity_id, request, context)
        page = await self.reader.visits(queries.visit_conditions(request, person.identity_ids), window)
        response = pb.ListVisitsResponse(visits=page.items, other_names_unavailable=not person.is_complete)
        return queries.with_next_page(response, request, page.next_key)

    @_unary
    async def GetPage(self, request: pb.GetPageRequest, _context: Context) -> pb.GetPageResponse:  # noqa: N802
        """One page entry."""
        page_id = queries.parse_uuid(request.page_id, "page_id")
        found = await self.reader.page(page_id, self.site_groups.sharing(request.sites))
        return pb.GetPageResponse(page=_found(found, "Page", page_id))

    @_unary
    async def ListPages(self, request: pb.ListPagesRequest, context: Context) -> pb.ListPagesResponse:  # noqa: N802
        """Page entries of a visit, an identity, a session or a contact."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        parents, is_complete = await self._parents(request, context)
        pages = [self.reader.pages(parent, conditions, window, request.sites) for parent in parents]
        page = window.merged(await asyncio.gather(*pages), queries.page_key)
        await self._require_parent(request, page, parents, is_complete=is_complete)
        response = pb.ListPagesResponse(pages=page.items, other_names_unavailable=not is_complete)
        return queries.with_next_page(response, request, page.next_key)

    @_unary
    async def GetSession(self, request: pb.GetSessionRequest, _context: Context) -> pb.GetSessionResponse:  # noqa: N802
        """One session."""
        session_id = queries.parse_uuid(request.session_id, "session_id")
        found = await self.reader.session(session_id, self.site_groups.sharing(request.sites))
        return pb.GetSessionResponse(session=_found(found, "Session", session_id))

    @_unary
    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:  # noqa: N802
        """Sessions of a visit, an identity or a contact."""
        await self._resolve(request)
        window = queries.window(request, age_of_start=True)
        parents, is_complete = await self._parents(request, context)
        conditions, identities = queries.session_conditions(request, parents)
        page = await self.reader.sessions(conditions, identities, window)
        await self._require_parent(request, page, parents, is_complete=is_complete)
        response = pb.ListSessionsResponse(sessions=page.items, other_names_unavailable=not is_complete)
        return queries.with_next_page(response, request, page.next_key)

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
    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:  # noqa: N802
        """Events of a visit, an identity, a session, a page or a contact."""
        await self._resolve(request)
        window, conditions = queries.window(request), queries.event_conditions(request)
        parents, is_complete = await self._parents(request, context)
        pages = [self.reader.events(parent, conditions, window, request.sites) for parent in parents]
        page = window.merged(await asyncio.gather(*pages), queries.event_key)
        await self._require_parent(request, page, parents, is_complete=is_complete)
        response = pb.ListEventsResponse(events=page.items, other_names_unavailable=not is_complete)
        return queries.with_next_page(response, request, page.next_key)

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

    @_unary
    async def GetCustomerContext(  # noqa: N802
        self, request: pb.GetCustomerContextRequest, context: Context
    ) -> pb.GetCustomerContextResponse:
        """What is known of a customer."""
        return await self.contexts.find(request, context)

    @_unary
    async def GetInteraction(  # noqa: N802
        self, request: pb.GetInteractionRequest, context: Context
    ) -> pb.GetInteractionResponse:
        """One interaction."""
        self._widen_sites(request)
        interaction_id = queries.parse_interaction_id(request.interaction_id)
        found = await self.interactions.get(interaction_id, request.sites, context)
        return pb.GetInteractionResponse(interaction=_found(found, "Interaction", interaction_id))

    @_unary
    async def ListInteractions(  # noqa: N802
        self, request: pb.ListInteractionsRequest, context: Context
    ) -> pb.ListInteractionsResponse:
        """Interactions by visit, identity, contact, telephone number, agent and time."""
        await self._resolve(request)
        window, person = queries.interactions_window(request), PersonNames([])
        if request.HasField("identity_id"):
            person = await self._names(request.identity_id, request, context)
        page = await self.interactions.page(request, window, context, person.identity_ids)
        await self._require_subject(request, page, person)
        response = pb.ListInteractionsResponse(interactions=page.items, other_names_unavailable=not person.is_complete)
        return queries.with_next_token(response, request, page.next_key)

    @_unary
    async def ListScorecards(  # noqa: N802
        self, request: pb.ListScorecardsRequest, _context: Context
    ) -> pb.ListScorecardsResponse:
        """Scorecards by site and day."""
        self._widen_sites(request)
        return await list_scorecards(self.store, request)

    @_streaming
    def SimulatePolicy(  # noqa: N802
        self, request: pb.SimulatePolicyRequest, _context: Context
    ) -> AsyncGenerator[pb.SimulatePolicyResponse, None]:
        """How far a trial of a policy is, then its report."""
        return self.policy_trials.simulate(request, self.site_groups.sharing(request.sites))

    @_unary
    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, _context: Context
    ) -> pb.ListDeadLettersResponse:
        """Dead letters, without what visitors have sent in them."""
        return await list_dead_letters(self.dead_letters, request, self.max_event_age_ms)

    @_unary
    async def ReplayDeadLetters(  # noqa: N802
        self, request: pb.ReplayDeadLettersRequest, _context: Context
    ) -> pb.ReplayDeadLettersResponse:
        """Append dead letters to the event log again."""
        return await replay_dead_letters(self.dead_letters, request, self.max_event_age_ms)

    @_unary
    async def RepairDeadLetter(  # noqa: N802
        self, request: pb.RepairDeadLetterRequest, _context: Context
    ) -> pb.RepairDeadLetterResponse:
        """Change the event of a dead letter."""
        return await repair_dead_letter(self.dead_letters, request, self.max_event_age_ms)

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
        erased = await self.eraser.erase(identity, request.erasure)
        return pb.EraseIdentityResponse(
            visit_count=erased.visits, event_count=erased.events, interaction_count=erased.interactions
        )

    @_streaming
    async def StreamLiveVisits(  # noqa: N802
        self, request: pb.StreamLiveVisitsRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamLiveVisitsResponse, None]:
        """What live state has to know of live visits."""
        async for visits in self.live_visits.stream(frozenset(request.partitions)):
            for part in in_parts(visits, _MESSAGE_BYTES, pb.LiveVisit.ByteSize):
                yield pb.StreamLiveVisitsResponse(visits=part)

    @_streaming
    async def StreamAttributions(  # noqa: N802
        self, request: pb.StreamAttributionsRequest, _context: Context
    ) -> AsyncGenerator[pb.StreamAttributionsResponse, None]:
        """Events as they are attributed now, and those of which the caller has got another attribution."""
        async for part in stream_in_parts(self.attributions.items(request), _MESSAGE_BYTES, pb.AttributedItem.ByteSize):
            yield pb.StreamAttributionsResponse(items=part)

    async def _visit(self, request: Any) -> tuple[visit_pb2.Visit, Visit]:
        queries.parse_uuid(request.visit_id, "visit_id")
        await self._resolve(request)
        return _found(await self.reader.visit(request.visit_id, request.sites), "Visit", request.visit_id)

    async def _names(self, identity_id: str, request: Any, context: Context) -> PersonNames:
        """All names of the person whom an identity of a request means."""
        return await self.identity_client.names(queries.parse_identity_id(identity_id), context, request.sites)

    async def _parents(self, request: Any, context: Context) -> tuple[list[tuple[str, str]], bool]:
        """The parents of a list request, as field and id, and whether all are known.

        A contact stands for its identities, and an identity for all names of the person.
        """
        field, parent_id = queries.parse_parent(request)
        match field:
            case "contact_id":
                person = PersonNames(await self.identity_client.ids_of_contact(parent_id, context, request.sites))
            case "identity_id":
                person = await self._names(parent_id, request, context)
            case _:
                return [(field, parent_id)], True
        return [("identity_id", identity) for identity in person.identity_ids], person.is_complete

    async def _require_parent(
        self, request: Any, page: queries.Page[Any], parents: Sequence[tuple[str, str]], *, is_complete: bool
    ) -> None:
        """Raise RequestError (NOT_FOUND) when a list has no items because its parent is not known.

        UNAVAILABLE when it may be known by other names (`is_complete` is false).
        """
        field, parent_id = queries.parse_parent(request)
        if page.items or page.next_key or field == "contact_id":  # an unknown contact has been refused before
            return
        for one in parents:
            if await self.reader.has_parent(*one, request.sites):
                return
        raise _not_known(field, parent_id, is_complete=is_complete)

    async def _require_subject(
        self, request: pb.ListInteractionsRequest, page: queries.Page[Any], person: PersonNames
    ) -> None:
        """Raise RequestError (NOT_FOUND) when a list has no interactions because their visit or identity is not known.

        It is known also when an interaction that the filters leave out names it.
        """
        field = request.WhichOneof("about") or ""
        if page.items or page.next_key or field not in {"visit_id", "identity_id"}:
            return
        asked, sites = getattr(request, field), request.sites
        for subject in person.identity_ids or [asked]:
            if await self.interactions.has_any(field, subject, sites) or await self.reader.has_parent(
                field, subject, sites
            ):
                return
        raise _not_known(field, asked, is_complete=person.is_complete)

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


def _not_known(field: str, parent_id: str, *, is_complete: bool) -> RequestError:
    """The error about a parent that history does not know. `is_complete`: nor by any other name."""
    if not is_complete:
        message = "history does not know this name, and identity, which knows other names of it, does not answer"
        return RequestError.unavailable(message, _RETRY_MS, repeats=False)
    return RequestError.not_found(field.removesuffix("_id").capitalize(), parent_id)


def _found(found: Found | None, resource_type: str, name: str) -> Found:
    if found is None:
        raise RequestError.not_found(resource_type, name)
    return found
