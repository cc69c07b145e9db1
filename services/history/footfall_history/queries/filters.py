"""Turns requests into filters over documents and into the place where a page begins, and places into tokens; pure.

Filters are flat, and what an index begins with stands first. All collections are in the order of one string, the time
in thirteen digits and then an id, so a page, a time range and a cursor are all bounds of that string.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.events import MAX_EVENT_TIME_MS, MAX_IDENTITY_LENGTH
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from footfall_timeline import normalize_uuid, order_key
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_history.storage import TIME_DIGITS, Document, event_time_ms

ALL_CATEGORIES: Final = "all categories"

_KEY = re.compile(rf"[0-9]{{{TIME_DIGITS}}}")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Some items of a collection, and the key of the first that follows, empty when none does."""

    items: Sequence[Item]
    next_key: str


@dataclass(frozen=True)
class Window:
    """Which part of a collection is asked for: keys from `lower` on, below `upper` if that is given, `size` at most."""

    lower: str
    upper: str
    size: int

    @property
    def bounds(self) -> Document:
        """As a condition on a key."""
        return {"$gte": self.lower} | ({"$lt": self.upper} if self.upper else {})

    def contains(self, key: str) -> bool:
        """Whether an item with this key is in it, its size aside."""
        return self.lower <= key and not (self.upper and key >= self.upper)

    def cut(self, keyed: Sequence[tuple[str, Item]]) -> Page[Item]:
        """A page of items with their keys, of which there may be more than fit, in number or as messages in bytes."""
        items = [item for _, item in keyed[: self.size]]
        count = paging.fitting([item for item in items if isinstance(item, Message)]) or len(items)
        return Page(items[:count], keyed[count][0] if len(keyed) > count else "")


def window(request: Any, *, age_of_start: bool = False) -> Window:
    """The window of a list request: its page, the times of its scope, and with `age_of_start` its age.

    Raises RequestError for a token that is not its own, a size below 0, an impossible place.
    """
    page, times = page_window(request), scope_window(request.scope, age_of_start=age_of_start)
    if page.lower and not _KEY.match(page.lower):  # tokens can be made up by whoever reads paging.py
        raise RequestError.invalid("page_token", "must be a token that this method returned")
    lower = max(page.lower, times.lower)
    if request.HasField("start"):
        if request.page_token:
            raise RequestError.invalid("start", "must not be given with page_token")
        lower = max(lower, position_key(request.start))
    return Window(lower, times.upper, page.size)


def scope_window(scope: pb.Scope, *, age_of_start: bool) -> Window:
    """The window of the times of a scope, and with `age_of_start` of its age, of any size. Raises RequestError."""
    since_ms = received_since(scope) if age_of_start else 0
    lower = max(_time_key(scope, "start_time"), _key(since_ms) if since_ms else "")
    return Window(lower, _time_key(scope, "end_time"), 0)


def page_window(request: Any, default_size: int = 50) -> Window:
    """The window of a list request that has nothing but a token and a size. Raises RequestError."""
    lower = paging.decode(request.page_token, paging.fingerprint(request))
    return Window(lower or "", "", paging.page_size(request.page_size, default_size))


def position_key(position: pb.Position) -> str:
    """The key of a place in a collection. Raises RequestError."""
    if not 0 <= position.time_ms <= MAX_EVENT_TIME_MS:
        raise RequestError.invalid("start.time_ms", "must be milliseconds since the epoch, of at most 13 digits")
    return order_key(position.time_ms, position.id)


def point_to_next(response: Any, request: Message, next_key: str) -> None:
    """Say in the response to a list request where the next page begins, if there is one."""
    if next_key:
        response.next_page_token = paging.encode(next_key, paging.fingerprint(request))
        response.next.time_ms = event_time_ms(next_key)
        response.next.id = next_key[TIME_DIGITS:]


def _time_key(scope: pb.Scope, field: str) -> str:
    if not scope.HasField(field):  # type: ignore[arg-type]
        return ""
    moment: Timestamp = getattr(scope, field)
    try:
        nanoseconds = moment.ToNanoseconds()
    except ValueError:
        raise RequestError.invalid(f"scope.{field}", "must be a moment of the years 1 to 9999") from None
    # A fraction of a millisecond does not count for events, which have none: from a moment on means from the next one.
    return _key(-(-nanoseconds // 1_000_000))


def _key(at_ms: int) -> str:
    return f"{min(max(at_ms, 0), MAX_EVENT_TIME_MS):013d}"


def received_since(scope: pb.Scope, clock: Callable[[], float] = time.time) -> int:
    """The moment that the scope's age goes back to, in milliseconds since the epoch; 0 without an age."""
    if scope.age_seconds < 0:
        raise RequestError.invalid("scope.age_seconds", "must not be negative")
    return max(1, int(clock() * 1000) - scope.age_seconds * 1000) if scope.age_seconds else 0


def uuid_of(text: str, field: str) -> str:
    """A UUID in its stored form. Raises RequestError."""
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid(field, "must be a UUID") from None


def identity_of(text: str, field: str = "identity_id") -> str:
    """An identity id. Raises RequestError."""
    if not 1 <= len(text) <= MAX_IDENTITY_LENGTH:
        raise RequestError.invalid(field, f"must be 1 to {MAX_IDENTITY_LENGTH} characters")
    return text


def parent_of(request: Any) -> tuple[str, str]:
    """Whose items are asked for: the field's name and the id in its stored form. Raises RequestError."""
    field = request.WhichOneof("parent")
    if field is None:
        names = [one.name for one in request.DESCRIPTOR.oneofs_by_name["parent"].fields]
        raise RequestError.invalid("parent", f"exactly one of {', '.join(names)} is required")
    text: str = getattr(request, field)
    return field, identity_of(text) if field == "identity_id" else uuid_of(text, field)


def event_conditions(request: pb.ListEventsRequest | pb.ListPagesRequest) -> Document:
    """What the filters of a request demand of an event, besides its parent and its key."""
    conditions: Document = {}
    for field in ("event_name", "event_type", "url", "title", "browser_page_id"):
        if value := getattr(request, field, None):
            conditions[field] = value
    if device := getattr(request, "global_visit_id", ""):
        conditions["global_visit_id"] = uuid_of(device, "global_visit_id")
    if request.category == ALL_CATEGORIES:
        conditions["category"] = {"$gt": ""}
    elif request.category:
        conditions["categories"] = request.category
    return conditions | scope_conditions(request.scope, request.sites)


def of_sites(sites: Sequence[str], site: str = "") -> Document:
    """What a visit or an event has that is of `site`, and that who asks may see, who sees these sites; empty: all.

    The one condition that keeps sites apart: every question has it.
    """
    if not sites:
        return {"site": site} if site else {}
    return {"site": {"$in": [one for one in sites if site in {"", one}]}}


def scope_conditions(scope: pb.Scope, sites: Sequence[str]) -> Document:
    """What a scope demands of an event, besides its key. Raises RequestError."""
    conditions = of_sites(sites, scope.site)
    if since_ms := received_since(scope):
        conditions["received_ms"] = {"$gte": since_ms}
    return conditions


def visit_conditions(request: pb.ListVisitsRequest) -> Document:
    """What the filters of a request demand of a visit, besides its key."""
    conditions: Document = {}
    if request.identity_id:
        conditions["identities"] = identity_of(request.identity_id)
    if request.global_visit_id:
        conditions["global_visit_id"] = uuid_of(request.global_visit_id, "global_visit_id")
    if request.user_agent:
        conditions["user_agent"] = request.user_agent
    return conditions | of_sites(request.sites, request.scope.site)


def session_conditions(request: pb.ListSessionsRequest) -> tuple[Document, str]:
    """What a request for sessions demands of their visits, and whose they must be (empty: anybody's)."""
    field, parent_id = parent_of(request)
    conditions: Document = {"_id": parent_id} if field == "visit_id" else {"identities": parent_id}
    conditions |= of_sites(request.sites, request.scope.site)
    return conditions, request.session_identity_id or (parent_id if field == "identity_id" else "")


def identity_conditions(request: pb.ListIdentityIdsRequest) -> Document:
    """What a request for the ids of identities demands of their visits. Raises RequestError."""
    if not request.user_agent:
        raise RequestError.invalid("user_agent", "is required")
    return {"user_agent": request.user_agent} | of_sites(request.sites, request.site)
