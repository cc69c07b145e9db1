"""The visitor cookie, renewed by HTTP: Safari keeps it longer than a cookie that a script has set."""

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from footfall_timeline import normalize_uuid
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.http import Api, Call, Operation
from footfall_gateway.problem import PROBLEM_DETAILS, Problem

YEAR_S = 365 * 24 * 60 * 60

_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_TRACKER = re.compile(r"[A-Za-z0-9_]{1,32}")


class CookieQuery(msgspec.Struct):
    """The cookie to renew."""

    id: Annotated[str, Meta(description="The `globalVisitID`, a UUID.")]
    domain: Annotated[str, Meta(description="The domain of the cookie, which the page and the gateway share.")]
    tracker: Annotated[
        str, Meta(description="The name of the script's variable: 1 to 32 letters, digits and underscores.")
    ] = msgspec.field(default="_gt", name="global")


def cookie_api() -> Api:
    """The operation. The script calls it once a visit, so that beacons need no cookies and credentials."""
    operation = Operation("renewCookie", "POST", "/cookie", renew_cookie, CookieQuery, required_scope=None)
    return Api("Tracker", ("",), [operation], PROBLEM_DETAILS)


async def renew_cookie(call: Call[CookieQuery, None]) -> Response:
    """Renew the script's cookie (`_gt_gvid`) for a year, on a domain that the page and this host share."""
    origin, domain = call.headers.get("origin", ""), call.query.domain.lower().removeprefix(".")
    hosts = (_host(origin), _host("//" + call.headers.get("host", "")))
    if not _DOMAIN.fullmatch(domain) or not all(f".{host}".endswith(f".{domain}") for host in hosts):
        raise Problem.parameter("domain", "must be a domain that the page and the gateway share")
    if not _TRACKER.fullmatch(call.query.tracker):
        raise Problem.parameter("global", "must be 1 to 32 letters, digits and _")
    try:
        visitor = normalize_uuid(call.query.id)
    except ValueError:
        raise Problem.parameter("id", "must be a UUID") from None
    secure = "; Secure" if origin.startswith("https:") else ""
    cookie = f"{call.query.tracker}_gvid={visitor}; Domain={domain}; Path=/; Max-Age={YEAR_S}; SameSite=Lax{secure}"
    return Response(status_code=204, headers={"set-cookie": cookie, "cache-control": "no-store"})


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
