"""Turns a person's rights into calls: everything we know of an identity, and forgetting it."""

from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from starlette.responses import Response, StreamingResponse

from footfall_gateway import history_api
from footfall_gateway.api_v1 import resources
from footfall_gateway.api_v1.receipts import DeadLetter
from footfall_gateway.auth import KeyScope, Principal
from footfall_gateway.backends import Backends
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

NDJSON = "application/x-ndjson"

_LINKS_AT_ONCE = 1_000


class ExportLine(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One line of an export: one of identity, contact, link, visit, session, page and event, with what is beside it."""

    identity: history_api.Identity | None = None
    profile: msgspec.Raw | None = None
    """Beside `identity`: the merged data of its SignIns and UserInfos."""
    contact: resources.Contact | None = None
    """The contact that the identity is linked to."""
    link: resources.Link | None = None
    visit: history_api.Visit | None = None
    user_agent: history_api.UserAgent | None = None
    """Beside `visit`: its browser."""
    session: history_api.Session | None = None
    page: history_api.Page | None = None
    event: history_api.Event | None = None
    dead_letter: DeadLetter | None = None
    """Beside `event`: it could not be stored and lies aside."""
    stamp: resources.VisitorSnapshot | None = None
    """Beside `event`: who the visitor was. Without an identity: before the visit named this one first."""
    network: str = ""
    """Beside `event`: the address it came from, without the host."""
    site: str = ""
    """Beside `visit` and `event`: the website."""
    assurance: resources.Assurance | None = None
    """Beside `session`, and an `event` that identifies: the page says so, or the website's server signed it."""
    assurance_reason: str = ""
    """Beside such an `event`: why."""
    proven: msgspec.Raw | None = None
    """Beside such an `event`: what its token says of the person besides the id, as far as it counts."""
    imported: bool = False
    """Beside `event`: it was brought from another server."""


def _visit(stored: visit_pb2.Visit) -> ExportLine:
    browser = history_api.user_agent(stored) if stored.user_agent else None
    return ExportLine(visit=history_api.visit(stored), user_agent=browser, site=stored.site)


def _session(stored: visit_pb2.Session) -> ExportLine:
    return ExportLine(session=history_api.session(stored), assurance=resources.assurance(stored.assurance))


def _event(stored: visit_pb2.StoredEvent) -> ExportLine:
    return ExportLine(
        event=history_api.event(stored),
        stamp=resources.visitor_snapshot(stored.stamp) if stored.HasField("stamp") else None,
        network=stored.address,
        site=stored.event.site,
        assurance=resources.assurance(stored.event.assurance),
        assurance_reason=stored.event.assurance_reason,
        proven=msgspec.Raw(stored.event.proven_json) if stored.event.proven_json else None,
        imported=stored.imported,
    )


def _unstored_event(unstored: visit_pb2.UnstoredEvent) -> ExportLine:
    letter = unstored.dead_letter
    created_ms = history_api.milliseconds(letter.create_time)
    return msgspec.structs.replace(_event(unstored.event), dead_letter=DeadLetter(letter.reason, created_ms))


_RENDER: dict[str, Callable[[Any], ExportLine]] = {
    "visit": _visit,
    "session": _session,
    "page": lambda stored: ExportLine(page=history_api.page(stored)),
    "event": _event,
    "unstored_event": _unstored_event,
}


class PrivacyApi:
    """Export and erasure."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._stream = backends.stream
        self._identity = backends.identity
        self._history = backends.history

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        path = "/identities/{identityId}"
        return [
            Operation("exportIdentity", "GET", f"{path}/export", self.export, NoQuery, ExportLine, media_type=NDJSON),
            Operation(
                "eraseIdentity",
                "DELETE",
                path,
                self.erase,
                NoQuery,
                resources.Erased,
                required_scope=KeyScope.ERASE,
                also={202: resources.Erased},
            ),
        ]

    async def export(self, call: Call[NoQuery, None]) -> Response:
        """Everything stored of an identity, one JSON object a line.

        With what its visits did before they named anybody, where this identity is whom they named first. Left out is
        what follows from these lines or repeats them for a while: live state, changes, the event log; and what holds
        the person by keyed hashes only: audit lines and tombstones.

        An export that was cut off ends without the end of its last chunk: the client sees a broken answer.
        """
        call.principal.require_all_sites()
        lines = self._lines(call.path["identityId"], call.principal)
        # The first line before the answer begins, so that an unknown identity is still a 404.
        first = await anext(lines)

        async def body() -> AsyncIterator[bytes]:
            yield first
            async for line in lines:
                yield line

        return StreamingResponse(body(), headers={"content-type": NDJSON})

    async def erase(self, call: Call[NoQuery, None]) -> Response:
        """Erase a person's data everywhere. Sending it again changes nothing more.

        202 when history is still to do its part: `history` is `pending`. It does so by itself; the same request sent
        again answers 200 once it is done.
        """
        call.principal.require_all_sites()
        identity_id = call.path["identityId"]
        request = identity.EraseIdentityRequest(identity_id=identity_id, actor=call.principal.name)
        erased = await self._ask(self._identity.EraseIdentity, request, call.principal)
        try:
            counted = await self._ask(
                self._history.EraseIdentity,
                history.EraseIdentityRequest(identity_id=identity_id, erasure=erased.erasure),
                call.principal,
            )
        except Problem:
            counted = None  # the record is in the log: history will come to it
        return json_response(
            resources.Erased(
                history="done" if counted else "pending",
                identity_erased=erased.identity_erased,
                live_visits=erased.visit_count,
                links=erased.link_count,
                visits=counted and counted.visit_count,
                events=counted and counted.event_count,
                log_clean_time=history_api.milliseconds(erased.log_clean_time),
            ),
            200 if counted else 202,
        )

    async def _lines(self, identity_id: str, principal: Principal) -> AsyncIterator[bytes]:
        request = identity.GetIdentityRequest(identity_id=identity_id)
        known = (await self._ask(self._identity.GetIdentity, request, principal)).identity
        profile = msgspec.Raw(known.profile_json or b"{}")
        yield _line(ExportLine(identity=history_api.identity(known), profile=profile))
        if known.contact_id and (contact := await self._contact(known.contact_id, principal)):
            yield _line(ExportLine(contact=contact))
        links = identity.ListContactLinksRequest(identity_id=identity_id, page_size=_LINKS_AT_ONCE)
        while True:
            answer = await self._ask(self._identity.ListContactLinks, links, principal)
            for made in answer.links:
                yield _line(ExportLine(link=resources.link(made)))
            if not answer.next_page_token:
                break
            links.page_token = answer.next_page_token
        everything = history.ExportIdentityRequest(identity_id=identity_id)
        async for found in self._stream(self._history.ExportIdentity, everything, principal, is_endless=True):
            kind = found.WhichOneof("item")
            if kind:
                yield _line(_RENDER[kind](getattr(found, kind)))

    async def _contact(self, contact_id: str, principal: Principal) -> resources.Contact | None:
        request = identity.GetContactRequest(contact_id=contact_id)
        try:
            return resources.contact((await self._ask(self._identity.GetContact, request, principal)).contact)
        except Problem as problem:
            if problem.status == HTTPStatus.NOT_FOUND:  # deleted since
                return None
            raise


def _line(line: ExportLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"
