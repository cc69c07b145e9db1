"""Finds the resources that ids in a path name, if they exist and the client may see them."""

from typing import Any, NamedTuple

from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_pb2
from footfall.identity.v1 import identity_service_pb2 as identity

from footfall_gateway.auth import Principal
from footfall_gateway.backends import Backends
from footfall_gateway.http import Call


class Parent(NamedTuple):
    """The resource that a collection belongs to: its kind (`visit`, `identity`, `session` or `page`) and its id."""

    kind: str
    id: str


def parent_of(call: Call[Any, Any]) -> Parent:
    """The one resource that the path names; empty when it names none. Raises Problem 404 when its id is malformed."""
    if not call.path:
        return Parent("", "")
    ((name, value),) = call.path.items()
    kind = name.removesuffix("Id")
    return Parent(kind, value if kind == "identity" else call.uuid(name, kind))


class Lookup:
    """Finds one resource. Every method raises Problem 404 when it does not exist for this client."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._history = backends.history
        self._identity = backends.identity

    async def identity(self, identity_id: str, principal: Principal) -> identity_pb2.Identity:
        """An identity."""
        request = identity.GetIdentityRequest(identity_id=identity_id)
        return (await self._ask(self._identity.GetIdentity, request, principal)).identity

    async def visit(self, visit_id: str, principal: Principal) -> visit_pb2.Visit:
        """A visit."""
        request = history.GetVisitRequest(visit_id=visit_id)
        return (await self._ask(self._history.GetVisit, request, principal)).visit

    async def session(self, session_id: str, principal: Principal) -> visit_pb2.Session:
        """A session."""
        request = history.GetSessionRequest(session_id=session_id)
        return (await self._ask(self._history.GetSession, request, principal)).session

    async def page(self, page_id: str, principal: Principal) -> visit_pb2.Page:
        """A page entry."""
        request = history.GetPageRequest(page_id=page_id)
        return (await self._ask(self._history.GetPage, request, principal)).page

    async def event(self, event_id: str, principal: Principal, visit_id: str = "") -> visit_pb2.StoredEvent:
        """An event. Without `visit_id`: the one received first, when several visits have used its id."""
        request = history.GetEventRequest(event_id=event_id, visit_id=visit_id)
        return (await self._ask(self._history.GetEvent, request, principal)).event

    async def require_exists(self, parent: Parent, principal: Principal) -> None:
        """Check that the parent of an empty collection exists."""
        if parent.kind:
            await getattr(self, parent.kind)(parent.id, principal)
