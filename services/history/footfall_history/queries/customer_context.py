"""Collects what a contact center shows of a customer: contact, identities, live visits, pages, events, interactions.

First one call to the identity service finds out who it is. Then live visits, pages, events and interactions are read
together, each within a limit of time and number.
"""

import asyncio
import time
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from footfall.history.v1 import customer_context_pb2 as parts
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as identity_pb
from footfall.identity.v1.visitor_pb2 import Visitor
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.channel import remaining
from footfall_servicekit.errors import RequestError
from footfall_timeline import LaterVersionError

from footfall_history.identity_client import Context, IdentityClient
from footfall_history.queries import filters, resources
from footfall_history.queries.context_words import explanation
from footfall_history.queries.filters import Window, site_filter, time_key
from footfall_history.queries.interactions import InteractionReader, Person
from footfall_history.queries.reader import Reader
from footfall_history.queries.recent_activity import RecentActivity, last_possible_ms
from footfall_history.storage import TRANSIENT_STORE_ERRORS, Document, Store, Visit

_DAY_MS: Final = 86_400_000
_ACTIVITY: Final = (parts.CONTEXT_PART_PAGES, parts.CONTEXT_PART_EVENTS)
_INTERACTIONS: Final = (parts.CONTEXT_PART_INTERACTIONS,)
_MAX_BYTES: Final = 64 * 1024
_MAX_CANDIDATES: Final = 10
_MAX_LINKS: Final = 5
_MAX_LIVE_VISITS: Final = 10
_MAX_VISITS: Final = 20
_RULES: Final = {"phone": contact_pb2.LINK_RULE_PHONE_NUMBER, "email": contact_pb2.LINK_RULE_EMAIL_ADDRESS}
"""What matches a contact by the field of the request."""
_SHARE: Final = 0.45
"""Of the time that the caller waits, for each of the two steps."""
_UNAVAILABLE: Final = (ConnectionError, TimeoutError, LaterVersionError, *TRANSIENT_STORE_ERRORS)


@dataclass
class _Search:
    """One request, and the answer that is being made."""

    request: pb.GetCustomerContextRequest
    visit_ids: Sequence[str]
    """What the visit of the request may be stored as."""
    context: Context
    answer: pb.GetCustomerContextResponse = field(default_factory=pb.GetCustomerContextResponse)
    identity_ids: list[str] = field(default_factory=list)
    merged_ids: Sequence[str] = ()
    """The contacts that are merged with that of the answer."""
    visitors: dict[tuple[str, str], Visitor] = field(default_factory=dict)
    """What identity has answered about visits, by visit id and site."""

    @property
    def sites(self) -> Sequence[str]:
        """Those the caller may see, all if empty."""
        return self.request.sites

    @property
    def is_by_visit(self) -> bool:
        """Whether the request names a visit, also by its code."""
        return self.request.WhichOneof("customer") in {"visit_id", "code"}

    def lacks(self, *missing: parts.ContextPart.ValueType) -> None:
        """Name parts that did not answer."""
        named = {*self.answer.unavailable_parts, *missing}
        self.answer.unavailable_parts[:] = sorted(named)


class _Visits(NamedTuple):
    """Stored visits of a person.

    `recent`: those that may have events of the last 24 hours, the last active first. `all_ids`: the ids of all, the
    newest first; None if there are more than were read.
    """

    recent: Sequence[Document]
    all_ids: Sequence[str] | None


class CustomerContexts:
    """Finds contexts. `timeout_ms`: for each of the two steps. `idle_ms` without events end a visit."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        identity: IdentityClient,
        interactions: InteractionReader,
        site_groups: SiteGroups,
        *,
        timeout_ms: int,
        idle_ms: int,
        max_interactions: int = 10,
    ) -> None:
        self._store = store
        self._reader = reader
        self._activity = RecentActivity(store, reader)
        self._identity = identity
        self._interactions = interactions
        self._site_groups = site_groups
        self._timeout_s = timeout_ms / 1000
        self._idle_ms = idle_ms
        self._max_interactions = max_interactions

    async def find(self, request: pb.GetCustomerContextRequest, context: Context) -> pb.GetCustomerContextResponse:
        """What is known of a customer. Raises RequestError for a request that names none, or not properly."""
        asked = _checked(request)
        request.sites[:] = self._site_groups.sharing(request.sites)
        visit_ids = self._stored_ids(request.visit_id, request.sites) if request.HasField("visit_id") else []
        search = _Search(request, visit_ids, context)
        # Without a deadline of the caller, the setting alone limits the steps.
        step_s = min(self._timeout_s, remaining(context, 60.0) * _SHARE)
        try:
            async with asyncio.timeout(step_s):
                await self._find_person(search, asked, step_s)
        except _UNAVAILABLE:
            _person_is_unavailable(search)
        if search.identity_ids or (search.visit_ids and search.answer.status != parts.CONTEXT_STATUS_NOT_FOUND):
            await self._read_parts(search, step_s)
        else:
            await _part(search, _INTERACTIONS, self._add_interactions(search, None), _now_s() + step_s)
        search.answer.explanation = explanation(request, search.answer)
        _limit(search.answer)
        return search.answer

    def _stored_ids(self, visit_id: str, sites: Collection[str]) -> list[str]:
        """What a visit may be stored as. Raises RequestError."""
        return self._site_groups.candidates(filters.parse_uuid(visit_id, "visit_id"), sites)

    async def _find_person(self, search: _Search, asked: identity_pb.GetCustomerRequest, step_s: float) -> None:
        """Ask identity about the customer."""
        found = await self._ask(search, asked, step_s)
        if asked.HasField("visit_id") and not found.HasField("visitor"):
            visit = await self._past_visit(search)
            if visit is None or not visit.identity_id:
                is_known = visit is not None
                search.answer.status = parts.CONTEXT_STATUS_UNLINKED if is_known else parts.CONTEXT_STATUS_NOT_FOUND
                return
            asked.identity_id = visit.identity_id
            found = await self._ask(search, asked, step_s)
        _show_person(search, found)
        if found.HasField("visitor"):  # the visit of the code, or of several with one id that which identity shows
            search.visit_ids = self._stored_ids(found.visitor.visit_id, [found.visitor.site])

    async def _ask(
        self, search: _Search, asked: identity_pb.GetCustomerRequest, step_s: float
    ) -> identity_pb.GetCustomerResponse:
        found = await self._identity.ask(self._identity.stub.GetCustomer, asked, search.context, step_s)
        return found or identity_pb.GetCustomerResponse()

    async def _past_visit(self, search: _Search) -> visit_pb2.Visit | None:
        """The visit of the request, of which no live state is left."""
        found = await self._reader.visit(await self._stored_id(search), search.sites)
        return found[0] if found else None

    async def _stored_id(self, search: _Search) -> str:
        """The id of the stored visit: of several that the request may mean, the one received first.

        No sender can choose that. From then on the request means this one.
        """
        search.visit_ids = [*(await self._reader.resolve_visits({"": search.visit_ids}, search.sites)).values()]
        return search.visit_ids[0]

    async def _visitor(self, search: _Search, visit_id: str) -> Visitor | None:
        request = identity_pb.GetVisitorRequest(visit_id=visit_id, sites=search.sites)
        found = await self._identity.ask(self._identity.stub.GetVisitor, request, search.context)
        return found.visitor if found else None

    async def _read_parts(self, search: _Search, step_s: float) -> None:
        """Add live visits, pages, events and interactions. A part that fails is named."""
        # Awaited with `shield`: a part whose time ends must not cancel it for the others.
        visits, until_s = asyncio.create_task(self._find_visits(search)), _now_s() + step_s
        try:
            await asyncio.gather(
                _part(search, (parts.CONTEXT_PART_VISITS,), self._add_live_visits(search, visits), until_s),
                _part(search, _ACTIVITY, self._add_activity(search, visits), until_s),
                _part(search, _INTERACTIONS, self._add_interactions(search, visits), until_s),
            )
        finally:
            visits.cancel()
        for live in search.answer.visits:
            for one in search.answer.pages:
                if (one.page.visit_id, one.page.url) == (live.visitor.visit_id, live.visitor.url):
                    live.page_start_time.CopyFrom(one.page.start_time)
                    break

    async def _find_visits(self, search: _Search) -> _Visits:
        """The visits of the person, and those that may have events of the last 24 hours."""
        seen, ids = site_filter(search.sites), search.identity_ids
        found: dict[str, Document] = {}
        all_ids: list[str] | None = []
        if search.visit_ids:
            asked = {"_id": await self._stored_id(search)} | seen
            found |= {one["_id"]: one for one in await self._store.find_visits(asked, 1)}
            if not ids:  # identity does not answer, or the visitor is Anonymous
                ids += [owner for one in found.values() if (owner := _owner(one))]
        if ids:
            named = {"identities": {"$in": ids} if len(ids) > 1 else ids[0]} | seen
            visits = await self._store.find_visits(named, _MAX_VISITS + 1, newest_first=True)
            all_ids = [one["_id"] for one in visits]
            if len(visits) > _MAX_VISITS:
                all_ids = None
                visits = await self._store.find_visits(named | {"staff": {"$ne": True}}, _MAX_VISITS, newest_first=True)
            # As in `_show_person`.
            found |= {one["_id"]: one for one in visits if not one.get("staff")}
        recent = [one for one in found.values() if last_possible_ms(one) >= _now_ms() - _DAY_MS]
        return _Visits(sorted(recent, key=last_possible_ms, reverse=True), all_ids)

    async def _add_live_visits(self, search: _Search, visits: "asyncio.Task[_Visits]") -> None:
        """Add the visits that go on: first those that identity knows, because history may lag or not answer."""
        self._show_live_visits(search)
        since_ms = _now_ms() - self._idle_ms
        asked = {visit_id for visit_id, _ in search.visitors}
        going_on = [
            resources.shown_id(one)
            for one in (await asyncio.shield(visits)).recent
            if last_possible_ms(one) >= since_ms
        ]
        wanted = [*dict.fromkeys(one for one in going_on if one not in asked)][:_MAX_LIVE_VISITS]
        if not wanted:
            return
        for visitor in await asyncio.gather(*(self._visitor(search, visit_id) for visit_id in wanted)):
            if visitor:
                search.visitors[visitor.visit_id, visitor.site] = visitor
        self._show_live_visits(search)

    def _show_live_visits(self, search: _Search) -> None:
        live = [one for one in search.visitors.values() if self._is_live(search, one)]
        latest = sorted(live, key=lambda one: one.last_event_time.ToMilliseconds(), reverse=True)
        del search.answer.visits[:]
        search.answer.visits.extend(parts.ContextVisit(visitor=one) for one in latest[:_MAX_LIVE_VISITS])

    def _is_live(self, search: _Search, visitor: Visitor) -> bool:
        """Whether a visit goes on, and its visitor is this person."""
        is_own = visitor.identity_id in search.identity_ids or (search.is_by_visit and not search.identity_ids)
        return is_own and visitor.last_event_time.ToMilliseconds() >= _now_ms() - self._idle_ms

    async def _add_activity(self, search: _Search, visits: "asyncio.Task[_Visits]") -> None:
        """Add pages and events."""
        ids, answer = search.identity_ids, search.answer
        found = await self._activity.read(
            (await asyncio.shield(visits)).recent, ids, search.sites, time_key(_now_ms() - _DAY_MS)
        )
        for page in found.pages:
            answer.pages.add(page=page, before_sign_in=bool(ids) and not page.identity_id)
        for event in found.events:
            answer.events.add(event=event, before_sign_in=bool(ids) and not event.stamp.identity_id)

    async def _add_interactions(self, search: _Search, visits: "asyncio.Task[_Visits] | None") -> None:
        """Add the newest interactions, as many as fit into half of the answer."""
        answer, request = search.answer, search.request
        # It finds the identity of a visit while identity does not answer.
        known = (await asyncio.shield(visits)).all_ids if visits else None
        if not self._max_interactions or (answer.status == parts.CONTEXT_STATUS_AMBIGUOUS and not search.identity_ids):
            return
        contact_ids, numbers = {answer.contact.contact_id, *search.merged_ids}, [*answer.contact.phone_numbers]
        if not search.sites:  # also what the contact center has reported of a contact or number that is not stored
            contact_ids.add(request.contact_id)
            numbers.append(request.phone)
        visit_ids = [] if search.identity_ids else search.visit_ids
        phones = self._interactions.phones_of(numbers)
        person = Person(search.identity_ids, sorted(contact_ids - {""}), phones, visit_ids)
        window, size = Window("", "", self._max_interactions, newest_first=True), 0
        for interaction in (await self._interactions.of_person(person, window, search.sites, visits=known)).items:
            interaction.ClearField("data_json")
            size += interaction.ByteSize()
            if size > _MAX_BYTES // 2:
                answer.truncated = True
                break
            answer.interactions.append(interaction)


def _checked(request: pb.GetCustomerContextRequest) -> identity_pb.GetCustomerRequest:
    """The request to identity. Raises RequestError for a request that names no customer, or not properly."""
    given = request.WhichOneof("customer")
    match given:
        case None:
            rule = "exactly one of phone, email, contact_id, identity_id, visit_id, code is required"
            raise RequestError.invalid("customer", rule)
        case "phone" | "email" | "code" if not getattr(request, given):
            raise RequestError.invalid(given, "must not be empty")
        case "contact_id":
            filters.parse_contact_id(request.contact_id)
        case "identity_id":
            filters.parse_identity_id(request.identity_id)
    asked = identity_pb.GetCustomerRequest(actor=request.actor, sites=request.sites)
    setattr(asked, given, getattr(request, given))
    return asked


def _show_person(search: _Search, found: identity_pb.GetCustomerResponse) -> None:
    """Take over what identity knows."""
    answer, request = search.answer, search.request
    # What agents do as the customer is not what the customer does, unless the request is about such a visit.
    own = [one for one in found.visitors if not one.staff or one.visit_id == found.visitor.visit_id]
    search.visitors |= {(one.visit_id, one.site): one for one in own}
    search.identity_ids += [one.identity.identity_id for one in found.identities]
    search.merged_ids = found.merged_contact_ids
    answer.redirected_from, answer.current_identity_id = found.redirected_from, found.current_identity_id
    answer.identities.extend(
        parts.ContextIdentity(identity=one.identity, link=one.link if number < _MAX_LINKS else None)
        for number, one in enumerate(found.identities)
    )
    answer.truncated = found.has_more_identities or len(found.candidates) > _MAX_CANDIDATES
    if found.visitors_unavailable:
        search.lacks(parts.CONTEXT_PART_VISITS)
    if found.HasField("contact"):
        answer.contact.CopyFrom(found.contact)
        answer.status = parts.CONTEXT_STATUS_LINKED
    elif found.candidates:
        answer.candidates.extend(found.candidates[:_MAX_CANDIDATES])
        answer.status = parts.CONTEXT_STATUS_AMBIGUOUS
    elif found.contact_unavailable:
        answer.status = parts.CONTEXT_STATUS_UNKNOWN
        search.lacks(parts.CONTEXT_PART_CONTACT, parts.CONTEXT_PART_IDENTITIES)
    elif found.identities or found.HasField("visitor"):
        answer.status = parts.CONTEXT_STATUS_UNLINKED
    else:
        answer.status = parts.CONTEXT_STATUS_NOT_FOUND
    if rule := _RULES.get(request.WhichOneof("customer") or ""):
        answer.rule = rule if found.HasField("contact") or found.candidates else contact_pb2.LINK_RULE_UNSPECIFIED
    elif found.HasField("link") and not _has_only_candidates(found.link):
        answer.rule, answer.assurance = found.link.rule, found.link.assurance


def _has_only_candidates(link: contact_pb2.ContactLink) -> bool:
    """Whether a UserInfo has named the e-mail address of contacts, which the answer does not show."""
    return link.status == contact_pb2.LINK_STATUS_UNLINKED and bool(link.evidence)


async def _part(
    search: _Search, named: Sequence[parts.ContextPart.ValueType], adding: Coroutine[Any, Any, None], until_s: float
) -> None:
    """Add parts, or name them if this fails or takes too long."""
    try:
        async with asyncio.timeout_at(until_s):
            await adding
    except _UNAVAILABLE:
        search.lacks(*named)


def _person_is_unavailable(search: _Search) -> None:
    """Name what is not known because identity does not answer. The history of an identity can be read without it."""
    answer, request = search.answer, search.request
    search.lacks(parts.CONTEXT_PART_CONTACT, parts.CONTEXT_PART_IDENTITIES, parts.CONTEXT_PART_VISITS)
    answer.status = parts.CONTEXT_STATUS_UNKNOWN
    if request.identity_id and not search.identity_ids:
        search.identity_ids.append(request.identity_id)
    if not search.identity_ids and not search.visit_ids:
        search.lacks(parts.CONTEXT_PART_PAGES, parts.CONTEXT_PART_EVENTS)
        search.lacks(*_INTERACTIONS)  # those of the contact's identities


def _owner(document: Document) -> str:
    """The identity that a visit belongs to."""
    return Visit.from_document(document).visit_state.attribution.identity


def _limit(answer: pb.GetCustomerContextResponse) -> None:
    """Leave out the oldest pages and events, then interactions, identities and candidates, until it is small enough."""
    while answer.ByteSize() > _MAX_BYTES:
        pages, events = answer.pages, answer.events
        if answer.interactions and not (pages or events):
            del answer.interactions[-1]
        elif events and (not pages or resources.event_key(events[-1].event) < resources.page_key(pages[-1].page)):
            del events[-1]
        elif pages:
            del pages[-1]
        elif answer.identities:
            del answer.identities[-1]
        elif answer.candidates:
            del answer.candidates[-1]
        else:
            del answer.visits[-1]
        answer.truncated = True


def _now_s() -> float:
    """The present time of the event loop."""
    return asyncio.get_running_loop().time()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
