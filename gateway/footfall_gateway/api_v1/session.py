"""Operations of the session of a person at the console, and who the caller is."""

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.auth import (
    SESSION_HEADER,
    Authenticator,
    Principal,
    session_cookie,
    session_token,
)
from footfall_gateway.fields import SiteName
from footfall_gateway.http import Call, NoQuery, Operation, json_response

_HEADERS: Final = {
    SESSION_HEADER: "The token of a session that a link has begun. Any other value: the request may sign in by the "
    "cookie of a session instead of by credentials. Pages of other origins cannot send this header."
}
_ANSWER_HEADERS: Final = {"Set-Cookie": "The cookie of a new session, which scripts cannot read."}


ScopeName = Literal["read", "ingest", "contacts", "erase"]


class Caller(msgspec.Struct, rename="camel"):
    """Who the caller is, and what the caller may do."""

    name: Annotated[str, Meta(description="The name of the key, or the user.")]
    scopes: Annotated[list[ScopeName], Meta(description="The scopes.")]
    sites: Annotated[list[SiteName], Meta(description="The websites that the caller may see. Empty: all.")]
    idle_seconds: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How long the session goes on without activity of its user; null: the caller has no session."),
    ]


LinkToken = Annotated[
    str,
    Meta(description="The token of a link.", extra_json_schema={"pattern": "^[A-Za-z0-9_-]{43}$"}),
]


class SessionLink(msgspec.Struct, rename="camel"):
    """A link that begins a session once."""

    token: Annotated[
        LinkToken | None,
        Meta(description="For the address of a view, after `#link=`. null: everybody may read without a session."),
    ]
    valid_seconds: Annotated[int, Meta(description="For how long it can be used.", ge=0)]


class UsedLink(msgspec.Struct):
    """The link that is used."""

    token: LinkToken


class LinkSession(Caller, rename="camel"):
    """A session that a link has begun."""

    session: Annotated[
        str, Meta(description=f"The token of the session, for the header `{SESSION_HEADER}` of each request.")
    ]


class SessionApi:
    """The session of the caller."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations. They call no service."""
        never = {501, 504}
        return [
            Operation(
                "getCaller",
                "GET",
                "/session",
                self.get,
                NoQuery,
                Caller,
                allows_any_scope=True,
                headers=_HEADERS,
                never=never | {403},
            ),
            Operation(
                "beginSession",
                "POST",
                "/session",
                self.begin,
                NoQuery,
                Caller,
                allows_any_scope=True,
                headers=_HEADERS,
                answer_headers=_ANSWER_HEADERS,
                never=never,
            ),
            Operation(
                "endSession",
                "DELETE",
                "/session",
                self.end,
                NoQuery,
                allows_any_scope=True,
                headers=_HEADERS,
                never=never,
            ),
            Operation(
                "createSessionLink", "POST", "/session/links", self.create_link, NoQuery, SessionLink, never=never
            ),
            Operation(
                "useSessionLink",
                "POST",
                "/session/links/use",
                self.use_link,
                NoQuery,
                LinkSession,
                UsedLink,
                required_scope=None,
                errors={404: "The link has been used or has expired."},
                never=never,
                example={"token": "n2Vw0cLq4hJx8sYt1bKd7gRm5zPf3eUa9iOo6wXvQjE"},
            ),
        ]

    async def get(self, call: Call[NoQuery, None]) -> Response:
        """Who the caller is, and what the caller may do. A session does not go on because of this request."""
        return json_response(self._described(call.principal, is_session=bool(call.principal.session_id)))

    async def begin(self, call: Call[NoQuery, None]) -> Response:
        """Begin a session with the credentials of the request, or let the session of its cookie go on.

        For pages of the gateway, such as the console. A session ends after `GATEWAY_SESSION_IDLE_MINUTES` without this
        request, after `GATEWAY_MAX_SESSION_HOURS`, by `endSession`, and when its key is changed, revoked or expired.
        """
        if call.principal.session_id:
            await self._authenticator.continue_session(session_token(call.headers) or "")
            return json_response(self._described(call.principal, is_session=True))
        token = await self._authenticator.begin_session(call.principal)
        cookie = {"set_cookie": session_cookie(token, is_secure=_is_secure(call))} if token else {}
        return json_response(self._described(call.principal, is_session=bool(token)), **cookie)

    async def end(self, call: Call[NoQuery, None]) -> Response:
        """End the session of the cookie, at all gateways."""
        if call.principal.session_id:
            await self._authenticator.end_session(session_token(call.headers) or "")
        return Response(status_code=204, headers={"set-cookie": session_cookie("", is_secure=_is_secure(call))})

    async def create_link(self, call: Call[NoQuery, None]) -> Response:
        """Make a link that begins a session once, for a page that embeds a view of the console.

        The session may read what these credentials may, and do nothing else. It needs no cookie, and ends like others.
        The server of the embedding page makes the link, so that no browser gets its credentials.
        """
        token = await self._authenticator.make_link(call.principal)
        return json_response(SessionLink(token or None, self._authenticator.link_s))

    async def use_link(self, call: Call[NoQuery, UsedLink]) -> Response:
        """Begin a session by a link, which cannot be used again."""
        token, principal = await self._authenticator.use_link(call.body.token)
        caller = msgspec.structs.asdict(self._described(principal, is_session=True))
        return json_response(LinkSession(**caller, session=token))

    def _described(self, principal: Principal, *, is_session: bool) -> Caller:
        idle_s = self._authenticator.session_idle_s if is_session else None
        scopes = [name for name in get_args(ScopeName) if name in principal.scopes]
        return Caller(principal.name, scopes, sorted(principal.sites), idle_s)


def _is_secure(call: Call[Any, Any]) -> bool:
    """Whether the page of the request came by HTTPS. Browsers name the origin of a page with every write."""
    return call.headers.get("origin", "").startswith("https:")
