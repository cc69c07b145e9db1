"""Turns calls of IdentityService into questions to the stores, and their answers into messages."""

from typing import Any, Final

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from footfall_timeline import Transition, normalize_uuid
from grpc.aio import ServicerContext

from footfall_identity import messages, metrics
from footfall_identity.link_store import LinkStore
from footfall_identity.visit_record import touches, transition_of
from footfall_identity.visitor_store import VisitorStore

MOST_EVENTS: Final = 1_000
MOST_IDENTITIES: Final = 1_000
LONGEST_IDENTITY: Final = 512

Context = ServicerContext[Any, Any]


class IdentityService(IdentityServiceServicer):
    """The contract in identity_service.proto."""

    def __init__(self, visitors: VisitorStore, links: LinkStore, *, copy_name: bool) -> None:
        self._visitors = visitors
        self._links = links
        self._copy_name = copy_name

    async def ResolveEvents(self, request: pb.ResolveEventsRequest, _context: Context) -> pb.ResolveEventsResponse:  # noqa: N802
        """Merge events into timelines. Asks Redis only, so `contact_id` stays empty in the answer."""
        metrics.RESOLVE_EVENTS.observe(len(request.events))
        changed = await self._visitors.merge(touches(_admitted(request)))
        metrics.TIMELINES_CHANGED.inc(len(changed))
        return pb.ResolveEventsResponse(visitors=[messages.visitor(record, {}) for record in changed])

    async def GetVisitor(self, request: pb.GetVisitorRequest, _context: Context) -> pb.GetVisitorResponse:  # noqa: N802
        """The live state of a visit. Without `contact_id` while MongoDB does not answer."""
        visit_id = _visit_id(request.visit_id)
        record = (await self._visitors.get([visit_id])).get(visit_id)
        if record is None:
            raise RequestError.not_found("Visitor", visit_id)
        contact_ids = await self._links.contact_ids([record.fold.stamp.identity])
        return pb.GetVisitorResponse(visitor=messages.visitor(record, contact_ids))

    async def GetIdentity(self, request: pb.GetIdentityRequest, _context: Context) -> pb.GetIdentityResponse:  # noqa: N802
        """One identity that an event has named."""
        identity_id = _identity_id(request.identity_id)
        record = (await self._links.get([identity_id])).get(identity_id)
        if record is None or record.first_ms is None:
            raise RequestError.not_found("Identity", identity_id)
        return pb.GetIdentityResponse(identity=messages.identity(record, copy_name=self._copy_name))

    async def BatchGetIdentities(  # noqa: N802
        self, request: pb.BatchGetIdentitiesRequest, _context: Context
    ) -> pb.BatchGetIdentitiesResponse:
        """Several identities, in the order asked for; unknown ones are left out."""
        if len(request.identity_ids) > MOST_IDENTITIES:
            raise RequestError.invalid("identity_ids", f"must be at most {MOST_IDENTITIES}")
        found = await self._links.get(request.identity_ids)
        records = [found[identity_id] for identity_id in request.identity_ids if identity_id in found]
        return pb.BatchGetIdentitiesResponse(
            identities=[
                messages.identity(record, copy_name=self._copy_name)
                for record in records
                if record.first_ms is not None
            ]
        )

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, _context: Context) -> pb.ListIdentitiesResponse:  # noqa: N802
        """All identities that events have named, by id."""
        same = paging.fingerprint(request)
        size = paging.page_size(request.page_size)
        after = paging.decode(request.page_token, same)
        records = await self._links.page(after or "", size + 1, request.location)
        token = paging.encode(records[size - 1].identity_id, same) if len(records) > size else ""
        identities = [messages.identity(record, copy_name=self._copy_name) for record in records[:size]]
        return pb.ListIdentitiesResponse(identities=identities, next_page_token=token)


def _admitted(request: pb.ResolveEventsRequest) -> list[tuple[Event, Transition | None]]:
    if len(request.events) > MOST_EVENTS:
        raise RequestError.invalid("events", f"must be at most {MOST_EVENTS}")
    admitted = []
    for position, event in enumerate(request.events):
        try:
            admitted.append((event, transition_of(event)))
        except ValueError as error:
            field, _, rule = str(error).partition(": ")
            raise RequestError.invalid(f"events[{position}].{field}", rule) from None
    return admitted


def _visit_id(text: str) -> str:
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid("visit_id", "must be a UUID") from None


def _identity_id(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_IDENTITY:
        raise RequestError.invalid("identity_id", f"must be 1 to {LONGEST_IDENTITY} characters")
    return text
