"""Finds the items that belong to many parents: one query per kind of item, not one per parent.

A query is split into groups of 50 ids (`storage.store`). The items of one kind are held in memory, which the limit on
items bounds.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import visit_pb2
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.errors import RequestError
from footfall_timeline import order_key

from footfall_history.queries import filters, resources
from footfall_history.queries.reader import IS_ENTRY, Reader
from footfall_history.storage import Document, Store, Visit, stored_event

VISIT: Final = pb.RESOURCE_KIND_VISIT
IDENTITY: Final = pb.RESOURCE_KIND_IDENTITY
SESSION: Final = pb.RESOURCE_KIND_SESSION
PAGE: Final = pb.RESOURCE_KIND_PAGE
EVENT: Final = pb.RESOURCE_KIND_EVENT

_CHILDREN: Final = {
    IDENTITY: {VISIT, PAGE, SESSION, EVENT},
    VISIT: {PAGE, SESSION, EVENT},
    SESSION: {PAGE, EVENT},
    PAGE: {EVENT},
}
_MAX_PARENTS: Final = 1_000
_MAX_ITEMS: Final = 10_000

Kind = pb.ResourceKind.ValueType
Items = list[tuple[str, str, pb.RelatedItem]]
"""Parent, key and item. Sorted, the items of each parent are together and in order."""

# The field of an event that names its parent.
_PARENT_FIELD: Final = {IDENTITY: "identity_id", VISIT: "visit_id", SESSION: "session_id", PAGE: "page_id"}
_ID_FIELDS: Final = ("event_id", "order_key")


class RelatedItems:
    """The items of one StreamRelated request."""

    def __init__(self, store: Store, reader: Reader, request: pb.StreamRelatedRequest, site_groups: SiteGroups) -> None:
        """Raises RequestError."""
        self._site_groups = site_groups
        self._sites = site_groups.sharing(request.sites)
        self._store = store
        self._reader = reader
        self._kind = request.parent_kind
        self._field = _check(request)
        to_stored = filters.parse_identity_id if self._kind == IDENTITY else filters.parse_uuid
        self._requested_ids = {to_stored(text, "parent_ids"): text for text in request.parent_ids}
        self._kinds = list(dict.fromkeys(request.kinds))
        self._detailed = set(request.detailed_kinds)
        self._max_items = min(request.max_items or _MAX_ITEMS, _MAX_ITEMS)
        self._site = request.scope.site
        self._conditions = filters.scope_conditions(request.scope, self._sites)
        self._times = filters.time_window(request.scope, age_of_start=False)
        self._starts = filters.time_window(request.scope, age_of_start=True)
        self._visits: list[Document] = []

    async def items(self) -> AsyncGenerator[pb.RelatedItem, None]:
        """The items, kind by kind. Raises RequestError when there are too many, and TRANSIENT_STORE_ERRORS."""
        if self._kind == VISIT:
            candidates = {
                visit_id: self._site_groups.candidates(visit_id, self._sites) for visit_id in self._requested_ids
            }
            resolved = await self._reader.resolve_visits(candidates, self._sites)
            self._requested_ids = {resolved[visit_id]: text for visit_id, text in self._requested_ids.items()}
        if self._kind != PAGE and (self._kind != VISIT or SESSION in self._kinds):
            field = {IDENTITY: "identities", VISIT: "_id", SESSION: "session_ids"}[self._kind]
            where = filters.site_filter(self._sites)
            visits = await self._store.visits_with(field, self._requested_ids, where, _MAX_ITEMS + 1)
            self._visits = list({visit["_id"]: visit for visit in visits}.values())
        for kind in self._kinds:
            find = {VISIT: self._find_visits, SESSION: self._find_sessions, PAGE: self._find_pages}
            found = await find.get(kind, self._find_events)()
            self._max_items -= len(found)
            if self._max_items < 0:
                message = "these parents have more items than max_items; request fewer parents, or use the List methods"
                raise RequestError.failed_precondition("TOO_MANY_ITEMS", message)
            found.sort(key=lambda item: item[:2])
            for parent, _, item in found:
                item.parent_id = self._requested_ids[parent]
                yield item

    async def _find_visits(self) -> Items:
        documents = [
            visit
            for visit in self._visits
            if self._starts.contains(visit["start_key"]) and self._site in {"", visit.get("site")}
        ]
        if VISIT in self._detailed:
            messages = await self._reader.visit_messages(documents)
        else:
            messages = [visit_pb2.Visit(visit_id=resources.shown_id(document)) for document in documents]
        return [
            (identity, document["start_key"], pb.RelatedItem(visit=message))
            for document, message in zip(documents, messages, strict=True)
            for identity in self._requested_ids.keys() & set(document["identities"])
        ]

    async def _find_sessions(self) -> Items:
        found: Items = []
        for document in self._visits:
            if self._site not in {"", document.get("site")}:
                continue
            for session in Visit.from_document(document).visit_state.sessions:
                parent = document["_id"] if self._kind == VISIT else session.identity
                key = order_key(session.start_ms, session.session_id)
                if parent in self._requested_ids and self._starts.contains(key):
                    message = resources.session_message(document, session)
                    if SESSION not in self._detailed:
                        message = visit_pb2.Session(session_id=session.session_id)
                    found.append((parent, key, pb.RelatedItem(session=message)))
        return found

    async def _find_pages(self) -> Items:
        fields = [self._field, *resources.PAGE_FIELDS]
        entered = await self._events(IS_ENTRY, fields)
        messages = await self._reader.page_messages(entered)
        found: Items = []
        for event in entered:
            message = messages.get(event["_id"])
            if not message:
                continue
            if PAGE not in self._detailed:
                message = visit_pb2.Page(page_id=event["page_id"])
            found.append((event[self._field], event["order_key"], pb.RelatedItem(page=message)))
        return found

    async def _find_events(self) -> Items:
        found: Items = []
        is_detailed = EVENT in self._detailed
        for event in await self._events({}, None if is_detailed else [self._field, *_ID_FIELDS]):
            message = stored_event(event) if is_detailed else visit_pb2.StoredEvent()
            message.event.event_id = event["event_id"]
            found.append((event[self._field], event["order_key"], pb.RelatedItem(event=message)))
        return found

    async def _events(self, where: Document, fields: Sequence[str] | None) -> list[Document]:
        where = where | self._conditions | {"order_key": self._times.bounds}
        field, values = self._field, list(self._requested_ids)
        if self._kind in {IDENTITY, SESSION}:  # by their visits, because an index finds those of many parents together
            where[self._field] = {"$in": values}
            field, values = "visit_id", [visit["_id"] for visit in self._visits]
        return await self._store.events_with(field, values, where, fields, self._max_items + 1)


def _check(request: pb.StreamRelatedRequest) -> str:
    """Check a request, and return the field by which events name its parents. Raises RequestError."""
    children = _CHILDREN.get(request.parent_kind)
    if children is None:
        raise RequestError.invalid("parent_kind", "must be identity, visit, session or page")
    if len(request.parent_ids) > _MAX_PARENTS:
        raise RequestError.invalid("parent_ids", f"must be at most {_MAX_PARENTS}")
    if not request.kinds or not children.issuperset(request.kinds):
        raise RequestError.invalid("kinds", "must be one or more of the kinds that such parents have")
    if not set(request.detailed_kinds) <= set(request.kinds):
        raise RequestError.invalid("detailed_kinds", "must be among kinds")
    if request.max_items < 0:
        raise RequestError.invalid("max_items", "must not be negative")
    return _PARENT_FIELD[request.parent_kind]
