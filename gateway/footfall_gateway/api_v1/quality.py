"""The quality of identification: how many visits of each day were identified, from the scorecards of history."""

from typing import Annotated, Any, Final

import msgspec
from footfall.event.v1.event_pb2 import IgnoredReason
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1 import scorecard_pb2
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.backends import Backends
from footfall_gateway.fields import NextPageToken, SiteName, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, Operation, json_response

_PARAMETERS: Final = {"from_day": "from", "to_day": "to"}
_DAY: Final = {"format": "date"}
_REASONS: Final = {number: name.removeprefix("IGNORED_REASON_").lower() for name, number in IgnoredReason.items()}


class Share(msgspec.Struct, rename="camel"):
    """A number, and which part of others it is."""

    count: Annotated[int, Meta(description="How many.", ge=0)]
    share: Annotated[float | None, Meta(description="Part of them, from 0 to 1; null: there are none.")]


class Bucket(msgspec.Struct, rename="camel"):
    """One range of a histogram: more than `upTo` of the bucket before."""

    up_to: Annotated[int | None, Meta(description="The greatest size in this bucket; null in the last: none.")]
    count: Annotated[int, Meta(description="How many had such a size.", ge=0)]


class Histogram(msgspec.Struct, rename="camel"):
    """How often a quantity had which size."""

    buckets: Annotated[list[Bucket], Meta(description="By size, without gaps.")]
    sampled_one_in: Annotated[
        int, Meta(description="1: the counts are exact. More: estimates from one of so many.", ge=1)
    ]


class IgnoredUserIds(msgspec.Struct, rename="camel"):
    """Visits with user ids that were ignored for one reason."""

    reason: Annotated[
        str,
        Meta(
            description="Why they name no person.",
            extra_json_schema={"examples": sorted(name for number, name in _REASONS.items() if number)},
        ),
    ]
    visits: Annotated[int, Meta(description="How many visits.", ge=0)]


class IgnoredPlaceholder(msgspec.Struct, rename="camel"):
    """Visits with one placeholder in place of a user id."""

    value: Annotated[str, Meta(description="The placeholder as in the default list, for instance `guest`.")]
    visits: Annotated[int, Meta(description="How many visits.", ge=0)]


class IdentityLinks(msgspec.Struct, rename="camel"):
    """How identities were linked to contacts when they were counted. One may count in several of these."""

    identities: Annotated[int, Meta(description="All identities.", ge=0)]
    linked: Annotated[Share, Meta(description="Identities that are linked to one contact, of all.")]
    ambiguous: Annotated[Share, Meta(description="Identities that the same rule finds several contacts for, of all.")]
    generic: Annotated[
        Share | None,
        Meta(
            description="Identities with a value that contacts have too, and that rules did not use because too many "
            "identities give it, of all. null: the key is limited to sites."
        ),
    ]
    shared: Annotated[
        Share | None,
        Meta(
            description="Identities that were used on too many devices on one day, of all. null: the key is limited to "
            "sites."
        ),
    ]
    sampled_one_in: Annotated[
        int, Meta(description="1: the counts are exact. More: estimates from one of so many.", ge=1)
    ]


class Scorecard(msgspec.Struct, rename="camel"):
    """The visits of one website that began on one day. Holds no personal data."""

    site: SiteName
    day: Annotated[str, Meta(description="The day in UTC.", extra_json_schema=_DAY)]
    count_time: Annotated[Time, Meta(description="When the visits were counted (ms).")]
    is_final: Annotated[bool, Meta(description="Whether the day is not counted again.")]
    visits: Annotated[int, Meta(description="All visits.", ge=0)]
    anonymous: Annotated[Share, Meta(description="Visits that never named an identity, of all visits.")]
    recognized: Annotated[
        Share, Meta(description="Visits that named an identity, and in which no user signed in, of all visits.")
    ]
    authenticated: Annotated[Share, Meta(description="Visits in which a user signed in, of all visits.")]
    proven: Annotated[Share, Meta(description="Visits with a SignIn that a token proves, of those `authenticated`.")]
    recognition_seconds: Annotated[
        Histogram,
        Meta(description="Visits that named an identity, by the seconds from their first event to the first such one."),
    ]
    identities_per_device: Annotated[
        Histogram, Meta(description="Devices, by the number of identities that their visits named; without 0.")
    ]
    devices_per_identity: Annotated[
        Histogram, Meta(description="Identities, by the number of devices whose visits named them; without 0.")
    ]
    links: Annotated[
        IdentityLinks | None,
        Meta(description="How the identities that these visits named were linked; null: that could not be counted."),
    ]
    ignored: Annotated[Share, Meta(description="Visits with an ignored user id, of all visits.")]
    ignored_user_ids: Annotated[
        list[IgnoredUserIds],
        Meta(description="Visits with a SignIn or UserInfo whose user id was ignored, by reason."),
    ]
    ignored_placeholders: Annotated[
        list[IgnoredPlaceholder],
        Meta(description="Visits by ignored placeholder. Only placeholders of the default list are named."),
    ]
    late_seconds: Annotated[
        Histogram,
        Meta(
            description="Visits with an event that arrived more than 300 seconds after it happened, by the longest "
            "such time."
        ),
    ]
    repeated: Annotated[int, Meta(description="Visits with an event that arrived by two requests.", ge=0)]
    conflicts: Annotated[
        int, Meta(description="Visits in which two events with different content had the same id.", ge=0)
    ]


class Quality(msgspec.Struct, rename="camel"):
    """A page of scorecards."""

    scorecards: Annotated[list[Scorecard], Meta(description="By day, then site.")]
    next_page_token: NextPageToken | None


class QualityQuery(msgspec.Struct):
    """Filters of scorecards."""

    site: Annotated[
        str,
        Meta(
            description="Only of this website. Required if the key is limited to several.",
            extra_json_schema={"maxLength": 64},
        ),
    ] = ""
    from_day: Annotated[
        str, Meta(description="Only of this day, as `2026-11-29`, or later ones.", extra_json_schema=_DAY)
    ] = msgspec.field(name="from", default="")
    to_day: Annotated[str, Meta(description="Only of this day or earlier ones.", extra_json_schema=_DAY)] = (
        msgspec.field(name="to", default="")
    )
    page_size: Annotated[int, Meta(description="Maximum number of scorecards.", ge=1, le=1_000)] = 50
    page_token: Annotated[
        str, Meta(description="`nextPageToken` of the previous response; all other parameters must be the same.")
    ] = ""


class QualityApi:
    """Scorecards of websites."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._list = backends.history.ListScorecards

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [Operation("getQuality", "GET", "/quality", self.quality, QualityQuery, Quality)]

    async def quality(self, call: Call[QualityQuery, None]) -> Response:
        """How many visits of each day were identified, and what was wrong with their user ids.

        Visits count for the day (UTC) on which they began. A day is counted an hour after its end, and again every day
        until `MAX_EVENT_AGE_DAYS` after it, because events arrive late. The running day is not in it.
        """
        query = call.query
        request = history.ListScorecardsRequest(
            site=call.principal.site_filter(query.site),
            from_day=query.from_day,
            to_day=query.to_day,
            page_size=query.page_size,
            page_token=query.page_token,
        )
        response = await self._ask(self._list, request, call.principal, _PARAMETERS)
        found = [_scorecard(one) for one in response.scorecards]
        return json_response(Quality(found, response.next_page_token or None))


def _scorecard(found: scorecard_pb2.Scorecard) -> Scorecard:
    visits, authenticated = found.visit_count, found.authenticated_count
    return Scorecard(
        site=found.site,
        day=found.day,
        count_time=milliseconds(found.count_time),
        is_final=found.is_final,
        visits=visits,
        anonymous=_share(found.anonymous_count, visits),
        recognized=_share(found.recognized_count, visits),
        authenticated=_share(authenticated, visits),
        proven=_share(found.proven_count, authenticated),
        recognition_seconds=_histogram(found.recognition_seconds),
        identities_per_device=_histogram(found.identities_per_device),
        devices_per_identity=_histogram(found.devices_per_identity),
        links=_links(found.links) if found.HasField("links") else None,
        ignored=_share(found.ignored_count, visits),
        ignored_user_ids=[
            IgnoredUserIds(_REASONS.get(one.reason, str(one.reason)), one.visit_count) for one in found.ignored_user_ids
        ],
        ignored_placeholders=[IgnoredPlaceholder(one.value, one.visit_count) for one in found.ignored_placeholders],
        late_seconds=_histogram(found.late_seconds),
        repeated=found.repeated_count,
        conflicts=found.conflict_count,
    )


def _links(found: scorecard_pb2.LinkCounts) -> IdentityLinks:
    total = found.identity_count
    return IdentityLinks(
        total,
        _share(found.linked_count, total),
        _share(found.ambiguous_count, total),
        _share(found.generic_count, total) if found.HasField("generic_count") else None,
        _share(found.shared_count, total) if found.HasField("shared_count") else None,
        found.sampled_one_in,
    )


def _share(count: int, of: int) -> Share:
    return Share(count, count / of if of else None)


def _histogram(found: scorecard_pb2.Histogram) -> Histogram:
    buckets = [Bucket(one.upper_bound or None, one.count) for one in found.buckets]
    return Histogram(buckets, found.sampled_one_in)
