"""Answers which scorecards there are, from what is stored: nothing is counted for a request."""

import re
from collections.abc import Sequence
from datetime import date
from itertools import zip_longest
from typing import Final, cast

from footfall.event.v1.event_pb2 import IgnoredReason
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1 import scorecard_pb2
from footfall_servicekit.errors import RequestError

from footfall_history.queries import page_window, site_filter, with_next_token
from footfall_history.scorecards.tally import RECOGNITION_BOUNDS_S, SIZE_BOUNDS
from footfall_history.storage import LATE_S, Document, Store

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


async def list_scorecards(store: Store, request: pb.ListScorecardsRequest) -> pb.ListScorecardsResponse:
    """A page of scorecards by day, then site, of `request.sites`. Raises RequestError and TRANSIENT_STORE_ERRORS."""
    from_day, to_day = _parse_day(request.from_day, "from_day"), _parse_day(request.to_day, "to_day")
    window = page_window(request)
    # In ids, a slash and the site follow the day.
    bounds = {"$gte": max(window.lower, from_day), "$lt": f"{to_day}~" if to_day else ":"}
    where = site_filter(request.sites, request.site) | {"_id": bounds}
    found = await store.find_scorecards(where, window.size + 1)
    is_limited = bool(request.sites)
    page = window.cut([(document["_id"], _message(document, is_limited=is_limited)) for document in found])
    return with_next_token(pb.ListScorecardsResponse(scorecards=page.items), request, page.next_key)


def _parse_day(text: str, field: str) -> str:
    if text and not (_DAY.fullmatch(text) and _is_in_calendar(text)):
        raise RequestError.invalid(field, "must be a day as 2026-11-29")
    return text


def _is_in_calendar(day: str) -> bool:
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return True


def _message(document: Document, *, is_limited: bool) -> scorecard_pb2.Scorecard:
    anonymous, recognized, authenticated = document["states"]
    message = scorecard_pb2.Scorecard(
        site=document["site"],
        day=document["day"],
        is_final=document["is_final"],
        visit_count=sum(document["states"]),
        anonymous_count=anonymous,
        recognized_count=recognized,
        authenticated_count=authenticated,
        proven_count=document["proven"],
        recognition_seconds=_histogram(RECOGNITION_BOUNDS_S, document["recognition"]),
        identities_per_device=_histogram(
            SIZE_BOUNDS, document["identities_per_device"], document["devices_sampled_one_in"]
        ),
        devices_per_identity=_histogram(
            SIZE_BOUNDS, document["devices_per_identity"], document["identities_sampled_one_in"]
        ),
        ignored_user_ids=[
            scorecard_pb2.IgnoredUserIds(reason=_reason(number), visit_count=count)
            for number, count in document["ignored_by_reason"]
        ],
        ignored_placeholders=[
            scorecard_pb2.IgnoredPlaceholder(value=value, visit_count=count)
            for value, count in document["placeholders"]
        ],
        late_seconds=_histogram(LATE_S[1:], document["late"]),
        repeated_count=document["repeated"],
        conflict_count=document["conflicts"],
        ignored_count=document["ignored"],
    )
    message.count_time.FromMilliseconds(document["counted_ms"])
    if links := document.get("links"):
        message.links.identity_count, message.links.sampled_one_in = links["all"], document["links_sampled_one_in"]
        message.links.linked_count, message.links.ambiguous_count = links["linked"], links["ambiguous"]
        if not is_limited:  # others may be those of other sites
            message.links.generic_count, message.links.shared_count = links["generic"], links["shared"]
    return message


def _reason(number: str) -> "IgnoredReason.ValueType":
    return cast("IgnoredReason.ValueType", int(number))


def _histogram(bounds: Sequence[int], counts: Sequence[int], one_in: int = 1) -> scorecard_pb2.Histogram:
    buckets = [
        scorecard_pb2.HistogramBucket(upper_bound=bound, count=count)
        for bound, count in zip_longest(bounds, counts, fillvalue=0)
    ]
    return scorecard_pb2.Histogram(buckets=buckets, sampled_one_in=one_in)
