"""Codes of visits: a page asks for 6 digits that its visitor reads to an agent."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec
from footfall.identity.v1.identity_service_pb2 import CreateVisitCodeResponse
from footfall_eventlog.sites import Site, Sites
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.beacons import Cors, RateLimiter
from footfall_gateway.http import Api, Call, Operation, json_response
from footfall_gateway.problem import PROBLEM_DETAILS, Problem

_COST: Final = 100
"""What a request counts for the limits of events: codes are few, and their number is limited."""


class VisitCodeQuery(msgspec.Struct):
    """The visit of the page."""

    visit_id: Annotated[str, Meta(description="`visitID` of the events of the page.")] = msgspec.field(name="visitID")
    site: Annotated[str, Meta(description="`site` of the events of the page; empty: by the `Origin` of the page.")] = ""


class VisitCode(msgspec.Struct, rename="camel"):
    """A code of a visit."""

    code: Annotated[str, Meta(description="6 digits.")]
    valid_seconds: Annotated[int, Meta(description="How long the code still finds the visit.", ge=0)]


class VisitCodes:
    """The operation, without authentication: who asks knows the id of the visit, and may use the site as in beacons."""

    def __init__(
        self,
        create: Callable[[str, str], Awaitable[CreateVisitCodeResponse]],
        sites: Sites[Site],
        limiter: RateLimiter,
        cors: Cors,
    ) -> None:
        """`create` makes the code of a visit, by its id and the site that has seen it ("": any)."""
        self._create = create
        self._sites = sites
        self._limiter = limiter
        self._cors = cors

    def api(self) -> Api:
        """The operation."""
        operation = Operation(
            "createVisitCode",
            "POST",
            "/visit-code",
            self.create,
            VisitCodeQuery,
            VisitCode,
            required_scope=None,
            errors={
                404: "The visit is not known (yet), or is of another website.",
                429: "Too many requests and events from this address or site.",
            },
        )
        return Api("Tracker", ("",), [operation], PROBLEM_DETAILS)

    async def create(self, call: Call[VisitCodeQuery, None]) -> Response:
        """Return the code of a visit, for the page of its visitor. A visit has one code at a time.

        A code that is not used yet and has half of its life left is returned again. Otherwise there is a new one, and
        the earlier one ends.
        """
        origin = call.headers.get("origin", "")
        cors = {name.decode(): value.decode() for name, value in self._cors.headers(origin.encode("latin-1"))}
        try:
            made = await self._made(call.query, origin, call.address)
        except Problem as problem:  # also for the page to read
            problem.headers |= cors
            raise
        return json_response(VisitCode(made.code, made.valid_seconds), **cors)

    async def _made(self, query: VisitCodeQuery, origin: str, address: str) -> CreateVisitCodeResponse:
        self._limiter.admit(address, _COST, 0)
        site = self._sites.find(query.site, origin)
        if site is None:
            raise Problem(404, "no such visit on this website")
        if wait_s := self._limiter.sites.wait_s(site.name, _COST, 0):
            raise Problem(429, "too many events for this site; try again later", retry_s=wait_s)
        self._limiter.sites.add(site.name, _COST, 0)
        return await self._create(query.visit_id, site.name if self._sites.are_listed else "")
