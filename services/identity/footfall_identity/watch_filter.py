"""Which changes of visitors a call of WatchVisitors reports, and what of them its caller may see."""

from collections.abc import Collection
from typing import Any

import msgspec
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.visitor_pb2 import Visitor
from footfall_timeline import State

from footfall_identity import messages
from footfall_identity.live_visitors import ONLY_PRESENT, VisitorFilter

Message = pb.WatchVisitorsResponse


class WatchFilter(msgspec.Struct, frozen=True):
    """The conditions on a change, all of which have to be met. None is met by every change.

    `visit_ids` are those that browsers sent. `is_limited`: the caller may not see what other websites say. `is_staff`:
    only visits of staff, or only those of customers, with the message that says that one has become one of staff.
    """

    visit_ids: frozenset[str] | None = None
    identities: frozenset[str] | None = None
    contacts: frozenset[str] | None = None
    sites: frozenset[str] | None = None
    states: frozenset[State] | None = None
    includes_pages: bool = False
    is_limited: bool = False
    is_staff: bool | None = None

    @property
    def listed(self) -> VisitorFilter:
        """The visitors on the website whom the filter lets through, apart from `visit_ids` and `contacts`."""
        return VisitorFilter(
            states=self.states,
            presences=ONLY_PRESENT,
            sites=self.sites,
            identities=self.identities,
            is_staff=self.is_staff,
        )

    def view(self, message: Message) -> Message | None:
        """Return a message as the caller may see it, or None if it is not wanted. It is shared with other callers.

        A message without changes is wanted by none: it only has a token.
        """
        changes = [one for one in message.changes if self.includes_pages or one != pb.VISITOR_CHANGE_PAGE]
        if not changes or not self._matches(message):
            return None
        hides_candidates = self.is_limited and message.visitor.contact_candidate_count
        if len(changes) == len(message.changes) and not hides_candidates:
            return message
        own = Message()
        own.CopyFrom(message)
        own.changes[:] = changes
        if hides_candidates:
            messages.without_candidates(own.visitor)
        return own

    def _matches(self, message: Message) -> bool:
        visitor = message.visitor
        return (
            (self.sites is None or visitor.site in self.sites)
            and (self.visit_ids is None or visitor.visit_id in self.visit_ids)
            and _is_one_of(self.states, visitor.state, message.previous_state)
            and _is_one_of(self.identities, visitor.identity_id, message.previous_identity_id)
            and self.has_contact(visitor, message.previous_contact_id)
            and (self.is_staff in {None, visitor.staff} or pb.VISITOR_CHANGE_STAFF in message.changes)
        )

    def has_contact(self, visitor: Visitor, previous_contact_id: str = "") -> bool:
        """Return whether the visitor has a wanted contact, or has had it before a change."""
        return _is_one_of(self.contacts, visitor.contact_id, previous_contact_id)


def _is_one_of(wanted: Collection[Any] | None, now: Any, before: Any) -> bool:
    return wanted is None or now in wanted or before in wanted
