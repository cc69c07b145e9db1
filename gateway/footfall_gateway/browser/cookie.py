"""The id a script has given a browser into a cookie set by HTTP, which Safari keeps longer than one set by a script."""

import re
from urllib.parse import urlsplit

import msgspec
from footfall_timeline import normalize_uuid
from starlette.responses import Response

from footfall_gateway.http import Api, Call, Operation
from footfall_gateway.problem import PROBLEM_DETAILS, Problem

YEAR_S = 365 * 24 * 60 * 60

_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
_TRACKER = re.compile(r"[A-Za-z0-9_]{1,32}")


class CookieQuery(msgspec.Struct):
    """`id` is the `globalVisitID`, `domain` the one that website and gateway share, `global` the tracker's."""

    id: str
    domain: str
    tracker: str = msgspec.field(default="_gt", name="global")


def cookie_api() -> Api:
    """The operation. A request of its own, once a visit, so that beacons can do without cookies and credentials."""
    operation = Operation("renewCookie", "POST", "/cookie", renew_cookie, CookieQuery, permission=None)
    return Api("Tracker", ("",), [operation], PROBLEM_DETAILS)


async def renew_cookie(call: Call[CookieQuery, None]) -> Response:
    """Let a tracker's cookie (`_gt_gvid`) live another year, on a domain that both the page and this host are under."""
    origin, domain = call.headers.get("origin", ""), call.query.domain.lower().removeprefix(".")
    hosts = (_host(origin), _host("//" + call.headers.get("host", "")))
    if not _DOMAIN.fullmatch(domain) or not all(f".{host}".endswith(f".{domain}") for host in hosts):
        raise Problem.parameter("domain", "must be a domain that page and gateway are under")
    if not _TRACKER.fullmatch(call.query.tracker):
        raise Problem.parameter("global", "must be letters, digits and _")
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
