"""Turns requests into MongoDB filters and page windows, and the end of a page into a token.

Filters are flat and begin with the field that an index begins with. All collections are ordered by a key of thirteen
digits of time and then an id. A page, a time range and a token are all bounds of that key.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.events import MAX_EVENT_TIME_MS, MAX_IDENTITY_LENGTH
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError
from footfall_timeline import normalize_uuid, order_key
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_history.storage import TIME_DIGITS, Document, event_time_ms

ALL_CATEGORIES: Final = "all categories"

_MAX_CONTACT_LENGTH: Final = 256
# The field of a list's items that has their time. `event_time` means the same in every list.
_TIME_FIELDS: Final[Mapping[type[Message], str]] = {
    pb.ListEventsRequest: "event_time_ms",
    pb.ListPagesRequest: "start_time",
    pb.ListSessionsRequest: "start_time",
    pb.ListVisitsRequest: "start_time",
}
_KEY = re.compile(rf"[0-9]{{{TIME_DIGITS}}}")

Item = TypeVar("Item")
Response = TypeVar("Response", bound=Any)


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Items of a collection, and the key of the next item (empty when there is none)."""

    items: Sequence[Item]
    next_key: str


@dataclass(frozen=True)
class Window:
    """A part of a collection: at most `size` items with lower <= key, and key < upper if `upper` is not empty.

    `newest_first`: the last items of the part, from the last one on.
    """

    lower: str
    upper: str
    size: int
    newest_first: bool = False

    @property
    def bounds(self) -> Document:
        """The condition on the key."""
        return {"$gte": self.lower} | ({"$lt": self.upper} if self.upper else {})

    def contains(self, key: str) -> bool:
        """Whether a key is within the bounds."""
        return self.lower <= key and not (self.upper and key >= self.upper)

    def cut(self, keyed: Sequence[tuple[str, Item]]) -> Page[Item]:
        """A page of the first items that fit, by number and by the size of one message. Items come with their keys."""
        items = [item for _, item in keyed[: self.size]]
        count = paging.fitting([item for item in items if isinstance(item, Message)]) or len(items)
        return Page(items[:count], keyed[count][0] if len(keyed) > count else "")

    def merged(self, pages: Sequence[Page[Item]], key_of: Callable[[Item], str]) -> Page[Item]:
        """One page from the pages of several parents in this window."""
        keyed = [(key_of(item), item) for page in pages for item in page.items]
        keyed.sort(key=itemgetter(0), reverse=self.newest_first)
        following = [page.next_key for page in pages if page.next_key]
        if not following:
            return self.cut(keyed)
        # From this key on, not all items have been read.
        next_key = max(following) if self.newest_first else min(following)
        page = self.cut([(key, item) for key, item in keyed if (key > next_key) == self.newest_first])
        return page if page.next_key else Page(page.items, next_key)


def window(request: Any, *, age_of_start: bool = False) -> Window:
    """The window of a list request: its page and time range. With `age_of_start` the age limits the start of items.

    Raises RequestError for another request's token, a negative size, an impossible position or an unknown order.
    """
    page, times = page_window(request), time_window(request.scope, age_of_start=age_of_start)
    check_key(page.lower)
    first = page.lower
    if request.HasField("start"):
        if request.page_token:
            raise RequestError.invalid("start", "must not be given with page_token")
        if not 0 <= request.start.time_ms <= MAX_EVENT_TIME_MS:
            raise RequestError.invalid("start.time_ms", "must be milliseconds since the epoch, of at most 13 digits")
        first = order_key(request.start.time_ms, request.start.id)
    if not is_newest_first(request):
        return Window(max(first, times.lower), times.upper, page.size)
    uppers = [upper for upper in (first and first + "\0", times.upper) if upper]
    return Window(times.lower, min(uppers, default=""), page.size, newest_first=True)


def check_key(key: str) -> None:
    """Raise RequestError for a key from a page token that is none: tokens are not signed."""
    if key and not _KEY.match(key):
        raise RequestError.invalid("page_token", "must be a token that this method returned")


def is_newest_first(request: Any) -> bool:
    """Whether the `order_by` of a list request asks for the newest item first. Raises RequestError."""
    names = ("event_time", _TIME_FIELDS[type(request)])
    oldest, newest = ["", *names], [f"{name} desc" for name in names]
    order = " ".join(request.order_by.split())
    if order not in [*oldest, *newest]:
        raise RequestError.invalid("order_by", f"must be empty or one of {', '.join([*names, *newest])}")
    return order in newest


def time_window(scope: pb.Scope, *, age_of_start: bool) -> Window:
    """The time range of a scope, and with `age_of_start` its age, as a window without a size. Raises RequestError."""
    since_ms = received_since(scope) if age_of_start else 0
    lower = max(_scope_key(scope, "start_time"), time_key(since_ms) if since_ms else "")
    return Window(lower, _scope_key(scope, "end_time"), 0)


def page_window(request: Any, default_size: int = 50) -> Window:
    """The window of a list request by its token and size alone. Raises RequestError."""
    lower = paging.decode(request.page_token, paging.fingerprint(request))
    return Window(lower or "", "", paging.page_size(request.page_size, default_size))


def with_next_token(response: Response, request: Message, next_key: str) -> Response:
    """The response to a list request, with the token of the next page if there is one."""
    if next_key:
        response.next_page_token = paging.encode(next_key, paging.fingerprint(request))
    return response


def with_next_page(response: Response, request: Message, next_key: str) -> Response:
    """The response to a list request, with the token and the position of the next page if there is one."""
    if next_key:
        response.next.time_ms = event_time_ms(next_key)
        response.next.id = next_key[TIME_DIGITS:]
    return with_next_token(response, request, next_key)


def _scope_key(scope: pb.Scope, field: str) -> str:
    nanoseconds = _nanoseconds(scope, field, f"scope.{field}")
    # Events have whole milliseconds, so a bound with a fraction means the next whole one.
    return "" if nanoseconds is None else time_key(-(-nanoseconds // 1_000_000))


def _nanoseconds(message: Any, field: str, path: str) -> int | None:
    """A time in nanoseconds since the epoch; None if it is not given. Raises RequestError."""
    if not message.HasField(field):
        return None
    given: Timestamp = getattr(message, field)
    try:
        return given.ToNanoseconds()
    except ValueError:
        raise RequestError.invalid(path, "must be a time in the years 1 to 9999") from None


class Moment(NamedTuple):
    """A moment to look back at, in milliseconds since the epoch: what had happened, and what had been received.

    None: no limit.
    """

    as_of_ms: int | None = None
    known_at_ms: int | None = None


def parse_moment(request: pb.ExplainVisitRequest) -> Moment:
    """The moment of a request. Raises RequestError."""
    return Moment(time_ms(request, "as_of_time"), time_ms(request, "known_at_time"))


def time_ms(request: Any, field: str) -> int | None:
    """A time of a request in milliseconds since the epoch; None if it is not given. Raises RequestError."""
    nanoseconds = _nanoseconds(request, field, field)
    return None if nanoseconds is None else nanoseconds // 1_000_000


def time_key(at_ms: int) -> str:
    """The least order key of a time in milliseconds since the epoch."""
    return f"{min(max(at_ms, 0), MAX_EVENT_TIME_MS):013d}"


def received_since(scope: pb.Scope) -> int:
    """The time that a scope's age reaches back to, in milliseconds since the epoch; 0 without an age."""
    if scope.age_seconds < 0:
        raise RequestError.invalid("scope.age_seconds", "must not be negative")
    return max(1, int(time.time() * 1000) - scope.age_seconds * 1000) if scope.age_seconds else 0


def parse_uuid(text: str, field: str) -> str:
    """A UUID in its stored form. Raises RequestError."""
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid(field, "must be a UUID") from None


def parse_identity_id(text: str, field: str = "identity_id") -> str:
    """An identity id. Raises RequestError."""
    if not 1 <= len(text) <= MAX_IDENTITY_LENGTH:
        raise RequestError.invalid(field, f"must be 1 to {MAX_IDENTITY_LENGTH} characters")
    return text


def parse_contact_id(text: str) -> str:
    """A contact id. Raises RequestError."""
    if not 1 <= len(text) <= _MAX_CONTACT_LENGTH:
        raise RequestError.invalid("contact_id", f"must be 1 to {_MAX_CONTACT_LENGTH} characters")
    return text


def parse_parent(request: Any) -> tuple[str, str]:
    """The parent of a list request: the field's name and the id in its stored form. Raises RequestError."""
    field = request.WhichOneof("parent")
    if field is None:
        names = [one.name for one in request.DESCRIPTOR.oneofs_by_name["parent"].fields]
        raise RequestError.invalid("parent", f"exactly one of {', '.join(names)} is required")
    text: str = getattr(request, field)
    match field:
        case "identity_id":
            return field, parse_identity_id(text)
        case "contact_id":
            return field, parse_contact_id(text)
        case _:
            return field, parse_uuid(text, field)


def event_conditions(request: pb.ListEventsRequest | pb.ListPagesRequest) -> Document:
    """The conditions of a request on events, without those on parent and key. Raises RequestError."""
    conditions: Document = {}
    for field in ("event_name", "event_type", "url", "title", "browser_page_id"):
        if value := getattr(request, field, None):
            conditions[field] = value
    if device := getattr(request, "global_visit_id", ""):
        conditions["global_visit_id"] = parse_uuid(device, "global_visit_id")
    if request.category == ALL_CATEGORIES:
        conditions["category"] = {"$gt": ""}
    elif request.category:
        conditions["categories"] = request.category
    return conditions | scope_conditions(request.scope, request.sites)


def site_filter(sites: Sequence[str], site: str = "") -> Document:
    """The condition on visits and events of `site` that a caller with access to `sites` may see. Empty: any site.

    This condition isolates sites from each other, and every query has it.
    """
    if not sites:
        return {"site": site} if site else {}
    return {"site": {"$in": [one for one in sites if site in {"", one}]}}


def scope_conditions(scope: pb.Scope, sites: Sequence[str]) -> Document:
    """The conditions of a scope on events, without those on the key. Raises RequestError."""
    conditions = site_filter(sites, scope.site)
    if since_ms := received_since(scope):
        conditions["received_ms"] = {"$gte": since_ms}
    return conditions


def visit_conditions(request: pb.ListVisitsRequest, identities: Sequence[str] = ()) -> Document:
    """The conditions of a request on visits, without those on the key. Raises RequestError.

    `identities`: those of the request's contact, or the names of its identity if there are several.
    """
    conditions: Document = {}
    if request.contact_id:
        if request.identity_id:
            raise RequestError.invalid("contact_id", "must not be given with identity_id")
        conditions["identities"] = {"$in": [*identities]}
    if request.identity_id:
        identity_id = parse_identity_id(request.identity_id)
        conditions["identities"] = {"$in": [*identities]} if len(identities) > 1 else identity_id
    if request.global_visit_id:
        conditions["global_visit_id"] = parse_uuid(request.global_visit_id, "global_visit_id")
    if request.user_agent:
        conditions["user_agent"] = request.user_agent
    return conditions | site_filter(request.sites, request.scope.site)


def session_conditions(
    request: pb.ListSessionsRequest, parents: Sequence[tuple[str, str]]
) -> tuple[Document, Sequence[str]]:
    """The conditions of a request on the visits of sessions, and the sessions' identities (empty: any).

    `parents`: a visit, or identities; as field and id.
    """
    ids = [parent_id for _, parent_id in parents]
    conditions: Document
    if request.visit_id:
        conditions, identities = {"_id": request.visit_id}, []
    else:
        conditions, identities = {"identities": {"$in": ids} if len(ids) != 1 else ids[0]}, ids
    conditions |= site_filter(request.sites, request.scope.site)
    return conditions, [request.session_identity_id] if request.session_identity_id else identities


def identity_conditions(request: pb.ListIdentityIdsRequest) -> Document:
    """The conditions of a request for identity ids on their visits. Raises RequestError."""
    if not request.user_agent:
        raise RequestError.invalid("user_agent", "is required")
    return {"user_agent": request.user_agent} | site_filter(request.sites, request.site)
