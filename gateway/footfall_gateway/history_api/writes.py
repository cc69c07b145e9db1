"""The write operations of the History API. Each stores one event, with the rules and the durability of a beacon."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from footfall_eventlog.events import MAX_TIMESTAMP_MS, VISIT_STARTED
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import DEFAULT_SITE
from footfall_timeline import normalize_uuid, page_id, user_agent_id
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.auth import KeyScope, Principal
from footfall_gateway.beacons import (
    BeaconError,
    BeaconEvent,
    Envelope,
    Intake,
    NewEvent,
    Sender,
    decode_beacon,
    now_ms,
    to_int64,
)
from footfall_gateway.fields import SentGlobalVisitId, SentUuid
from footfall_gateway.history_api import resources
from footfall_gateway.history_api.lookup import Lookup
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

Found = TypeVar("Found")

_NODE = random.getrandbits(48) | 1 << 40
_POLL_TIMEOUT_S = 2.0
_POLL_INTERVAL_S = 0.02
_WITHOUT_QUERIES: Final = {501, 504}
"""Not answered here: a service that cannot be asked for what is stored does not make a request fail."""


_NAMES_OF_EVENT: Mapping[str, str] = {}
_NAMES_OF_VISIT: Final = {"timestamp": "startDate", "visitID": "visitId", "User-Agent": "userAgent"}


class VisitBody(msgspec.Struct, rename="camel"):
    """A visit to create. `null` means not given; other keys are ignored."""

    global_visit_id: SentGlobalVisitId | None = msgspec.field(name="globalVisitID", default=None)
    user_agent: Annotated[str, Meta(description="The `User-Agent` header of the browser.", max_length=1_024)] = ""
    start_date: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_TIMESTAMP_MS)] | Annotated[float, Meta(ge=1, le=MAX_TIMESTAMP_MS)] | None,
        Meta(description="When the visit began, however long ago (ms). A fraction is cut off. Not given: now."),
    ] = None
    visit_id: Annotated[SentUuid, Meta(description="The visit. Not given: a new id.")] | None = None
    site: Annotated[str, Meta(description="The website. Empty: that of the key, or else `default`.")] = ""


class HistoryWrites:
    """The write operations of the History API."""

    def __init__(self, intake: Intake, lookup: Lookup, site_groups: SiteGroups) -> None:
        self._intake = intake
        self._lookup = lookup
        self._site_groups = site_groups

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        event_path = "/visits/{visitId}/events"
        visit, event, ingest = resources.Visit, resources.Event, KeyScope.INGEST
        return [
            Operation(
                "createVisit",
                "POST",
                "/visits",
                self.visit,
                NoQuery,
                visit,
                VisitBody,
                ingest,
                never=_WITHOUT_QUERIES,
                example={"userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
            ),
            Operation(
                "createEvent",
                "POST",
                event_path,
                self.event,
                NoQuery,
                event,
                NewEvent,
                ingest,
                decode=_one_event,
                never=_WITHOUT_QUERIES,
                example={"eventName": "AppointmentMade", "data": {"branch": "Main Street"}},
            ),
        ]

    async def visit(self, call: Call[NoQuery, VisitBody]) -> Response:
        """Create a visit: store its VisitStarted, and return the visit once the event is on disk.

        A client without the scope `read` gets back what it sent, not what was stored before.
        """
        given, received_ms = call.body, now_ms()
        start_ms = received_ms if given.start_date is None else to_int64(given.start_date)
        event = BeaconEvent(
            event_name=VISIT_STARTED,
            event_id=_new_id(),
            visit_id=given.visit_id or str(uuid.uuid4()),
            global_visit_id=given.global_visit_id,
            timestamp=start_ms,
            site=call.principal.site_for_writes(given.site),
        )
        sender = Sender(received_ms, user_agent=given.user_agent, keeps_times=True, is_staff=call.principal.is_staff)
        await self._store(event, sender, _NAMES_OF_VISIT)
        visit_id = normalize_uuid(event.visit_id or "")
        stored_id = self._site_groups.stored_id(visit_id, event.site or DEFAULT_SITE)
        stored = await _poll_history(call.principal, lambda: self._lookup.visit(stored_id, call.principal))
        if stored:
            return json_response(resources.visit(stored))
        return json_response(
            resources.Visit(
                visit_id=visit_id,
                start_date=start_ms,
                global_visit_id=given.global_visit_id and normalize_uuid(given.global_visit_id),
                user_agent_id=user_agent_id(stored_id, given.user_agent) if given.user_agent else None,
            )
        )

    async def event(self, call: Call[NoQuery, BeaconEvent]) -> Response:
        """Create an event of a visit, which need not exist yet, and return the event once it is on disk.

        The visitId of the path replaces that of the body. A second request with the same eventID returns the event
        stored first. A client without the scope `read` gets back what it sent.
        """
        received_ms = now_ms()
        event = call.body
        event.visit_id = call.uuid("visitId", "visit")
        event.event_id = event.event_id or _new_id()
        event.timestamp = received_ms if event.timestamp is None else event.timestamp
        event.site = call.principal.site_for_writes(event.site or "")
        await self._store(event, Sender(received_ms, is_staff=call.principal.is_staff))
        event_id = normalize_uuid(event.event_id)
        stored_id = self._site_groups.stored_id(event.visit_id, event.site or DEFAULT_SITE)
        stored = await _poll_history(call.principal, lambda: self._lookup.event(event_id, call.principal, stored_id))
        if stored:
            return json_response(resources.event(stored))
        return json_response(_as_sent(event, event_id, received_ms, stored_id))

    async def _store(self, event: BeaconEvent, sender: Sender, names: Mapping[str, str] = _NAMES_OF_EVENT) -> None:
        """Store the event. Raises Problem: 400, it is rejected; 503, it is not known to be stored.

        `names`: the keys of the request, by the keys of an event that the collector names.
        """
        outcome = await self._intake.store(sender, Envelope([event], [0], [], 0, None), len(bytes(event.data)))
        for rejection in outcome.rejections:
            if rejection.is_retryable:
                raise Problem(503, "the event log is not available; try again", retry_s=1)
            key, separator, rule = rejection.message.partition(":")
            raise Problem(400, names.get(key, key) + separator + rule)


async def _poll_history(principal: Principal, ask: Callable[[], Awaitable[Found]]) -> Found | None:
    """The resource that history has stored for an event; None when history does not have it in time.

    None for a client without the scope `read`: the ids it sends may be those of other visitors.
    """
    if KeyScope.READ not in principal.scopes:
        return None
    deadline = time.monotonic() + _POLL_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return await ask()
        except Problem as problem:
            if problem.status != 404:
                return None  # history is unavailable; the event is stored all the same
        await asyncio.sleep(_POLL_INTERVAL_S)
    return None


def _one_event(body: bytes) -> BeaconEvent:
    """The event of a beacon with one event. Raises Problem 400 for any other body."""
    try:
        envelope = decode_beacon(body)
    except BeaconError as error:
        raise Problem(400, str(error)) from None
    for rejection in envelope.rejections:
        raise Problem(400, rejection.message)
    if len(envelope.events) != 1:
        raise Problem(400, "body: must be one event")
    return envelope.events[0]


def _as_sent(event: BeaconEvent, event_id: str, received_ms: int, stored_id: str) -> resources.Event:
    visit_id, name = event.visit_id or "", event.event_name or ""
    return resources.Event(
        event_id=event_id,
        category=event.category or "",
        event_type=resources.event_type(name),
        event_name=name,
        server_timestamp=received_ms,
        browser_page_id=event.page_id,
        global_visit_id=event.global_visit_id and normalize_uuid(event.global_visit_id),
        url=event.url,
        timestamp=to_int64(event.timestamp or 0),
        visit_id=visit_id,
        page_id=page_id(stored_id, event.page_id) if event.page_id else None,
        data=event.data if bytes(event.data) else msgspec.Raw(b"{}"),
        language_code=event.language_code,
    )


def _new_id() -> str:
    """A UUIDv1, as GWE's server makes them."""
    return str(uuid.uuid1(_NODE))
