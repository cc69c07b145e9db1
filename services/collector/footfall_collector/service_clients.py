"""Clients of the services that the collector calls: identity for live state, history and identity for visits."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

import grpc
from footfall.event.v1.event_pb2 import Event
from footfall.history.v1.history_service_pb2 import GetVisitRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.channel import forwarded
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog
from grpc import StatusCode

from footfall_collector import metrics

PAUSE_AFTER_FAILURE_S: Final = 1.0
_RETRY_MS: Final = 1_000
_TRANSIENT_CODES: Final = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class IdentityClient:
    """Sends stored events that identify to ResolveEvents, so that live state is current immediately.

    It is an optimisation: identity reads the same events from the log. While identity is unavailable, it skips calls
    and tries once a second.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._resolve_events = IdentityServiceStub(channel).ResolveEvents
        self._is_available = True
        self._try_at = 0.0
        self._failed = FailureLog("ResolveEvents failed; identity will read these events from the log", "service")

    async def resolve_events(self, events: Iterable[Event], timeout_s: float) -> None:
        """Send the events with a transition to identity within `timeout_s`; make no call when there are none.

        Never raises for a failed call. Removes from these events the data that ResolveEvents does not need.
        """
        identifying = [event for event in events if event.transition]
        if not identifying:
            return
        if not self._may_try(timeout_s):
            metrics.IDENTITY_CALLS_SKIPPED.inc()
            return
        for event in identifying:
            event.ClearField("data_json")
            event.ClearField("proven_json")
        request = identity.ResolveEventsRequest(events=identifying)
        try:
            await self._resolve_events(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            self._is_available = error.code() not in _TRANSIENT_CODES
            self._try_at = time.monotonic() + PAUSE_AFTER_FAILURE_S
            metrics.IDENTITY_CALLS_FAILED.inc()
            self._failed.failed("identity", code=error.code().name)
        else:
            self._is_available = True
            self._failed.worked("identity")
            metrics.IDENTITY_CALLS_ANSWERED.inc()

    def _may_try(self, timeout_s: float) -> bool:
        if timeout_s <= 0:
            return False
        if self._is_available:
            return True
        now = time.monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + timeout_s  # this call tries; others are skipped until it has ended
        return True


class KnownVisit(NamedTuple):
    """A visit: the id under which it is stored, the id that the browser sent, and its site."""

    stored_id: str
    browser_id: str
    site: str


class VisitLookup:
    """Finds visits. Live state has new visits before history, and history those that live state has forgotten."""

    def __init__(
        self, history: grpc.aio.Channel, live: grpc.aio.Channel, site_groups: SiteGroups, timeout_s: float
    ) -> None:
        """Use channels to history and identity. A service is waited for `timeout_s` at most."""
        self._get_visit = HistoryServiceStub(history).GetVisit
        self._get_visitor = IdentityServiceStub(live).GetVisitor
        self._site_groups = site_groups
        self._timeout_s = timeout_s
        self._failed = FailureLog("a service does not answer what visit an interaction is about", "service")

    async def find(self, visit_id: str, sites: Sequence[str]) -> KnownVisit:
        """The visit with this id on these sites, or on any if there are none.

        Raises RequestError: NOT_FOUND, both services answer that they do not know it; UNAVAILABLE, one of them does
        not answer, and the other does not know it.
        """
        answers = await asyncio.gather(
            self._stored(visit_id, sites), self._live(visit_id, sites), return_exceptions=True
        )
        for answer in answers:  # history's first: it has the id under which the visit is stored
            if isinstance(answer, KnownVisit):
                return answer
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        raise RequestError.not_found("Visit", visit_id)

    async def _stored(self, visit_id: str, sites: Sequence[str]) -> KnownVisit | None:
        request = GetVisitRequest(visit_id=visit_id, sites=sites)
        if not (answer := await self._ask("history", self._get_visit, request)):
            return None
        visit = answer.visit
        return KnownVisit(visit.scoped_visit_id or visit.visit_id, visit.visit_id, visit.site)

    async def _live(self, visit_id: str, sites: Sequence[str]) -> KnownVisit | None:
        request = identity.GetVisitorRequest(visit_id=visit_id, sites=sites)
        if not (answer := await self._ask("identity", self._get_visitor, request)):
            return None
        visitor = answer.visitor
        return KnownVisit(self._site_groups.stored_id(visitor.visit_id, visitor.site), visitor.visit_id, visitor.site)

    async def _ask(
        self, service: str, method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> Answer | None:
        """The answer; None for NOT_FOUND. Raises RequestError (UNAVAILABLE) for any other error."""
        try:
            answer: Answer = await method(request, timeout=self._timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            self._failed.failed(service, code=error.code().name)
            message = f"{service} does not answer whether the visit is known; try again"
            raise RequestError.unavailable(message, _RETRY_MS, repeats=False) from error
        self._failed.worked(service)
        return answer
