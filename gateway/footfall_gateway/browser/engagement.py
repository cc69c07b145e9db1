"""Responses to the engagement requests (chat, invitations) of pages made for Genesys Web Engagement (GWE).

Footfall has no engagement. Without these responses, GWE's chat clients would retry forever, and its widgets would write
errors to the console of the page.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from footfall_gateway.beacons import Cors, RawHeaders
from footfall_gateway.http import Api, Call, NoQuery, Operation, json_response
from footfall_gateway.problem import PROBLEM_DETAILS

PREFIXES = ("/server", "/frontend", "/backend")
"""Of GWE 8.5, and of the two servers of GWE 8.1."""

_MAX_MESSAGES = 10
"""A client that is not connected sends one or two."""


class Message(msgspec.Struct):
    """The fields of a Bayeux (CometD) message that a response repeats."""

    channel: str = ""
    id: str | UnsetType = UNSET


class Refusal(msgspec.Struct):
    """The response to a message. It asks the client not to retry."""

    channel: str
    id: str | UnsetType
    successful: bool = False
    error: str = "404::chat, callback and notifications are not available"
    advice: dict[str, str] = msgspec.field(default_factory=lambda: {"reconnect": "none"})


class EngagementApi:
    """The operations, without authentication: their responses contain no data. CORS allows credentials."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors

    def api(self) -> Api:
        """The operations."""
        operations: list[Operation[Any, Any]] = [
            Operation("takeDisposition", "GET", "/data/invites", self.take_disposition, NoQuery, required_scope=None)
        ]
        for path in ("/cometd", "/cometd/{type}"):
            operations += [
                Operation("refuseCometd", "POST", path, self.refuse, NoQuery, body=list[Message], required_scope=None),
                Operation("preflightCometd", "OPTIONS", path, self.preflight, NoQuery, required_scope=None),
            ]
        return Api("Engagement", PREFIXES, operations, PROBLEM_DETAILS)

    async def take_disposition(self, call: Call[NoQuery, None]) -> Response:
        """Ignore the outcome of an invitation."""
        return Response(status_code=204, headers=_with_credentials(self._cors.headers(_origin(call))))

    async def refuse(self, call: Call[NoQuery, list[Message]]) -> Response:
        """Refuse the connection, in the Bayeux protocol."""
        refusals = [Refusal(message.channel, message.id) for message in call.body[:_MAX_MESSAGES]]
        response = json_response(refusals)
        response.headers.update(_with_credentials(self._cors.headers(_origin(call))))
        return response

    async def preflight(self, call: Call[NoQuery, None]) -> Response:
        """Allow pages to send JSON."""
        return Response(status_code=204, headers=_with_credentials(self._cors.preflight(_origin(call))))


def _origin(call: Call[NoQuery, Any]) -> bytes:
    return call.headers.get("origin", "").encode("latin-1")


def _with_credentials(cors: RawHeaders) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in cors} | {"access-control-allow-credentials": "true"}
