"""Links that carry a visit to another domain of the site's owner. Each may be used once."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.beacons import Cors, RateLimiter
from footfall_gateway.http import Api, Call, Operation
from footfall_gateway.problem import PROBLEM_DETAILS, Problem

_NAME = re.compile(r"[0-9a-f-]{36}\.[0-9a-f-]{36}\.[0-9]{13}")


class LinkQuery(msgspec.Struct):
    """The link that a page was opened by."""

    name: Annotated[str, Meta(description="`_gt_link` in the address of the page.")]


class Links:
    """The operation that marks a link as used, in the counters that gateways share."""

    def __init__(self, limiter: RateLimiter, cors: Cors) -> None:
        self._limiter = limiter
        self._cors = cors

    def api(self) -> Api:
        """The operation. A page calls it before it continues a visit (docs/adr/0026)."""
        operation = Operation(
            "useLink",
            "POST",
            "/link",
            self.use_link,
            LinkQuery,
            required_scope=None,
            errors={
                409: "The link was already used, or its use is unknown. Begin a new visit.",
                429: "Too many requests and events from this address.",
            },
        )
        return Api("Tracker", ("",), [operation], PROBLEM_DETAILS)

    async def use_link(self, call: Call[LinkQuery, None]) -> Response:
        """Use a link between domains: 204 the first time, 409 when it was used or its use is unknown."""
        if not _NAME.fullmatch(call.query.name):
            raise Problem.parameter("name", "must be the _gt_link of a link made by the tracking script")
        self._limiter.admit(call.address, 1, 0)
        if not await self._limiter.is_first_use(call.query.name):
            raise Problem(409, "this link was already used, or its use is unknown; begin a new visit")
        cors = self._cors.headers(call.headers.get("origin", "").encode("latin-1"))
        return Response(status_code=204, headers={name.decode(): value.decode("latin-1") for name, value in cors})
