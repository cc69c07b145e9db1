"""Finds interactions by whom they are about, by agent and by time.

Whom an interaction about a visit belongs to is not stored. It follows from the timeline of the visit, so that a sign-in
that arrives late needs no change of interactions.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.interaction_pb2 import Interaction
from footfall_eventlog.interactions import MAX_INTERACTION_ID_LENGTH, SCOPE_SEPARATOR, is_interaction_id
from footfall_eventlog.phone_numbers import e164
from footfall_servicekit.errors import RequestError

from footfall_history.identity_client import Context, IdentityClient
from footfall_history.parts import in_parts, stream_in_parts
from footfall_history.queries import filters, resources
from footfall_history.queries.filters import Page, Window, site_filter
from footfall_history.storage import Document, InteractionRecord, Store, Tombstones, subject, subject_id

_MAX_IDENTITIES: Final = 1_000
_MAX_SCOPES: Final = 1_000
"""Groups of sites that have an interaction with one id."""
_SUBJECTS_PER_QUERY: Final = 50
_INTERACTIONS_PER_READ: Final = 50
_OF_NO_SITE: Final = ""


class Person(NamedTuple):
    """By what the interactions of a person are found.

    `visit_ids`: visits of which all interactions are the person's. `with_unsited`: also those that are of no website.
    """

    identity_ids: Sequence[str] = ()
    contact_ids: Sequence[str] = ()
    phones: Sequence[str] = ()
    visit_ids: Sequence[str] = ()
    with_unsited: bool = True


class InteractionReader:
    """Reads interactions. Methods raise TRANSIENT_STORE_ERRORS."""

    def __init__(
        self,
        store: Store,
        tombstones: Tombstones,
        identity: IdentityClient,
        *,
        max_visits: int,
        phone_region: str | None = None,
    ) -> None:
        """`max_visits`: those of a person that are searched, the newest ones."""
        self._store = store
        self._tombstones = tombstones
        self._identity = identity
        self._max_visits = max_visits
        self._phone_region = phone_region

    async def get(self, interaction_id: str, sites: Sequence[str], context: Context) -> Interaction | None:
        """An interaction, if these sites may see it: first one about a visit on them, then one of no site.

        Of two about visits on them, the one that their group has reported is first.
        """
        keys = {"$gte": interaction_id, "$lt": interaction_id + chr(ord(SCOPE_SEPARATOR) + 1)}
        found = await self._store.find_interactions({"_id": keys}, _MAX_SCOPES)

        def rank(one: Document) -> tuple[bool, bool, str]:
            is_scoped = SCOPE_SEPARATOR in one["_id"]
            return (bool(sites) and one["site"] not in sites, is_scoped is not bool(sites), one["_id"])

        for document in sorted(found, key=rank):
            if not sites or document["site"] in sites or await self._is_seen(document, sites, context):
                owned = await self._owned([document])
                return interaction_message(*owned[0]) if owned else None
        return None

    async def _is_seen(self, document: Document, sites: Sequence[str], context: Context) -> bool:
        """Whether an interaction of no site is about an identity or a contact that these sites have seen."""
        if identity_id := subject_id(document, "identity_id"):
            return identity_id in (await self._identity.get([identity_id], context, sites))[0]
        if contact_id := subject_id(document, "contact_id"):
            try:
                await self._identity.person(contact_id, context, sites, max_identities=1)
            except RequestError as error:
                if error.reason == "RESOURCE_NOT_FOUND":
                    return False
                if error.reason != "TOO_MANY_ITEMS":
                    raise
            return True
        return False

    async def page(
        self,
        request: pb.ListInteractionsRequest,
        window: Window,
        context: Context,
        names: Sequence[str] = (),
    ) -> Page[Interaction]:
        """A page of a list. The request has the stored id of its visit. `names`: those of its identity.

        Raises RequestError.
        """
        conditions: Document = {"agent": request.agent} if request.agent else {}
        sites, site = request.sites, request.scope.site
        match request.WhichOneof("about"):
            case None:
                return await self._page([conditions | site_filter(sites, site)], window, None)
            case "visit_id":
                where = {"subject": subject("visit_id", request.visit_id)} | conditions | site_filter(sites, site)
                return await self._page([where], window, None)
            case "identity_id":
                identity_id = filters.parse_identity_id(request.identity_id)
                known = (await self._identity.get([identity_id], context, sites))[0] if sites else {}
                person = Person(names or [identity_id], with_unsited=not sites or identity_id in known)
            case "contact_id":
                person = await self._person_of(filters.parse_contact_id(request.contact_id), sites, context)
            case _:
                phone = e164(request.phone, self._phone_region)
                if not phone:
                    raise RequestError.invalid("phone", "must be a telephone number with its country code")
                person = Person(phones=[phone], with_unsited=not sites)
        return await self.of_person(person, window, sites, site=site, conditions=conditions)

    async def has_any(self, field: str, value: str, sites: Sequence[str] = ()) -> bool:
        """Whether an interaction names this visit, identity or contact."""
        about = {"subject": subject(field, value)}
        return bool(await self._store.find_interactions(about | site_filter(sites), 1, ["_id"]))

    async def of_person(
        self,
        person: Person,
        window: Window,
        sites: Sequence[str] = (),
        *,
        site: str = "",
        conditions: Mapping[str, Any] | None = None,
        visits: Sequence[str] | None = None,
    ) -> Page[Interaction]:
        """The interactions of a person in a window. `visits`: all of its identities, the newest first, if known."""
        seen = site_filter(sites, site)
        visible = site_filter([*sites, _OF_NO_SITE], site) if sites else seen
        if visits is None:
            visits = await self._visits_of(person.identity_ids, seen)
        in_visits = [subject("visit_id", one) for one in {*person.visit_ids, *visits[: self._max_visits]}]
        named = [("identity_id", person.identity_ids), ("contact_id", person.contact_ids), ("phone", person.phones)]
        own = [subject(kind, value) for kind, values in named for value in values] if person.with_unsited else []
        wheres = [
            {"subject": {"$in": group}} | dict(conditions or {}) | condition
            for subjects, condition in (
                [(own + in_visits, seen)] if visible == seen else [(own, visible), (in_visits, seen)]
            )
            for group in in_parts(subjects, _SUBJECTS_PER_QUERY)
        ]
        return await self._page(wheres, window, None if person.visit_ids else {*person.identity_ids})

    async def each_of_identity(self, identity_id: str, sites: Sequence[str]) -> AsyncIterator[Interaction]:
        """All interactions that name an identity, or a visit while it belonged to the identity."""
        seen = site_filter(sites)
        async for document in self._store.each_interaction({"subject": subject("identity_id", identity_id)} | seen):
            yield interaction_message(document, "")
        async for visits in self._store.visit_groups({"identities": identity_id} | seen, _SUBJECTS_PER_QUERY):
            where = {"subject": {"$in": [subject("visit_id", visit["_id"]) for visit in visits]}} | seen
            async for part in stream_in_parts(self._store.each_interaction(where), _INTERACTIONS_PER_READ):
                for document, owner in await self._owned(part):
                    if owner == identity_id:
                        yield interaction_message(document, owner)

    def phones_of(self, numbers: Collection[str]) -> list[str]:
        """The numbers of a contact in E.164 form."""
        return sorted({e164(number, self._phone_region) for number in {*numbers}} - {""})

    async def _person_of(self, contact_id: str, sites: Sequence[str], context: Context) -> Person:
        try:
            person = await self._identity.person(contact_id, context, sites, max_identities=_MAX_IDENTITIES)
        except RequestError as error:
            # The contact center may report a contact before it is stored.
            if sites or error.reason != "RESOURCE_NOT_FOUND" or not await self.has_any("contact_id", contact_id):
                raise
            return Person(contact_ids=[contact_id])
        return Person(person.identity_ids, person.contact_ids, self.phones_of(person.phone_numbers))

    async def _visits_of(self, identity_ids: Sequence[str], seen: Document) -> list[str]:
        if not identity_ids:
            return []
        ids = [*identity_ids]
        where = {"identities": {"$in": ids} if len(ids) > 1 else ids[0]} | seen
        found = await self._store.find_visits(where, self._max_visits, ["_id"], newest_first=True)
        return [visit["_id"] for visit in found]

    async def _page(
        self, wheres: Sequence[Document], window: Window, owners: Collection[str] | None
    ) -> Page[Interaction]:
        """A page of what matches any of several filters. `owners`: to whom interactions about visits must belong."""
        if len(wheres) == 1:
            found = await self._find(wheres[0], window)
            next_key = found[window.size]["order_key"] if len(found) > window.size else ""
            found = found[: window.size]
        else:
            keys = await asyncio.gather(*(self._find(where, window, ["order_key"]) for where in wheres))
            in_order = sorted(
                ((one["order_key"], one["_id"]) for one in chain.from_iterable(keys)), reverse=window.newest_first
            )
            next_key = in_order[window.size][0] if len(in_order) > window.size else ""
            found = await self._store.read_interactions(key for _, key in in_order[: window.size])
            found.sort(key=itemgetter("order_key"), reverse=window.newest_first)
        keyed = [
            (document["order_key"], interaction_message(document, owner))
            for document, owner in await self._owned(found)
            if owners is None or not subject_id(document, "visit_id") or owner in owners
        ]
        page = window.cut(keyed)
        return page if page.next_key else Page(page.items, next_key)

    async def _find(self, where: Document, window: Window, fields: Sequence[str] | None = None) -> list[Document]:
        """What matches a filter, one more than fit into the window: all fields or these."""
        if window.lower or window.upper or not where:
            where = where | {"order_key": window.bounds}
        return await self._store.find_interactions(where, window.size + 1, fields, newest_first=window.newest_first)

    async def _owned(self, documents: Sequence[Document]) -> list[tuple[Document, str]]:
        """Interactions with the identity that those about visits belong to, without those of erased identities."""
        ids = [subject_id(document, "visit_id") for document in documents]
        visits = await self._tombstones.read_visits({*ids} - {""})
        owned = []
        for document, visit_id in zip(documents, ids, strict=True):
            visit = visits.get(visit_id)
            owner = visit.owner_at(document["order_key"]) if visit else ""
            if owner is not None:
                owned.append((document, owner))
        return owned


def interactions_window(request: pb.ListInteractionsRequest) -> Window:
    """The window of a list of interactions. Raises RequestError."""
    page, times = filters.page_window(request), filters.time_window(request.scope, age_of_start=True)
    filters.check_key(page.lower)
    order = " ".join(request.order_by.split())
    if order not in {"", "start_time", "start_time desc"}:
        raise RequestError.invalid("order_by", "must be empty or one of start_time, start_time desc")
    if order == "start_time":
        return Window(max(page.lower, times.lower), times.upper, page.size)
    uppers = [upper for upper in (page.lower and page.lower + "\0", times.upper) if upper]
    return Window(times.lower, min(uppers, default=""), page.size, newest_first=True)


def parse_interaction_id(text: str) -> str:
    """The id of an interaction. Raises RequestError."""
    if not is_interaction_id(text):
        rule = f"must be 1 to {MAX_INTERACTION_ID_LENGTH} characters, none a control character"
        raise RequestError.invalid("interaction_id", rule)
    return text


def interaction_message(document: Document, owner: str) -> Interaction:
    """An interaction. `owner`: the identity that one about a visit belongs to."""
    record = InteractionRecord.from_document(document)
    kind, value, browser_id, site = record.about
    end_ms = record.get("end_time", None)
    return Interaction(
        interaction_id=record.interaction_id,
        **{kind: browser_id or value},
        visit_identity_id=owner,
        site=site,
        channel=record.get("channel", 0),
        agent=record.get("agent"),
        queue=record.get("queue"),
        start_time=resources.timestamp(record.start_ms),
        end_time=None if end_ms is None else resources.timestamp(end_ms),
        disposition=record.get("disposition"),
        note=record.get("note"),
        data_json=record.get("data_json", b""),
        update_time=resources.timestamp(record.update_ms),
    )
