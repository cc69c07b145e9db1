"""Turns a person's rights into calls: everything we know of an identity, and forgetting it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from starlette.responses import Response, StreamingResponse

from footfall_gateway import api_v1_resources as resources
from footfall_gateway import resources as history_resources
from footfall_gateway.keys import Scope
from footfall_gateway.neighbours import Neighbours
from footfall_gateway.operations import Call, NoQuery, Operation, json_answer
from footfall_gateway.problem import Problem

NDJSON = "application/x-ndjson"

_LINKS_AT_ONCE = 1_000


class ExportLine(msgspec.Struct, omit_defaults=True):
    """One line of an export; one of these is given."""

    identity: history_resources.Identity | None = None
    profile: msgspec.Raw | None = None
    """Beside `identity`: the merged data of its SignIns and UserInfos."""
    link: resources.Link | None = None
    visit: history_resources.Visit | None = None
    session: history_resources.Session | None = None
    page: history_resources.Page | None = None
    event: history_resources.Event | None = None


_RENDER: dict[str, Callable[[Any], msgspec.Struct]] = {
    "visit": history_resources.visit,
    "session": history_resources.session,
    "page": history_resources.page,
    "event": history_resources.event,
}


class PrivacyApi:
    """Export and erasure."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._ask = neighbours.ask
        self._stream = neighbours.stream
        self._identity = neighbours.identity
        self._history = neighbours.history

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
                permission=Scope.ERASE,
                also={202: resources.Erased},
            ),
        ]

    async def export(self, call: Call[NoQuery, None]) -> Response:
        """Everything known of an identity, one JSON object a line.

        An export that was cut off ends without the end of its last chunk: the client sees a broken answer.
        """
        call.principal.must_see_all()
        lines = self._lines(call.path["identityId"])
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
        call.principal.must_see_all()
        identity_id = call.path["identityId"]
        request = identity.EraseIdentityRequest(identity_id=identity_id, actor=call.principal.name)
        erased = await self._ask(self._identity.EraseIdentity, request)
        try:
            counted = await self._ask(
                self._history.EraseIdentity,
                history.EraseIdentityRequest(identity_id=identity_id, erasure=erased.erasure),
            )
        except Problem:
            counted = None  # the record is in the log: history will come to it
        return json_answer(
            resources.Erased(
                history="done" if counted else "pending",
                identity_erased=erased.identity_erased,
                live_visits=erased.visit_count,
                links=erased.link_count,
                visits=counted and counted.visit_count,
                events=counted and counted.event_count,
                log_clean_time=history_resources.milliseconds(erased.log_clean_time),
            ),
            200 if counted else 202,
        )

    async def _lines(self, identity_id: str) -> AsyncIterator[bytes]:
        request = identity.GetIdentityRequest(identity_id=identity_id)
        known = (await self._ask(self._identity.GetIdentity, request)).identity
        profile = msgspec.Raw(known.profile_json or b"{}")
        yield _line(ExportLine(identity=history_resources.identity(known), profile=profile))
        links = identity.ListContactLinksRequest(identity_id=identity_id, page_size=_LINKS_AT_ONCE)
        while True:
            answer = await self._ask(self._identity.ListContactLinks, links)
            for made in answer.links:
                yield _line(ExportLine(link=resources.link(made)))
            if not answer.next_page_token:
                break
            links.page_token = answer.next_page_token
        everything = history.ExportIdentityRequest(identity_id=identity_id)
        async for found in self._stream(self._history.ExportIdentity, everything, is_endless=True):
            kind = found.WhichOneof("item")
            if kind:
                line = ExportLine()
                setattr(line, kind, _RENDER[kind](getattr(found, kind)))
                yield _line(line)


def _line(line: ExportLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"
