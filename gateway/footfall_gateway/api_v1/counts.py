"""How many visitors are on the website now, and how many were in each past minute, as identity counts them."""

from typing import Annotated, Any, Final

import msgspec
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1 import visitor_pb2
from footfall_eventlog.events import MAX_TIMESTAMP_MS
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from footfall_gateway.backends import Backends
from footfall_gateway.fields import SiteName, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response

_PARAMETERS: Final = {"in_sites": "site", "start_time": "from", "end_time": "to"}


class StateCounts(msgspec.Struct, rename="camel"):
    """Visitors by state."""

    here: Annotated[int, Meta(description="In any state.", ge=0)]
    anonymous: Annotated[int, Meta(description="Visitors who are `ANONYMOUS`.", ge=0)]
    recognized: Annotated[int, Meta(description="Visitors who are `RECOGNIZED`.", ge=0)]
    authenticated: Annotated[int, Meta(description="Visitors who are `AUTHENTICATED`.", ge=0)]


class SiteCounts(StateCounts, rename="camel", kw_only=True):
    """The visitors of one website, by state."""

    site: SiteName


class Counts(msgspec.Struct, rename="camel"):
    """How many visitors are on the website."""

    count_time: Annotated[Time, Meta(description="When they were counted (ms).")]
    total: Annotated[StateCounts, Meta(description="All of them.")]
    sites: Annotated[list[SiteCounts], Meta(description="By website, most visitors first, then by name.")]
    other_sites: Annotated[
        StateCounts,
        Meta(description="Those of further websites: only `IDENTITY_COUNTED_SITES` websites are named."),
    ]


class MinuteCounts(StateCounts, rename="camel", kw_only=True):
    """The visitors who were there when a minute was counted, by state."""

    time: Annotated[Time, Meta(description="When the minute began (ms).")]


class Series(msgspec.Struct, rename="camel"):
    """The minutes of one website, or of several together."""

    site: Annotated[SiteName | None, Meta(description="The website; null: all that the caller may see together.")]
    minutes: Annotated[
        list[MinuteCounts],
        Meta(
            description="In order. A minute is left out if nobody could count it, or if the website was then not among "
            "the `IDENTITY_COUNTED_SITES` with most visitors."
        ),
    ]


class Minutes(msgspec.Struct, rename="camel"):
    """How many visitors were there in past minutes."""

    series: Annotated[list[Series], Meta(description="One for each `site`, or one for all together.")]


class MinutesQuery(msgspec.Struct):
    """Which minutes, and of which websites."""

    site: Annotated[
        list[str],
        Meta(
            description="A series of this website. Repeat it for several websites. Not given: one series of all "
            "websites together that the caller may see.",
            max_length=10,
        ),
    ] = []
    from_ms: (
        Annotated[
            int,
            Meta(
                description="Minutes that began at this time (ms) or later. Default: an hour before `to`.",
                ge=0,
                le=MAX_TIMESTAMP_MS,
            ),
        ]
        | UnsetType
    ) = msgspec.field(name="from", default=UNSET)
    to_ms: (
        Annotated[
            int,
            Meta(
                description="Minutes that began before this time (ms), at most 1,440. Default: now.",
                ge=0,
                le=MAX_TIMESTAMP_MS,
            ),
        ]
        | UnsetType
    ) = msgspec.field(name="to", default=UNSET)


class CountsApi:
    """Numbers of visitors."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation("countVisitors", "GET", "/visitors/counts", self.counts, NoQuery, Counts),
            Operation("getVisitorMinutes", "GET", "/visitors/minutes", self.minutes, MinutesQuery, Minutes),
        ]

    async def counts(self, call: Call[NoQuery, None]) -> Response:
        """How many visitors are on the website now, by website and state, without visits of staff.

        Exact, however many there are. Not counted again within 2 s, nor within 50 times as long as counting took.
        """
        request = identity.CountVisitorsRequest()
        answer = await self._ask(self._identity.CountVisitors, request, call.principal, is_live=True)
        everything = [*answer.counts, answer.others]
        total = visitor_pb2.VisitorCount(
            anonymous_count=sum(one.anonymous_count for one in everything),
            recognized_count=sum(one.recognized_count for one in everything),
            authenticated_count=sum(one.authenticated_count for one in everything),
        )
        return json_response(
            Counts(
                count_time=milliseconds(answer.count_time),
                total=StateCounts(**_states(total)),
                sites=[SiteCounts(site=one.site, **_states(one)) for one in answer.counts],
                other_sites=StateCounts(**_states(answer.others)),
            )
        )

    async def minutes(self, call: Call[MinutesQuery, None]) -> Response:
        """How many visitors were on the website in each of the last 60 minutes, or in other minutes of the past.

        Identity counts once in each minute, and keeps the numbers for `IDENTITY_MINUTE_RETENTION_DAYS`.
        """
        query = call.query
        request = identity.GetVisitorMinutesRequest(in_sites=[call.principal.site_filter(site) for site in query.site])
        if query.from_ms is not UNSET:
            request.start_time.FromMilliseconds(query.from_ms)
        if query.to_ms is not UNSET:
            request.end_time.FromMilliseconds(query.to_ms)
        answer = await self._ask(self._identity.GetVisitorMinutes, request, call.principal, _PARAMETERS, is_live=True)
        return json_response(
            Minutes(
                [
                    Series(
                        one.site or None,
                        [MinuteCounts(time=milliseconds(each.start_time), **_states(each)) for each in one.minutes],
                    )
                    for one in answer.series
                ]
            )
        )


def _states(count: visitor_pb2.VisitorCount | visitor_pb2.VisitorMinute) -> dict[str, int]:
    states = {
        "anonymous": count.anonymous_count,
        "recognized": count.recognized_count,
        "authenticated": count.authenticated_count,
    }
    return {"here": sum(states.values())} | states
