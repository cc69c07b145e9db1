"""Turns the messages of WatchVisitors into changes, each once, and into the set of visitors that they leave."""

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, cast

from footfall.identity.v1.identity_service_pb2 import (
    VISITOR_CHANGE_LISTED,
    VisitorChange,
    WatchVisitorsRequest,
    WatchVisitorsResponse,
)
from footfall.identity.v1.visitor_pb2 import (
    STAFF_FILTER_INCLUDE,
    STAFF_FILTER_ONLY,
    STAFF_FILTER_UNSPECIFIED,
    VISITOR_PRESENCE_ENDED,
    Visitor,
)

from footfall_client.errors import FootfallError, PositionLostError
from footfall_client.resumption import Item, Resumption

_OF_EVENTS: Final = ("last_event_time", "start_time", "global_visit_id")
"""Fields whose changes no message reports."""
_OF_PAGES: Final = ("url", "title", "open_page_count", "page_enter_time")
"""Fields whose changes are reported only with `include_pages`."""
_REPEATED_FOR_S: Final = 60.0
"""Changes that a list already has come immediately after it. Later, a change that seems to be older is new."""


class LiveChange(NamedTuple):
    """A change of the visitors on the website.

    - `before`: the visitor as the change before left it; None: was not among the visitors.
    - `now`: the visitor; None: no longer among the visitors. The visit has ended, or no longer matches the filters.
    - `changes`: what has changed; LISTED for a visitor of the list. Empty when a visitor is missing from a new list.
    """

    before: Visitor | None
    now: Visitor | None
    changes: tuple[VisitorChange.ValueType, ...]

    @property
    def visitor(self) -> Visitor:
        """The visitor now; as before the change when no longer among the visitors."""
        return cast("Visitor", self.now or self.before)


class _Watch(Resumption[WatchVisitorsRequest, WatchVisitorsResponse, Item]):
    """A call of WatchVisitors that is repeated. It lists when the request says so, and when a position is lost.

    A list is used when it is complete: a call that ends before that lists again.
    """

    def __init__(self, request: WatchVisitorsRequest) -> None:
        super().__init__()
        self._request = WatchVisitorsRequest()
        self._request.CopyFrom(request)
        self._request.announce_progress = True
        self._is_listing = request.list_first and not request.resume_token
        self._listed: dict[str, Visitor] = {}
        """Visitors of the list, each until its first change after the list."""
        self._forget_list_at: float | None = None

    def request(self) -> WatchVisitorsRequest:
        if self._is_listing:
            self._listed.clear()
        return self._request

    def ended(self, error: FootfallError | None) -> float:
        pause = super().ended(error)
        if isinstance(error, PositionLostError):
            self._request.resume_token = ""
            self._request.list_first = self._is_listing = True
        return pause

    def _items(self, message: WatchVisitorsResponse) -> Iterable[Item]:
        if message.resume_token:
            self._request.resume_token = message.resume_token
        if self._is_listing:
            if message.HasField("visitor"):
                self._listed[message.visitor.visit_id] = message.visitor
                return ()
            self._is_listing, self._forget_list_at = False, None
            return self._list(dict(self._listed))
        if message.HasField("visitor") and not self._is_in_list(message):
            return self._change(message)
        return ()

    def _list(self, visitors: dict[str, Visitor]) -> Iterable[Item]:
        """What the caller gets for a complete list."""
        raise NotImplementedError

    def _change(self, message: WatchVisitorsResponse) -> Iterable[Item]:
        """What the caller gets for a change."""
        raise NotImplementedError

    def _is_in_list(self, message: WatchVisitorsResponse) -> bool:
        """Whether the list has the change already. The stream begins before the list is read, so some come again."""
        now = time.monotonic()
        if self._forget_list_at is None:
            self._forget_list_at = now + _REPEATED_FOR_S
        elif now > self._forget_list_at:
            self._listed.clear()
        listed = self._listed.get(message.visitor.visit_id)
        if listed is None:
            return False
        follows = (message.previous_state, message.previous_identity_id) == (listed.state, listed.identity_id)
        if not follows or self._says(listed) == self._says(message.visitor):
            return True
        del self._listed[message.visitor.visit_id]
        return False

    def _says(self, visitor: Visitor) -> Visitor:
        """A visitor without the fields that messages do not report the changes of."""
        said = Visitor()
        said.CopyFrom(visitor)
        for field in _OF_EVENTS if self._request.include_pages else _OF_EVENTS + _OF_PAGES:
            said.ClearField(field)
        return said


class VisitorWatch(_Watch[WatchVisitorsResponse]):
    """Changes of visitors, as messages."""

    def _list(self, visitors: dict[str, Visitor]) -> Iterator[WatchVisitorsResponse]:
        for visitor in visitors.values():
            yield WatchVisitorsResponse(
                visitor=visitor,
                previous_state=visitor.state,
                previous_identity_id=visitor.identity_id,
                previous_contact_id=visitor.contact_id,
                changes=[VISITOR_CHANGE_LISTED],
            )

    def _change(self, message: WatchVisitorsResponse) -> Iterable[WatchVisitorsResponse]:
        return (message,)


class LiveVisitors(_Watch[LiveChange]):
    """The visitors on the website, and each difference. A list after a lost position gives only the differences."""

    def __init__(self, request: WatchVisitorsRequest) -> None:
        super().__init__(request)
        self._request.resume_token = ""
        self._request.list_first = self._is_listing = True
        self._visitors: dict[str, Visitor] = {}

    def _list(self, visitors: dict[str, Visitor]) -> Iterator[LiveChange]:
        for visit_id in self._visitors.keys() - visitors.keys():
            yield LiveChange(self._visitors.pop(visit_id), None, ())
        for visit_id, visitor in visitors.items():
            yield from self._now(visit_id, visitor, (VISITOR_CHANGE_LISTED,))

    def _change(self, message: WatchVisitorsResponse) -> Iterator[LiveChange]:
        visitor = message.visitor if self._is_wanted(message) else None
        yield from self._now(message.visitor.visit_id, visitor, tuple(message.changes))

    def _now(
        self, visit_id: str, now: Visitor | None, changes: tuple[VisitorChange.ValueType, ...]
    ) -> Iterator[LiveChange]:
        before = self._visitors.pop(visit_id, None)
        if now is not None:
            self._visitors[visit_id] = now
        if (before and self._says(before)) != (now and self._says(now)):
            yield LiveChange(before, now, changes)

    def _is_wanted(self, message: WatchVisitorsResponse) -> bool:
        """Whether the visitor matches the filters after a change. Only what has matched before can no longer match."""
        visitor, wanted = message.visitor, self._request
        includes_staff = wanted.staff in {STAFF_FILTER_INCLUDE, STAFF_FILTER_ONLY} or (
            wanted.staff == STAFF_FILTER_UNSPECIFIED and wanted.visit_ids
        )
        if visitor.presence == VISITOR_PRESENCE_ENDED or (visitor.staff and not includes_staff):
            return False
        filters = (
            (wanted.states, message.previous_state, visitor.state),
            (wanted.identity_ids, message.previous_identity_id, visitor.identity_id),
            (wanted.contact_ids, message.previous_contact_id, visitor.contact_id),
        )
        return not any(before in given and now not in given for given, before, now in filters)
