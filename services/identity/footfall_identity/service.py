"""The gRPC service IdentityService: validates requests, queries the stores and builds the responses."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer
from footfall_eventlog.settings import MINUTE_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from grpc.aio import ServicerContext

from footfall_identity import messages, metrics, requests
from footfall_identity.change_feed import ChangeFeed
from footfall_identity.contact_record import ContactRecord
from footfall_identity.erasure import Eraser
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.live_visitors import is_visible, list_live
from footfall_identity.partitions import Partitions
from footfall_identity.record_writer import RecordWriter
from footfall_identity.settings import IdentitySettings
from footfall_identity.visit_record import visit_updates
from footfall_identity.visitor_store import VisitorStore, now_ms

_PERSON_PAGE: Final = 1_000
_IDENTITIES_PER_READ: Final = 200

Context = ServicerContext[Any, Any]


class IdentityService(IdentityServiceServicer):
    """Implements identity_service.proto."""

    def __init__(
        self,
        settings: IdentitySettings,
        partitions: Partitions,
        visitors: VisitorStore,
        links: LinkStore,
        *,
        linker: Linker,
        eraser: Eraser,
        feed: ChangeFeed,
        writer: RecordWriter,
    ) -> None:
        self._settings = settings
        self._partitions = partitions
        self._visitors = visitors
        self._links = links
        self._linker = linker
        self._eraser = eraser
        self._feed = feed
        self._writer = writer
        self._site_groups = SiteGroups.load(settings.sites_file)

    async def ResolveEvents(self, request: pb.ResolveEventsRequest, _context: Context) -> pb.ResolveEventsResponse:  # noqa: N802
        """Merge events into timelines and live state."""
        metrics.RESOLVE_EVENTS.observe(len(request.events))
        changed = await self._visitors.merge(visit_updates(requests.admitted(request.events)))
        metrics.TIMELINES_CHANGED.inc(len(changed))
        return pb.ResolveEventsResponse()

    async def GetVisitor(self, request: pb.GetVisitorRequest, _context: Context) -> pb.GetVisitorResponse:  # noqa: N802
        """Return the live state of a visit, without `contact_id` while MongoDB is unavailable."""
        visit_id = requests.visit_id(request.visit_id)
        sites = self._site_groups.sharing(request.sites)
        found = await self._visitors.get(self._site_groups.candidates(visit_id, sites))
        records = [record for record in found.values() if is_visible(record.site, "", sites)]
        if not records:
            raise RequestError.not_found("Visitor", visit_id)
        record = min(records, key=lambda record: (record.received_ms, record.site, record.visit_id))
        contact_ids = await self._links.contact_ids([record.visit_state.attribution.identity])
        return pb.GetVisitorResponse(visitor=messages.visitor(record, contact_ids))

    async def ListVisitors(self, request: pb.ListVisitorsRequest, _context: Context) -> pb.ListVisitorsResponse:  # noqa: N802
        """List the visitors who are on the site now. A page may be short although there are more."""
        fingerprint = paging.fingerprint(request)
        page = await list_live(
            self._visitors,
            self._partitions.numbers,
            state=requests.state(request.state),
            site=request.site,
            sites=self._site_groups.sharing(request.sites),
            below=requests.live_position(paging.decode(request.page_token, fingerprint)),
            size=paging.page_size(request.page_size),
        )
        contact_ids = await self._links.contact_ids({record.visit_state.attribution.identity for record in page.visits})
        visitors = [messages.visitor(record, contact_ids) for record in page.visits]
        count = paging.fitting(visitors)
        below = page.positions[count - 1] if count < len(visitors) else page.below
        return pb.ListVisitorsResponse(
            visitors=visitors[:count],
            next_page_token=paging.encode("{}-{}".format(*below), fingerprint) if below else "",
        )

    async def WatchVisitors(  # noqa: N802
        self, request: pb.WatchVisitorsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchVisitorsResponse]:
        """Stream transitions as they happen, each with a token to resume after it."""
        request.sites[:] = self._site_groups.sharing(request.sites)
        async for message in self._feed.watch(request):
            yield message

    async def GetIdentity(self, request: pb.GetIdentityRequest, _context: Context) -> pb.GetIdentityResponse:  # noqa: N802
        """Return an identity that an event has named."""
        identity_id = requests.identity_id(request.identity_id)
        record = (await self._links.get([identity_id], self._site_groups.sharing(request.sites))).get(identity_id)
        if record is None or record.first_ms is None:
            raise RequestError.not_found("Identity", identity_id)
        return pb.GetIdentityResponse(identity=self._identity(record))

    async def BatchGetIdentities(  # noqa: N802
        self, request: pb.BatchGetIdentitiesRequest, _context: Context
    ) -> pb.BatchGetIdentitiesResponse:
        """Return the known ones of these identities in the order given, and the ids that did not fit."""
        ids = request.identity_ids
        if len(ids) > requests.MAX_IDENTITIES:
            raise RequestError.invalid("identity_ids", f"must have at most {requests.MAX_IDENTITIES} items")
        response, size = pb.BatchGetIdentitiesResponse(), 0
        sites = self._site_groups.sharing(request.sites)
        for start in range(0, len(ids), _IDENTITIES_PER_READ):
            part = ids[start : start + _IDENTITIES_PER_READ]
            found = await self._links.get(part, sites)
            for position, identity_id in enumerate(part, start):
                record = found.get(identity_id)
                if record is None or record.first_ms is None:
                    continue
                identity = self._identity(record)
                size += identity.ByteSize()
                if size > paging.PAGE_BYTES and response.identities:
                    response.unread_identity_ids.extend(ids[position:])
                    return response
                response.identities.append(identity)
        return response

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, _context: Context) -> pb.ListIdentitiesResponse:  # noqa: N802
        """List identities that events have named, by id."""
        if request.sites and request.location:
            raise RequestError.invalid(
                "location", "must be empty when sites are given: it is searched across all sites"
            )
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size)
        after = paging.decode(request.page_token, fingerprint)
        records = await self._links.page(
            after or "", size + 1, request.location, self._site_groups.sharing(request.sites)
        )
        identities, token = self._page(records, size, fingerprint)
        return pb.ListIdentitiesResponse(identities=identities, next_page_token=token)

    def _page(self, records: list[IdentityRecord], size: int, fingerprint: bytes) -> tuple[list[Identity], str]:
        """Return as many of these as were requested and fit into one message, and the token of the next page."""
        identities = [self._identity(record) for record in records[:size]]
        count = paging.fitting(identities)
        more = len(records) > count
        return identities[:count], paging.encode(records[count - 1].identity_id, fingerprint) if more else ""

    def _identity(self, record: IdentityRecord) -> Identity:
        return messages.identity(record, copy_name=self._settings.copy_name)

    async def UpsertContact(self, request: pb.UpsertContactRequest, _context: Context) -> pb.UpsertContactResponse:  # noqa: N802
        """Create or replace a contact. The links it affects are correct when this returns."""
        given = requests.contact(request.contact, self._settings.phone_region)
        return pb.UpsertContactResponse(contact=messages.contact(await self._linker.upsert(given)))

    async def GetContact(self, request: pb.GetContactRequest, _context: Context) -> pb.GetContactResponse:  # noqa: N802
        """Return a contact."""
        contact, _ = await self._contact(request.contact_id, self._site_groups.sharing(request.sites))
        return pb.GetContactResponse(contact=messages.contact(contact))

    async def _contact(
        self, contact_id: str, sites: Sequence[str], *, after: str = "", size: int = 1
    ) -> tuple[ContactRecord, list[IdentityRecord]]:
        """Return a contact and the identities linked to it; with `sites`, one that these sites know.

        Both are always queried, so that the duration does not reveal whether the contact exists.
        """
        named = requests.contact_id(contact_id)
        record, linked = await asyncio.gather(
            self._links.contact(named), self._links.linked_to(named, after, size, sites)
        )
        is_known = bool(linked or not sites or (after and await self._links.linked_to(named, "", 1, sites)))
        if record is None or record.is_deleted or not is_known:
            raise RequestError.not_found("Contact", contact_id)
        return record, linked

    async def DeleteContact(self, request: pb.DeleteContactRequest, _context: Context) -> pb.DeleteContactResponse:  # noqa: N802
        """Delete a contact. The links it affects are correct when this returns."""
        contact_id = requests.contact_id(request.contact_id)
        if not await self._linker.delete(contact_id):
            raise RequestError.not_found("Contact", contact_id)
        return pb.DeleteContactResponse()

    async def LinkContact(self, request: pb.LinkContactRequest, _context: Context) -> pb.LinkContactResponse:  # noqa: N802
        """Link an identity to a contact manually."""
        identity_id, contact_id = requests.identity_id(request.identity_id), requests.contact_id(request.contact_id)
        record = await self._linker.link(identity_id, contact_id, requests.actor(request.actor))
        return pb.LinkContactResponse(link=messages.contact_links(record)[0])

    async def UnlinkContact(self, request: pb.UnlinkContactRequest, _context: Context) -> pb.UnlinkContactResponse:  # noqa: N802
        """Unlink an identity manually."""
        identity_id = requests.identity_id(request.identity_id)
        record = await self._linker.unlink(identity_id, requests.actor(request.actor))
        return pb.UnlinkContactResponse(link=messages.contact_links(record)[0])

    async def ListContactLinks(  # noqa: N802
        self, request: pb.ListContactLinksRequest, _context: Context
    ) -> pb.ListContactLinksResponse:
        """List the stored links of an identity, newest first. The page token holds the number of older links."""
        identity_id = requests.identity_id(request.identity_id)
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size)
        older = requests.links_position(paging.decode(request.page_token, fingerprint))
        record = (await self._links.get([identity_id], self._site_groups.sharing(request.sites))).get(identity_id)
        if record is None:
            raise RequestError.not_found("Identity", identity_id)
        links = messages.contact_links(record)
        page = links[0 if older is None else max(0, len(links) - older) :]
        count = paging.fitting(page[:size])
        left = len(page) - count
        return pb.ListContactLinksResponse(
            links=page[:count], next_page_token=paging.encode(str(left), fingerprint) if left else ""
        )

    async def GetPerson(self, request: pb.GetPersonRequest, _context: Context) -> pb.GetPersonResponse:  # noqa: N802
        """Return a contact with the identities linked to it, also those that no event has named yet."""
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size, default=_PERSON_PAGE)
        after = paging.decode(request.page_token, fingerprint)
        sites = self._site_groups.sharing(request.sites)
        contact, records = await self._contact(request.contact_id, sites, after=after or "", size=size + 1)
        identities, token = self._page(records, size, fingerprint)
        return pb.GetPersonResponse(contact=messages.contact(contact), identities=identities, next_page_token=token)

    async def EraseIdentity(self, request: pb.EraseIdentityRequest, _context: Context) -> pb.EraseIdentityResponse:  # noqa: N802
        """Erase an identity."""
        identity_id = requests.identity_id(request.identity_id)
        response = await self._eraser.erase(identity_id, requests.actor(request.actor))
        log_clean_ms = now_ms() + self._settings.log_retention_minutes * MINUTE_MS
        response.log_clean_time.CopyFrom(messages.timestamp(log_clean_ms))
        return response

    async def ImportIdentities(  # noqa: N802
        self, request: pb.ImportIdentitiesRequest, _context: Context
    ) -> pb.ImportIdentitiesResponse:
        """Import events of the past into records of identities."""
        await self._writer.import_past(requests.admitted(request.events), request.visits)
        return pb.ImportIdentitiesResponse()
