"""What pages of the original ask for that belongs to engagement: answers that say there is none, and break nothing.

Unanswered, its chat clients would try again for ever, and its widgets would leave errors in the console of the page.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from footfall_gateway.beacons import Cors, RawHeaders
from footfall_gateway.http import Api, Call, NoQuery, Operation, json_answer
from footfall_gateway.problem import PROBLEM_DETAILS

PREFIXES = ("/server", "/frontend", "/backend")
"""Of 8.5, and of the two servers of 8.1."""

_MOST_MESSAGES = 10
"""A client sends one or two: it is not connected yet."""


class Message(msgspec.Struct):
    """A message of the Bayeux protocol, which CometD speaks: as much of it as an answer repeats."""

    channel: str = ""
    id: str | UnsetType = UNSET


class Refusal(msgspec.Struct):
    """The answer to one, after which the client does not try again."""

    channel: str
    id: str | UnsetType
    successful: bool = False
    error: str = "404::there are no chat, callback and notifications here"
    advice: dict[str, str] = msgspec.field(default_factory=lambda: {"reconnect": "none"})


class EngagementApi:
    """Open to everybody, for it knows nothing about anybody; with CORS for what is sent with credentials."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors

    def api(self) -> Api:
        """The operations."""
        operations: list[Operation[Any, Any]] = [
            Operation("takeDisposition", "GET", "/data/invites", self.take_disposition, NoQuery, permission=None)
        ]
        for path in ("/cometd", "/cometd/{type}"):
            operations += [
                Operation("refuseCometd", "POST", path, self.refuse, NoQuery, body=list[Message], permission=None),
                Operation("preflightCometd", "OPTIONS", path, self.preflight, NoQuery, permission=None),
            ]
        return Api("Engagement", PREFIXES, operations, PROBLEM_DETAILS)

    async def take_disposition(self, call: Call[NoQuery, None]) -> Response:
        """Take what became of an invitation; nobody waits for it."""
        return Response(status_code=204, headers=_with_credentials(self._cors.headers(_origin(call))))

    async def refuse(self, call: Call[NoQuery, list[Message]]) -> Response:
        """Refuse to connect, as Bayeux has it."""
        refusals = [Refusal(message.channel, message.id) for message in call.body[:_MOST_MESSAGES]]
        response = json_answer(refusals)
        response.headers.update(_with_credentials(self._cors.headers(_origin(call))))
        return response

    async def preflight(self, call: Call[NoQuery, None]) -> Response:
        """Let pages send JSON."""
        return Response(status_code=204, headers=_with_credentials(self._cors.preflight(_origin(call))))


def _origin(call: Call[NoQuery, Any]) -> bytes:
    return call.headers.get("origin", "").encode("latin-1")


def _with_credentials(cors: RawHeaders) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in cors} | {"access-control-allow-credentials": "true"}
