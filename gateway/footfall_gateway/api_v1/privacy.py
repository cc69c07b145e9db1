"""Privacy operations: export and erasure of an identity's data."""

from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from footfall.event.v1.event_pb2 import Erasure
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import visit_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from footfall_gateway import history_api
from footfall_gateway.api_v1 import resources
from footfall_gateway.api_v1.receipts import DeadLetter
from footfall_gateway.auth import KeyScope, Principal
from footfall_gateway.backends import Backends
from footfall_gateway.fields import JsonObject, SiteName
from footfall_gateway.http import Call, NoQuery, Operation, json_response
from footfall_gateway.problem import Problem

NDJSON = "application/x-ndjson"


class ExportLine(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One line of an export: an identity, rename, contact, link, visit, session, page, event or interaction.

    A key is left out when the line does not have it.
    """

    identity: Annotated[history_api.Identity | None, Meta(description="The identity. In the first line.")] = None
    profile: Annotated[
        JsonObject | None, Meta(description="With `identity`: the merged data of its SignIns and UserInfos.")
    ] = None
    rename: Annotated[
        resources.Redirect | None, Meta(description="A name of the identity that leads to another, or did so.")
    ] = None
    shared: Annotated[
        bool,
        Meta(description="With `identity`: it was used on more than `IDENTITY_MAX_DEVICES_PER_DAY` devices on a day."),
    ] = False
    device_days: resources.DeviceDays = []
    contact: Annotated[resources.Contact | None, Meta(description="The contact that the identity is linked to.")] = None
    link: Annotated[resources.Link | None, Meta(description="A decision about the contact of the identity.")] = None
    visit: Annotated[history_api.Visit | None, Meta(description="A visit that named the identity.")] = None
    user_agent: Annotated[history_api.UserAgent | None, Meta(description="With `visit`: its browser.")] = None
    session: Annotated[history_api.Session | None, Meta(description="A session of the identity.")] = None
    page: Annotated[history_api.Page | None, Meta(description="A page entry of the identity.")] = None
    event: Annotated[history_api.Event | None, Meta(description="An event of the identity.")] = None
    dead_letter: Annotated[
        DeadLetter | None, Meta(description="With `event`: it could not be stored, and is kept as a dead letter.")
    ] = None
    interaction: Annotated[
        resources.Interaction | None,
        Meta(description="An interaction about the identity, a visit of it, its contact, or a number of the contact."),
    ] = None
    stamp: Annotated[
        resources.VisitorSnapshot | None,
        Meta(
            description="With `event`: the visitor at its time. Without an identity: before the visit first named this "
            "identity."
        ),
    ] = None
    network: Annotated[
        str, Meta(description="With `event`: the network of the sender's address, an IPv4 /24 or IPv6 /48.")
    ] = ""
    site: Annotated[SiteName, Meta(description="With `visit` and `event`: the website.")] = ""
    assurance: Annotated[
        resources.Assurance | None,
        Meta(
            description="With `session` and a transition: `claimed` by the page, or `proven` by a token of the "
            "website's server."
        ),
    ] = None
    assurance_reason: Annotated[
        resources.AssuranceReason, Meta(description="With a transition: the reason for its assurance.")
    ] = ""
    proven: Annotated[
        JsonObject | None,
        Meta(description="With a transition: the accepted claims of its token other than the user id."),
    ] = None
    imported: Annotated[bool, Meta(description="With `event`: it was imported from another server.")] = False


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
    "interaction": lambda stored: ExportLine(interaction=resources.interaction(stored)),
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
                errors={409: "`ERASURE_KEY` is not set, so nothing can be erased."},
                never={404},
            ),
        ]

    async def export(self, call: Call[NoQuery, None]) -> Response:
        """Everything stored about an identity and all names of the person, one JSON object a line.

        A visit that has named two of the names comes with each.

        Includes the anonymous events of a visit before it first named this identity. Does not include live state,
        recent changes and the event log, which repeat these lines, nor audit lines and marks of erasures, which have
        only keyed hashes of the person.

        An interrupted export ends without its last chunk, so the client receives an incomplete response.
        """
        call.principal.require_all_sites()
        lines = self._lines(call.path["identityId"], call.principal)
        # Read before the response begins, so that an unknown identity is answered 404.
        first = await anext(lines)

        async def body() -> AsyncIterator[bytes]:
            yield first
            async for line in lines:
                yield line

        return StreamingResponse(body(), headers={"content-type": NDJSON})

    async def erase(self, call: Call[NoQuery, None]) -> Response:
        """Erase an identity's data in all services, and those of all names of the person.

        A repeated request changes nothing.

        Ids, times, types and sites of its events remain, and so does the contact it was linked to. Interactions are
        removed, also those that name only that contact or its telephone numbers. The event log and backups are not
        changed.

        202 and `history: pending`: history has not erased its data yet, and will do so by itself. Repeat the request to
        see when it is done: then it is answered 200.
        """
        call.principal.require_all_sites()
        identity_id = call.path["identityId"]
        request = identity.EraseIdentityRequest(identity_id=identity_id, actor=call.principal.name)
        erased = await self._ask(self._identity.EraseIdentity, request, call.principal)
        names = [(one.identity_id, one.erasure) for one in erased.other_names]
        counted = await self._erase_history([*names, (identity_id, erased.erasure)], call.principal)
        return json_response(
            resources.Erased(
                history="done" if counted else "pending",
                identity_erased=erased.identity_erased,
                live_visits=erased.visit_count,
                links=erased.link_count,
                other_names=[name for name, _ in names],
                visits=counted and counted.visit_count,
                events=counted and counted.event_count,
                interactions=counted and counted.interaction_count,
                log_clean_time=history_api.milliseconds(erased.log_clean_time),
            ),
            200 if counted else 202,
        )

    async def _erase_history(
        self, names: Sequence[tuple[str, Erasure]], principal: Principal
    ) -> history.EraseIdentityResponse | None:
        """Erase the names of a person from history; None if it does not answer.

        Then it reads the erasures in the event log.
        """
        counted = history.EraseIdentityResponse()
        try:
            for name, erasure in names:
                request = history.EraseIdentityRequest(identity_id=name, erasure=erasure)
                found = await self._ask(self._history.EraseIdentity, request, principal)
                counted.visit_count += found.visit_count
                counted.event_count += found.event_count
                counted.interaction_count += found.interaction_count
        except Problem:
            return None
        return counted

    async def _lines(self, identity_id: str, principal: Principal) -> AsyncIterator[bytes]:
        request = identity.GetIdentityRequest(identity_id=identity_id)
        known = (await self._ask(self._identity.GetIdentity, request, principal)).identity
        profile = msgspec.Raw(known.profile_json or b"{}")
        yield _line(
            ExportLine(
                identity=history_api.identity(known),
                profile=profile,
                shared=known.shared,
                device_days=resources.device_days(known),
            )
        )
        renames = identity.ListRenamesRequest(identity_id=identity_id, page_size=1_000)
        for rename in (await self._ask(self._identity.ListRenames, renames, principal)).renames:
            yield _line(ExportLine(rename=resources.redirect(rename)))
        if known.contact_id and (contact := await self._contact(known.contact_id, principal)):
            yield _line(ExportLine(contact=contact))
            async for line in self._contact_interactions(known.contact_id, principal):
                yield line
        for name in sorted([known.identity_id, *known.other_identity_ids]):
            async for line in self._lines_of(name, principal):
                yield line

    async def _lines_of(self, identity_id: str, principal: Principal) -> AsyncIterator[bytes]:
        """The links of a name, and what history keeps of it."""
        links = identity.ListContactLinksRequest(identity_id=identity_id, page_size=1_000)
        while True:
            try:
                response = await self._ask(self._identity.ListContactLinks, links, principal)
            except Problem as problem:
                if problem.status == HTTPStatus.NOT_FOUND:  # only its other names have been named
                    break
                raise
            for made in response.links:
                yield _line(ExportLine(link=resources.link(made)))
            if not response.next_page_token:
                break
            links.page_token = response.next_page_token
        everything = history.ExportIdentityRequest(identity_id=identity_id)
        async for found in self._stream(self._history.ExportIdentity, everything, principal, is_endless=True):
            kind = found.WhichOneof("item")
            if kind:
                yield _line(_RENDER[kind](getattr(found, kind)))

    async def _contact_interactions(self, contact_id: str, principal: Principal) -> AsyncIterator[bytes]:
        """The interactions that name the contact or a number of it. Those of its identities are in history's export."""
        request = history.ListInteractionsRequest(contact_id=contact_id, page_size=1_000)
        while True:
            response = await self._ask(self._history.ListInteractions, request, principal)
            for found in response.interactions:
                if found.contact_id or found.phone:
                    yield _line(ExportLine(interaction=resources.interaction(found)))
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def _contact(self, contact_id: str, principal: Principal) -> resources.Contact | None:
        request = identity.GetContactRequest(contact_id=contact_id)
        try:
            return resources.contact((await self._ask(self._identity.GetContact, request, principal)).contact)
        except Problem as problem:
            if problem.status == HTTPStatus.NOT_FOUND:  # deleted meanwhile
                return None
            raise


def _line(line: ExportLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"
