"""What identity knows of a customer: contact or candidates, identities with their links, and the last visits."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.contact_pb2 import LINK_STATUS_AMBIGUOUS, ContactLink
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.channel import time_left
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity import messages, requests
from footfall_identity.contact_directory import ContactDirectory, ContactFilter, ContactsPosition
from footfall_identity.contact_record import ContactRecord
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.known_contact import UNKNOWN_CONTACT, KnownContact
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.live_visitors import find_visit, is_visible
from footfall_identity.merged_contacts import MergedContacts
from footfall_identity.persons import Persons
from footfall_identity.visit_codes import VisitCodes
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore

MAX_CANDIDATES: Final = 11
"""One more than history shows, so that it can say that there are more."""

_MAX_IDENTITIES: Final = 20
_SHARE: Final = 0.7
"""Of the time that the caller waits, for the store of contacts when the visit is known already."""


class Customers:
    """Answers GetCustomer."""

    def __init__(
        self,
        visitors: VisitorStore,
        links: LinkStore,
        directory: ContactDirectory,
        codes: VisitCodes,
        site_groups: SiteGroups,
        *,
        phone_region: str | None,
        copy_name: bool,
        linker: Linker,
    ) -> None:
        self._visitors = visitors
        self._links = links
        self._persons = Persons(links)
        self._directory = directory
        self._codes = codes
        self._site_groups = site_groups
        self._phone_region = phone_region
        self._copy_name = copy_name
        self._linker = linker

    async def find(self, request: pb.GetCustomerRequest) -> pb.GetCustomerResponse:
        """Return what is known of a customer. Raises RequestError."""
        sites = self._site_groups.sharing(request.sites)
        match request.WhichOneof("customer"):
            case "phone" | "email":
                return await self._by_address(request, sites)
            case "contact_id":
                return await self._by_contact(requests.contact_id(request.contact_id), sites)
            case "identity_id":
                return await self._by_identity(requests.identity_id(request.identity_id), sites)
            case "visit_id":
                visit_id = requests.visit_id(request.visit_id)
                return await self._by_visit(await find_visit(self._visitors, self._site_groups, visit_id, sites), sites)
            case "code":
                code, actor = requests.code(request.code), requests.actor(request.actor)
                return await self._by_visit(await self._codes.use(code, actor, sites), sites)
            case _:
                rule = "exactly one of phone, email, contact_id, identity_id, visit_id, code is required"
                raise RequestError.invalid("customer", rule)

    async def _by_address(self, request: pb.GetCustomerRequest, sites: list[str]) -> pb.GetCustomerResponse:
        """Find contacts by telephone number or e-mail address."""
        wanted = pb.ListContactsRequest(phone=request.phone, email=request.email)
        conditions = requests.contact_filter(wanted, self._phone_region)
        if not conditions.search_key:
            raise RequestError.invalid(request.WhichOneof("customer") or "customer", "must not be empty")
        found = await self._candidates(conditions, sites)
        merged = None
        if not sites:
            merged = await self._merged([one.contact_id for one in found])
            leading = [*dict.fromkeys(merged.resolved(one.contact_id) for one in found)]
            if leading != [one.contact_id for one in found]:
                found = await self._contacts(leading)
        if len(found) != 1:
            return pb.GetCustomerResponse(candidates=map(messages.contact, found))
        linked = await self._links.linked_to(found[0].contact_id, "", _MAX_IDENTITIES + 1, sites)
        return await self._with_visitors(await self._of_contact(found[0], linked, sites, merged), linked, sites)

    async def _candidates(self, conditions: ContactFilter, sites: list[str]) -> list[ContactRecord]:
        """Return the first contacts that meet conditions, by id."""
        found: list[ContactRecord] = []
        position: ContactsPosition | None = ContactsPosition()
        while position and len(found) < MAX_CANDIDATES:
            page = await self._directory.find(conditions, sites, position, MAX_CANDIDATES - len(found))
            found += page.contacts
            position = page.position
        return found

    async def _by_contact(self, contact_id: str, sites: list[str]) -> pb.GetCustomerResponse:
        named, merged = contact_id, None
        if not sites:
            merged = await self._merged([named])
            contact_id = merged.resolved(named)
        contact, linked = await self._contact(contact_id, sites)
        # A contact that none of the sites knows is answered like one that does not exist.
        if contact is None or (sites and not linked):
            return pb.GetCustomerResponse()
        answer = await self._of_contact(contact, linked, sites, merged)
        if contact_id != named:
            answer.redirected_from = named
        return await self._with_visitors(answer, linked, sites)

    async def _by_identity(self, identity_id: str, sites: list[str]) -> pb.GetCustomerResponse:
        answer, records = await self._of_identity(identity_id, sites)
        return await self._with_visitors(answer, records, sites)

    async def _by_visit(self, visit: VisitRecord | None, sites: list[str]) -> pb.GetCustomerResponse:
        if visit is None:
            return pb.GetCustomerResponse()
        answer, records = pb.GetCustomerResponse(), list[IdentityRecord]()
        if identity_id := visit.visit_state.attribution.identity:
            left_s = time_left()
            try:
                async with asyncio.timeout(None if left_s is None else left_s * _SHARE):
                    answer, records = await self._of_identity(identity_id, sites)
            except (RequestError, TimeoutError):  # of the store
                answer.contact_unavailable = True
            if not answer.identities:  # also if the visitor signed in a moment ago, and the record is not written yet
                answer.identities.add().identity.identity_id = identity_id
        return await self._with_visitors(answer, records, sites, visit)

    async def _of_identity(
        self, identity_id: str, sites: list[str]
    ) -> tuple[pb.GetCustomerResponse, list[IdentityRecord]]:
        """Return the answer about an identity without visitors, and the records of its identities."""
        person = await self._persons.find(identity_id, sites)
        record = person.record
        if record is None:
            return pb.GetCustomerResponse(), []
        answer, records = pb.GetCustomerResponse(), list[IdentityRecord]()
        link = _link(record)
        if record.contact_id:
            contact, records = await self._contact(record.contact_id, sites)
            answer = await self._of_contact(contact, records, sites) if contact else answer
        if not answer.HasField("contact"):
            records = []
            matching = link.candidate_contact_ids if link and link.status == LINK_STATUS_AMBIGUOUS else ()
            candidates = matching[:MAX_CANDIDATES]
            answer = pb.GetCustomerResponse(candidates=map(messages.contact, await self._contacts(candidates)))
        shown = {one.identity.identity_id for one in answer.identities}
        names = [one for one in person.records if one.identity_id not in shown and one.first_ms is not None]
        for one in sorted(names, key=lambda one: one.identity_id == identity_id):
            answer.identities.insert(0, self._identity(one))
            records = [one, *records]
        if link:
            answer.link.CopyFrom(link)
        answer.current_identity_id = person.current_id
        if person.current_id != identity_id:
            answer.redirected_from = identity_id
        await self._add_current_names(answer, sites)
        return answer, records

    async def _add_current_names(self, answer: pb.GetCustomerResponse, sites: list[str]) -> None:
        identities = [one.identity for one in answer.identities]
        names = await self._persons.names([one.identity_id for one in identities], sites)
        messages.add_current_names(identities, names)

    async def _merged(self, contact_ids: Collection[str]) -> MergedContacts:
        """Return the merges of these contacts."""
        merges = await self._links.merges.names(contact_ids, may_remember=True)
        return MergedContacts(merges, await self._links.keys_of_contacts(merges.all))

    async def _contacts(self, contact_ids: Iterable[str]) -> list[ContactRecord]:
        """Return those of these contacts that exist, in the order given."""
        contact_ids = [*contact_ids]
        known = await self._links.contacts(contact_ids)
        return [known[one] for one in contact_ids if one in known and not known[one].is_deleted]

    async def _contact(self, contact_id: str, sites: list[str]) -> tuple[ContactRecord | None, list[IdentityRecord]]:
        """Return a contact and its identities, one more than are shown.

        Both are read also if the contact is not there. So the duration does not reveal to a site whether it is.
        """
        contact, linked = await asyncio.gather(
            self._links.contact(contact_id), self._links.linked_to(contact_id, "", _MAX_IDENTITIES + 1, sites)
        )
        return (None, []) if contact is None or contact.is_deleted else (contact, linked)

    async def _of_contact(
        self,
        contact: ContactRecord,
        linked: Sequence[IdentityRecord],
        sites: list[str],
        merged: MergedContacts | None = None,
    ) -> pb.GetCustomerResponse:
        """Return the answer about a contact and its identities, without visitors. `merged`: its merges, if known."""
        latest = sorted(linked[:_MAX_IDENTITIES], key=lambda one: one.newest.at if one.newest else "", reverse=True)
        answer = pb.GetCustomerResponse(
            contact=messages.contact(contact),
            identities=map(self._identity, latest),
            has_more_identities=len(linked) > _MAX_IDENTITIES,
        )
        if not sites:
            merged = merged or await self._merged([contact.contact_id])
            answer.merged_contact_ids.extend(merged.others(contact.contact_id))
        await self._add_current_names(answer, sites)
        return answer

    def _identity(self, record: IdentityRecord) -> pb.CustomerIdentity:
        max_devices = self._linker.policy.rules.max_devices_per_day
        identity = messages.identity(record, copy_name=self._copy_name, max_devices=max_devices)
        identity.ClearField("profile_json")
        return pb.CustomerIdentity(identity=identity, link=_link(record))

    async def _with_visitors(
        self,
        answer: pb.GetCustomerResponse,
        records: Sequence[IdentityRecord],
        sites: list[str],
        visit: VisitRecord | None = None,
    ) -> pb.GetCustomerResponse:
        """Add the live state of the visit that the request names, and of the last visits of the identities."""
        wanted = {record.newest.visit_id for record in records if record.newest} - {visit.visit_id if visit else ""}
        found = {visit.visit_id: visit} if visit else {}
        try:
            found |= await self._visitors.get(wanted) if wanted else {}
        except RequestError:  # Redis is not available
            answer.visitors_unavailable = True
        visible = [record for record in found.values() if is_visible(record, sites)]
        contacts = {record.identity_id: KnownContact.of_record(record) for record in records}
        others = {record.visit_state.attribution.identity for record in visible} - {*contacts, ""}
        if answer.contact_unavailable:
            contacts |= dict.fromkeys(others, UNKNOWN_CONTACT)
        elif others:  # of a visit on which another identity has been named since, or of a record not written yet
            contacts |= await self._links.known_contacts(others, sites)
        answer.visitors.extend(messages.visitor(record, contacts) for record in visible)
        if visit:
            answer.visitor.CopyFrom(answer.visitors[0])
        return answer


def _link(record: IdentityRecord) -> ContactLink | None:
    """Return the decision in force about the contact of an identity."""
    newest = replace(record, decisions=record.decisions[-1:])
    return next(iter(messages.contact_links(newest)), None)
