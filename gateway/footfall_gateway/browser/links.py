"""A link that takes a visit along to another domain of its owner, into whether it is used for the first time."""

import re

import msgspec
from starlette.responses import Response

from footfall_gateway.beacons import Cors, RateLimiter
from footfall_gateway.http import Api, Call, Operation
from footfall_gateway.problem import PROBLEM_DETAILS, Problem

_NAME = re.compile(r"[0-9a-f-]{36}\.[0-9a-f-]{36}\.[0-9]{13}")


class LinkQuery(msgspec.Struct):
    """`name`: what the link has in its address, the same for nobody else."""

    name: str


class Links:
    """The links used lately, in the counts that gateways share."""

    def __init__(self, limiter: RateLimiter, cors: Cors) -> None:
        self._limiter = limiter
        self._cors = cors

    def api(self) -> Api:
        """The operation, which a page asks before it takes over a visit (docs/adr/0026)."""
        operation = Operation("useLink", "POST", "/link", self.use_link, LinkQuery, permission=None)
        return Api("Tracker", ("",), [operation], PROBLEM_DETAILS)

    async def use_link(self, call: Call[LinkQuery, None]) -> Response:
        """Use a link between domains: 204 the first time only, 409 when it was used, or nobody knows."""
        if not _NAME.fullmatch(call.query.name):
            raise Problem.parameter("name", "must be what the tracking script has put into a link")
        if wait_s := self._limiter.wait_s(call.address, 1, 0):
            raise Problem(429, "too many events from this address", retry_s=wait_s)
        self._limiter.add(call.address, 1, 0)
        if not await self._limiter.is_first(call.query.name):
            raise Problem(409, "this link was used, or is not known not to be")
        cors = self._cors.headers(call.headers.get("origin", "").encode("latin-1"))
        return Response(status_code=204, headers={name.decode(): value.decode("latin-1") for name, value in cors})
