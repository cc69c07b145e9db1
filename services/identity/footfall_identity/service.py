"""The gRPC service IdentityService: validates requests, queries the stores and builds the responses."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import ContactOutcome
from footfall.identity.v1.contact_pb2 import GenericValue as GenericValueMessage
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceServicer
from footfall.identity.v1.redirect_pb2 import IdentityNames
from footfall_eventlog.json_text import json_as_asked
from footfall_eventlog.settings import MINUTE_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from grpc.aio import ServicerContext

from footfall_identity import messages, metrics, requests
from footfall_identity.change_feed import ChangeFeed
from footfall_identity.contact_directory import ContactDirectory, ContactsPosition
from footfall_identity.contact_record import ContactChange, ContactRecord
from footfall_identity.contact_writer import ContactWriter, serving_between
from footfall_identity.customers import Customers
from footfall_identity.erasure import Eraser
from footfall_identity.generic_values import GenericValue
from footfall_identity.history_client import HistoryClient
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.live_visitors import LiveVisitors, find_visit
from footfall_identity.persons import Persons
from footfall_identity.record_writer import RecordWriter
from footfall_identity.redirect_store import RedirectStore
from footfall_identity.redirects import Redirect, limited_to
from footfall_identity.relink_store import Cohort
from footfall_identity.relinking import Relinker
from footfall_identity.requests import ContactItem
from footfall_identity.settings import IdentitySettings
from footfall_identity.visit_codes import VisitCodes
from footfall_identity.visit_record import VisitRecord, visit_updates
from footfall_identity.visitor_counts import VisitorCounts
from footfall_identity.visitor_store import VisitorStore, now_ms
from footfall_identity.watch_filter import WatchFilter

_PERSON_PAGE: Final = 1_000
_IDENTITIES_PER_READ: Final = 200
_LISTED_PER_READ: Final = 200
_MOST_COUNTED: Final = 1_000

Context = ServicerContext[Any, Any]


class IdentityService(IdentityServiceServicer):
    """Implements identity_service.proto."""

    def __init__(
        self,
        settings: IdentitySettings,
        visitors: VisitorStore,
        links: LinkStore,
        *,
        live: LiveVisitors,
        counts: VisitorCounts,
        directory: ContactDirectory,
        codes: VisitCodes,
        linker: Linker,
        relinker: Relinker,
        eraser: Eraser,
        feed: ChangeFeed,
        writer: RecordWriter,
        contacts: ContactWriter,
        history: HistoryClient,
    ) -> None:
        self._settings = settings
        self._visitors = visitors
        self._links = links
        self._persons = Persons(links)
        self._live = live
        self._counts = counts
        self._directory = directory
        self._linker = linker
        self._relinker = relinker
        self._eraser = eraser
        self._feed = feed
        self._writer = writer
        self._contacts = contacts
        self._history = history
        self.site_groups = SiteGroups.load(settings.sites_file)
        self._codes = codes
        self._customers = Customers(
            visitors,
            links,
            directory,
            codes,
            self.site_groups,
            phone_region=settings.phone_region,
            copy_name=settings.copy_name,
            linker=linker,
        )

    async def ResolveEvents(self, request: pb.ResolveEventsRequest, _context: Context) -> pb.ResolveEventsResponse:  # noqa: N802
        """Merge events into timelines and live state."""
        metrics.RESOLVE_EVENTS.observe(len(request.events))
        changed = await self._visitors.merge(visit_updates(requests.admitted(request.events)))
        metrics.TIMELINES_CHANGED.inc(len(changed))
        return pb.ResolveEventsResponse()

    async def GetVisitor(self, request: pb.GetVisitorRequest, context: Context) -> pb.GetVisitorResponse:  # noqa: N802
        """Return the state of a visit, live or at a moment. The contact is unknown while MongoDB is unavailable."""
        sites = self.site_groups.sharing(request.sites)
        if request.HasField("as_of_time") or request.HasField("known_at_time"):
            visit_id = requests.visit_id(request.visit_id)
            visit = await self._history.visit_at(request, context)
            if visit is None:
                raise RequestError.not_found("Visitor", visit_id)
            contacts = await self._links.known_contacts([visit.identity_id], sites)
            return pb.GetVisitorResponse(visitor=messages.past_visitor(visit, contacts))
        record = await self._visit(request.visit_id, sites)
        contacts = await self._links.known_contacts([record.visit_state.attribution.identity], sites)
        return pb.GetVisitorResponse(visitor=messages.visitor(record, contacts))

    async def _visit(self, given: str, sites: list[str]) -> VisitRecord:
        """Return a visit that was seen on one of these sites (empty: on any). Raises RequestError."""
        visit_id = requests.visit_id(given)
        record = await find_visit(self._visitors, self.site_groups, visit_id, sites)
        if record is None:
            raise RequestError.not_found("Visitor", visit_id)
        return record

    async def ListVisitors(self, request: pb.ListVisitorsRequest, _context: Context) -> pb.ListVisitorsResponse:  # noqa: N802
        """List visitors, latest start of the visit first. A page may be short although there are more."""
        fingerprint = paging.fingerprint(request)
        size, sites = paging.page_size(request.page_size), self.site_groups.sharing(request.sites)
        below = requests.live_position(paging.decode(request.page_token, fingerprint))
        wanted = requests.visitor_filter(request, sites)
        if request.contact_id:
            contact_id = requests.contact_id(request.contact_id)
            wanted = wanted.of_identities(await self._links.linked_ids(contact_id, sites, requests.MAX_IDENTITIES))
        page = await self._live.page(wanted, below, size)
        contacts = await self._links.known_contacts(
            {record.visit_state.attribution.identity for record in page.visits}, sites
        )
        visitors = [messages.visitor(record, contacts) for record in page.visits]
        count = paging.fitting(visitors)
        below = page.positions[count - 1] if count < len(visitors) else page.below
        return pb.ListVisitorsResponse(
            visitors=visitors[:count],
            next_page_token=paging.encode("{}-{}".format(*below), fingerprint) if below else "",
        )

    async def CountVisitors(self, request: pb.CountVisitorsRequest, _context: Context) -> pb.CountVisitorsResponse:  # noqa: N802
        """Count the visitors who are on the website, by site and state."""
        sites = self.site_groups.sharing(request.sites)
        counted = await self._counts.now()
        named, others = self._counts.named(counted, sites)
        return pb.CountVisitorsResponse(
            count_time=messages.timestamp(counted.at_ms),
            counts=[messages.visitor_count(site, counts) for site, counts in named],
            others=None if sites else messages.visitor_count("", others),
        )

    async def GetVisitorMinutes(  # noqa: N802
        self, request: pb.GetVisitorMinutesRequest, _context: Context
    ) -> pb.GetVisitorMinutesResponse:
        """Return how many visitors were on websites in past minutes."""
        wanted, from_ms, until_ms = requests.minutes(request, now_ms())
        found = await self._counts.minutes(wanted, self.site_groups.sharing(request.sites), from_ms, until_ms)
        series = zip(wanted or [""], found, strict=True)
        return pb.GetVisitorMinutesResponse(series=[messages.visitor_series(site, minutes) for site, minutes in series])

    async def WatchVisitors(  # noqa: N802
        self, request: pb.WatchVisitorsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchVisitorsResponse]:
        """Stream changes of visitors as they happen, each with a token to resume after it."""
        sites = self.site_groups.sharing(request.sites)
        wanted = requests.watch_filter(request, sites)
        listed = self._listed(wanted, sites) if request.list_first else None
        async for message in self._feed.watch(request, wanted, listed):
            yield message

    async def _listed(self, wanted: WatchFilter, sites: list[str]) -> AsyncIterator[pb.WatchVisitorsResponse]:
        """Yield the visitors on the website whom a filter lets through."""
        async for records in self._listed_records(wanted, sites):
            contacts = await self._links.known_contacts(
                {record.visit_state.attribution.identity for record in records}, sites
            )
            for record in records:
                visitor = messages.visitor(record, contacts)
                if wanted.has_contact(visitor):
                    yield pb.WatchVisitorsResponse(
                        visitor=visitor,
                        previous_state=visitor.state,
                        previous_identity_id=visitor.identity_id,
                        previous_contact_id=visitor.contact_id,
                        changes=[pb.VISITOR_CHANGE_LISTED],
                    )

    async def _listed_records(self, wanted: WatchFilter, sites: list[str]) -> AsyncIterator[list[VisitRecord]]:
        conditions = wanted.listed
        if wanted.contacts is not None:
            linked = [await self._links.linked_ids(one, sites, requests.MAX_IDENTITIES) for one in wanted.contacts]
            conditions = conditions.of_identities(chain.from_iterable(linked))
        if wanted.visit_ids is not None:
            ids = {stored for one in wanted.visit_ids for stored in self.site_groups.candidates(one, sites)}
            records = await self._visitors.get(ids)
            yield [record for record in records.values() if conditions.matches(record)]
            return
        for part in conditions.parts(requests.MAX_IDENTITIES):
            page = await self._live.page(part, None, _LISTED_PER_READ)
            while page.below is not None:
                yield page.visits
                page = await self._live.page(part, page.below, _LISTED_PER_READ)
            yield page.visits

    async def GetIdentity(self, request: pb.GetIdentityRequest, _context: Context) -> pb.GetIdentityResponse:  # noqa: N802
        """Return an identity that an event has named."""
        identity_id = requests.identity_id(request.identity_id)
        person = await self._persons.find(identity_id, self.site_groups.sharing(request.sites))
        if person.record is None:
            raise RequestError.not_found("Identity", identity_id)
        identity = self._identity(person.record)
        identity.other_identity_ids.extend(one for one in person.identity_ids if one != person.current_id)
        if person.current_id != identity_id:
            identity.redirected_from = identity_id
        return json_as_asked(request, pb.GetIdentityResponse(identity=identity))

    async def BatchGetIdentities(  # noqa: N802
        self, request: pb.BatchGetIdentitiesRequest, _context: Context
    ) -> pb.BatchGetIdentitiesResponse:
        """Return the known ones of these identities in the order given, and the ids that did not fit."""
        ids = requests.several_ids(request.identity_ids)
        response, size = pb.BatchGetIdentitiesResponse(), 0
        sites = self.site_groups.sharing(request.sites)
        for start in range(0, len(ids), _IDENTITIES_PER_READ):
            part = ids[start : start + _IDENTITIES_PER_READ]
            found = await self._links.get(part, sites)
            names = await self._persons.names(part, sites)
            for position, identity_id in enumerate(part, start):
                record = found.get(identity_id)
                if record is None or record.first_ms is None:
                    continue
                identity = self._identity(record)
                messages.add_current_names([identity], names)
                size += identity.ByteSize()
                if size > paging.PAGE_BYTES and response.identities:
                    response.unread_identity_ids.extend(ids[position:])
                    return json_as_asked(request, response)
                response.identities.append(identity)
        return json_as_asked(request, response)

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, _context: Context) -> pb.ListIdentitiesResponse:  # noqa: N802
        """List identities that events have named, by id."""
        for field in ("location", "shared_only", "link_doubt"):
            if request.sites and getattr(request, field):
                raise RequestError.invalid(field, "must be empty when sites are given: it is searched across all sites")
        doubt = requests.link_doubt(request)
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size)
        after = paging.decode(request.page_token, fingerprint)
        sites = self.site_groups.sharing(request.sites)
        if doubt:
            records = await self._links.doubtful(doubt, after or "", size + 1)
        else:
            above = self._linker.policy.rules.max_devices_per_day if request.shared_only else None
            records = await self._links.page(after or "", size + 1, request.location, sites, above_devices=above)
        identities, token = await self._page(records, size, fingerprint, sites)
        response = pb.ListIdentitiesResponse(identities=identities, next_page_token=token)
        if doubt and after is None:
            response.doubt_count = await self._links.count_doubtful(doubt, _MOST_COUNTED)
        return json_as_asked(request, response)

    async def _page(
        self, records: list[IdentityRecord], size: int, fingerprint: bytes, sites: Sequence[str]
    ) -> tuple[list[Identity], str]:
        """Return as many of these as were requested and fit into one message, and the token of the next page."""
        identities = [self._identity(record) for record in records[:size]]
        names = await self._persons.names([record.identity_id for record in records[:size]], sites)
        messages.add_current_names(identities, names)
        count = paging.fitting(identities)
        more = len(records) > count
        return identities[:count], paging.encode(records[count - 1].identity_id, fingerprint) if more else ""

    def _identity(self, record: IdentityRecord) -> Identity:
        max_devices = self._linker.policy.rules.max_devices_per_day
        return messages.identity(record, copy_name=self._settings.copy_name, max_devices=max_devices)

    async def UpsertContact(self, request: pb.UpsertContactRequest, _context: Context) -> pb.UpsertContactResponse:  # noqa: N802
        """Create or replace a contact. The links it affects are decided in the background."""
        change = requests.contact_change(
            request.contact,
            self._settings.phone_region,
            creates_only=request.create_only,
            request=requests.remembered(request.request_id, request, now_ms()),
        )
        contact, pending = await self._written(change, requests.wait_ms(request))
        return pb.UpsertContactResponse(contact=messages.contact(contact), pending_identity_count=pending)

    async def UpdateContact(self, request: pb.UpdateContactRequest, _context: Context) -> pb.UpdateContactResponse:  # noqa: N802
        """Change fields of a contact. The links it affects are decided in the background."""
        change = requests.contact_change(
            request.contact,
            self._settings.phone_region,
            update_mask=request.update_mask.paths,
            creates=request.allow_missing,
            request=requests.remembered(request.request_id, request, now_ms()),
        )
        contact, pending = await self._written(change, requests.wait_ms(request))
        return pb.UpdateContactResponse(contact=messages.contact(contact), pending_identity_count=pending)

    async def _written(self, change: ContactChange, wait_ms: int | None) -> tuple[ContactRecord, int]:
        """Write a contact; return it, and how many identities are still to be linked.

        Raises RequestError (NOT_FOUND) if there is no such contact.
        """
        contact = await self._contacts.write_one(change)
        if contact is None:
            raise RequestError.not_found("Contact", change.contact_id)
        return contact, await self._relinker.wait(contact, wait_ms)

    async def BatchUpsertContacts(  # noqa: N802
        self, request: pb.BatchUpsertContactsRequest, _context: Context
    ) -> pb.BatchUpsertContactsResponse:
        """Create or replace contacts; with `generation`, as a part of a synchronization."""
        items = requests.contact_items(request, self._settings.phone_region, now_ms())
        if request.generation:
            await self._contacts.mark_sent(request.generation, requests.sent_ids(request))
        return pb.BatchUpsertContactsResponse(outcomes=await self._outcomes(items))

    async def BatchDeleteContacts(  # noqa: N802
        self, request: pb.BatchDeleteContactsRequest, _context: Context
    ) -> pb.BatchDeleteContactsResponse:
        """Delete contacts."""
        items = requests.deletions(request.contact_ids)
        return pb.BatchDeleteContactsResponse(outcomes=await self._outcomes(items))

    async def _outcomes(self, items: Iterable[ContactItem]) -> list[ContactOutcome]:
        """Write the valid contacts of a batch, and return what became of each."""
        taken: list[ContactItem] = []

        def valid() -> Iterator[ContactChange]:
            for item in items:
                taken.append(item)
                if item.change:
                    yield item.change

        written = iter(await self._contacts.write(valid()))
        return [
            messages.contact_outcome(*next(written)) if item.change else messages.invalid_contact(item.violations)
            async for item in serving_between(taken)
        ]

    async def GetContact(self, request: pb.GetContactRequest, _context: Context) -> pb.GetContactResponse:  # noqa: N802
        """Return a contact."""
        contact, _ = await self._contact(request.contact_id, self.site_groups.sharing(request.sites))
        pending = 0 if request.sites else await self._relinker.pending_count(contact)
        return pb.GetContactResponse(
            contact=messages.contact(contact),
            pending_identity_count=pending,
            redirected_from=_redirected_from(request.contact_id, contact.contact_id),
        )

    async def ListContacts(self, request: pb.ListContactsRequest, _context: Context) -> pb.ListContactsResponse:  # noqa: N802
        """List contacts by id. A page may be short although there are more."""
        fingerprint = paging.fingerprint(request)
        page = await self._directory.find(
            requests.contact_filter(request, self._settings.phone_region),
            self.site_groups.sharing(request.sites),
            requests.contacts_position(paging.decode(request.page_token, fingerprint)),
            paging.page_size(request.page_size),
        )
        contacts = [messages.contact(record) for record in page.contacts]
        count = paging.fitting(contacts)
        position = ContactsPosition(contacts[count - 1].contact_id) if count < len(contacts) else page.position
        return pb.ListContactsResponse(
            contacts=contacts[:count],
            next_page_token=paging.encode(f"{position.skip}-{position.after}", fingerprint) if position else "",
        )

    async def _contact(
        self, contact_id: str, sites: Sequence[str], *, after: str = "", size: int = 1
    ) -> tuple[ContactRecord, list[IdentityRecord]]:
        """Return a contact and the identities linked to it; with `sites`, one that these sites know.

        Without `sites`, the contact that it leads to. Both are always queried, so that the duration does not reveal
        whether the contact exists.
        """
        named = requests.contact_id(contact_id)
        if not sites:
            named = (await self._links.merged_contacts([named])).resolved(named)
        record, linked = await asyncio.gather(
            self._links.contact(named), self._links.linked_to(named, after, size, sites)
        )
        is_known = bool(linked or not sites or (after and await self._links.linked_to(named, "", 1, sites)))
        if record is None or record.is_deleted or not is_known:
            raise RequestError.not_found("Contact", contact_id)
        return record, linked

    async def DeleteContact(self, request: pb.DeleteContactRequest, _context: Context) -> pb.DeleteContactResponse:  # noqa: N802
        """Delete a contact. The links it affects are decided in the background."""
        wait_ms = requests.wait_ms(request)
        contact = await self._contacts.write_one(requests.deletion(request))
        if contact is None:
            if request.allow_missing:
                return pb.DeleteContactResponse()
            raise RequestError.not_found("Contact", request.contact_id)
        return pb.DeleteContactResponse(pending_identity_count=await self._relinker.wait(contact, wait_ms))

    async def FinishContactSync(  # noqa: N802
        self, request: pb.FinishContactSyncRequest, _context: Context
    ) -> pb.FinishContactSyncResponse:
        """Delete contacts that were not sent in a synchronization."""
        finished = await self._contacts.finish_sync(
            requests.generation(request), requests.percent(request), validate_only=request.validate_only
        )
        return pb.FinishContactSyncResponse(
            deleted_count=finished.deleted, remaining_count=finished.remaining, kept_count=finished.kept
        )

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
        record = (await self._links.get([identity_id], self.site_groups.sharing(request.sites))).get(identity_id)
        if record is None:
            raise RequestError.not_found("Identity", identity_id)
        links = messages.contact_links(record)
        page = links[0 if older is None else max(0, len(links) - older) :]
        count = paging.fitting(page[:size])
        left = len(page) - count
        return pb.ListContactLinksResponse(
            links=page[:count], next_page_token=paging.encode(str(left), fingerprint) if left else ""
        )

    async def ListGenericValues(  # noqa: N802
        self, request: pb.ListGenericValuesRequest, _context: Context
    ) -> pb.ListGenericValuesResponse:
        """List the values that too many identities give, by their random names."""
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size, maximum=requests.MAX_VALUES_PER_PAGE)
        after = paging.decode(request.page_token, fingerprint) or ""
        found = await self._links.generic_values.page(after, size + 1)
        shown = [value for value in found[:size] if value.is_shown]
        values = await asyncio.gather(*map(self._generic_value, shown))
        token = paging.encode(found[size - 1].value_id, fingerprint) if len(found) > size else ""
        return pb.ListGenericValuesResponse(values=values, next_page_token=token)

    async def _generic_value(self, value: GenericValue) -> GenericValueMessage:
        count = await self._links.count_members(Cohort("keys", value.key), _MOST_COUNTED)
        return messages.generic_value(value, count)

    async def DecideGenericValue(  # noqa: N802
        self, request: pb.DecideGenericValueRequest, _context: Context
    ) -> pb.DecideGenericValueResponse:
        """Let rules use a generic value, or no longer."""
        value_id, actor = requests.value_id(request.value_id), requests.actor(request.actor)
        value = await self._linker.generic_values.decide(value_id, actor, is_allowed=request.allowed)
        return pb.DecideGenericValueResponse(value=await self._generic_value(value))

    async def GetPerson(self, request: pb.GetPersonRequest, _context: Context) -> pb.GetPersonResponse:  # noqa: N802
        """Return a contact with the identities linked to it, also those that no event has named yet."""
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size, default=_PERSON_PAGE)
        after = paging.decode(request.page_token, fingerprint)
        sites = self.site_groups.sharing(request.sites)
        contact, records = await self._contact(request.contact_id, sites, after=after or "", size=size + 1)
        identities, token = await self._page(records, size, fingerprint, sites)
        response = pb.GetPersonResponse(
            contact=messages.contact(contact),
            identities=identities,
            next_page_token=token,
            redirected_from=_redirected_from(request.contact_id, contact.contact_id),
        )
        if not sites:
            merged = await self._links.merged_contacts([contact.contact_id])
            response.merged_contact_ids.extend(merged.others(contact.contact_id))
        return json_as_asked(request, response)

    async def RenameIdentity(self, request: pb.RenameIdentityRequest, _context: Context) -> pb.RenameIdentityResponse:  # noqa: N802
        """Let an identity lead to another one."""
        from_id, to_id = requests.renamed_id(request), requests.new_id(request)
        renamed = await self._linker.rename(from_id, to_id, requests.actor(request.actor))
        return pb.RenameIdentityResponse(rename=messages.redirect(renamed))

    async def UndoRename(self, request: pb.UndoRenameRequest, _context: Context) -> pb.UndoRenameResponse:  # noqa: N802
        """Undo a rename."""
        renamed = await self._linker.undo_rename(requests.renamed_id(request), requests.actor(request.actor))
        return pb.UndoRenameResponse(rename=messages.redirect(renamed))

    async def ListRenames(self, request: pb.ListRenamesRequest, _context: Context) -> pb.ListRenamesResponse:  # noqa: N802
        """List renames by the old name. With `sites`, those between names that these sites know."""
        sites = self.site_groups.sharing(request.sites)
        of_names = None
        if request.identity_id:
            identity_id = requests.identity_id(request.identity_id)
            of_names = (await self._persons.names([identity_id], sites)).together(identity_id)
        found, token = await self._redirects(self._links.renames, request, of_names)
        if sites:
            visible = await self._links.visible({name for one in found for name in one.mentions}, sites)
            found = [limited for one in found if (limited := limited_to(one, visible))]
        return pb.ListRenamesResponse(renames=map(messages.redirect, found), next_page_token=token)

    async def _redirects(
        self,
        redirects: RedirectStore,
        request: pb.ListRenamesRequest | pb.ListMergesRequest,
        of_names: Sequence[str] | None,
    ) -> tuple[list[Redirect], str]:
        """Return a page of redirects, and the token of the next one. `of_names`: None for all."""
        fingerprint = paging.fingerprint(request)
        size = paging.page_size(request.page_size)
        after = paging.decode(request.page_token, fingerprint)
        found = await redirects.page(after or "", size + 1, of_names)
        count = paging.fitting(list(map(messages.redirect, found[:size])))
        has_more = len(found) > count
        return found[:count], paging.encode(found[count - 1].from_id, fingerprint) if has_more else ""

    async def BatchGetNames(self, request: pb.BatchGetNamesRequest, _context: Context) -> pb.BatchGetNamesResponse:  # noqa: N802
        """Return the names of persons that have several."""
        ids = requests.several_ids(request.identity_ids)
        names = await self._persons.names(ids, self.site_groups.sharing(request.sites))
        found = [
            IdentityNames(identity_id=one, current_identity_id=names.current(one), identity_ids=names.together(one))
            for one in ids
            if one in names.all
        ]
        return pb.BatchGetNamesResponse(names=found)

    async def MergeContacts(self, request: pb.MergeContactsRequest, _context: Context) -> pb.MergeContactsResponse:  # noqa: N802
        """Let a contact lead to another one."""
        from_id, into_id, actor = requests.merged_id(request), requests.into_id(request), requests.actor(request.actor)
        if not (await self._links.merged_contacts([into_id])).exists(into_id):
            raise RequestError.not_found("Contact", into_id)
        merge = await self._relinker.merge(from_id, into_id, actor)
        return pb.MergeContactsResponse(merge=messages.redirect(merge))

    async def UndoMerge(self, request: pb.UndoMergeRequest, _context: Context) -> pb.UndoMergeResponse:  # noqa: N802
        """Undo a merge of contacts."""
        merge = await self._relinker.undo_merge(requests.merged_id(request), requests.actor(request.actor))
        return pb.UndoMergeResponse(merge=messages.redirect(merge))

    async def ListMerges(self, request: pb.ListMergesRequest, _context: Context) -> pb.ListMergesResponse:  # noqa: N802
        """List merges by the contact that leads to another."""
        of_names = None
        if request.contact_id:
            contact_id = requests.contact_id(request.contact_id)
            of_names = (await self._links.merges.names([contact_id])).together(contact_id)
        found, token = await self._redirects(self._links.merges, request, of_names)
        return pb.ListMergesResponse(merges=map(messages.redirect, found), next_page_token=token)

    async def GetCustomer(self, request: pb.GetCustomerRequest, _context: Context) -> pb.GetCustomerResponse:  # noqa: N802
        """Return what is known of a customer."""
        return await self._customers.find(request)

    async def CountLinks(self, request: pb.CountLinksRequest, _context: Context) -> pb.CountLinksResponse:  # noqa: N802
        """Count how identities are linked."""
        records = await self._links.in_force(requests.several_ids(request.identity_ids))
        return messages.link_counts(records, max_devices=self._linker.policy.rules.max_devices_per_day)

    async def JudgeLinks(self, request: pb.JudgeLinksRequest, _context: Context) -> pb.JudgeLinksResponse:  # noqa: N802
        """Say which contacts rules would give identities, without writing."""
        rules, evidence = requests.judged(request)
        results = await self._linker.judge(evidence, rules)
        return pb.JudgeLinksResponse(
            links=[messages.judged_link(*result) for result in results.items()],
            rules_in_force=messages.link_rules(self._linker.policy),
            default_rules=messages.link_rules(self._settings.link_policy),
        )

    async def CreateVisitCode(  # noqa: N802
        self, request: pb.CreateVisitCodeRequest, _context: Context
    ) -> pb.CreateVisitCodeResponse:
        """Return the code of a visit that was seen."""
        record = await self._visit(request.visit_id, self.site_groups.sharing(request.sites))
        code = await self._codes.create(record.visit_id)
        return pb.CreateVisitCodeResponse(code=code.code, valid_seconds=code.valid_ms // 1000)

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


def _redirected_from(asked_id: str, found_id: str) -> str:
    """Return the name that was asked for, if it leads to another one."""
    return asked_id if asked_id != found_id else ""
