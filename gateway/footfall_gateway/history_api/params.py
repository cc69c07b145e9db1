"""Turns the query parameters of the History API into typed filters: names and types of gwe-facts 4.5."""

from typing import Annotated, Literal

import msgspec
from footfall.event.v1 import event_pb2
from footfall.history.v1.history_service_pb2 import Scope
from msgspec import UNSET, Meta, UnsetType

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""

_EVENT_TYPES = {
    UNSET: event_pb2.EVENT_TYPE_UNSPECIFIED,
    "SYSTEM": event_pb2.EVENT_TYPE_SYSTEM,
    "BUSINESS": event_pb2.EVENT_TYPE_BUSINESS,
}


Site = Annotated[str, Meta(description="Only this website.")]
IncludedSite = Annotated[str, Meta(description="Of what is included, only what is of this website.")]
From = Annotated[
    int, Meta(description="Only what happened (or began) at or after this moment, in ms.", ge=0, le=_LAST_MS)
]
To = Annotated[int, Meta(description="Only what happened (or began) before this moment, in ms.", ge=0, le=_LAST_MS)]
Age = Annotated[
    int, Meta(description="Only what was received (or began) at most so many seconds ago.", ge=1, le=_LAST_MS // 1000)
]
Category = Annotated[str, Meta(description="Only with this category, or with any for `all categories`.")]
Url = Annotated[str, Meta(description="Only of exactly this page address.")]


class Paged(msgspec.Struct, kw_only=True):
    """Which part of a collection."""

    page_size: Annotated[int, Meta(description="At most so many items.", ge=1, le=1_000)] = 1_000
    page_start: Annotated[
        str, Meta(description="`Paging-Next` of the page before; its other parameters must be the same.")
    ] = ""


class FilteredQuery(Paged, kw_only=True):
    """Limits that every collection of what happened takes."""

    age: Age | UnsetType = UNSET
    site: Site = ""
    from_ms: From | UnsetType = msgspec.field(name="from", default=UNSET)
    to_ms: To | UnsetType = msgspec.field(name="to", default=UNSET)

    def to_scope(self, site: str) -> Scope:
        """The limits as history takes them; `site` is the one that the client may ask for."""
        scope = Scope(site=site, age_seconds=self.age or 0)
        if self.from_ms is not UNSET:
            scope.start_time.FromMilliseconds(self.from_ms)
        if self.to_ms is not UNSET:
            scope.end_time.FromMilliseconds(self.to_ms)
        return scope


class EventsQuery(FilteredQuery, kw_only=True):
    """Which events."""

    event_name: Annotated[str, Meta(description="Only events of this name.")] = msgspec.field(
        name="eventName", default=""
    )
    event_type: Literal["SYSTEM", "BUSINESS"] | UnsetType = msgspec.field(name="eventType", default=UNSET)
    category: Category = ""
    url: Url = ""
    global_visit_id: Annotated[str, Meta(description="Only events of this device.")] = msgspec.field(
        name="globalVisitID", default=""
    )
    browser_page_id: Annotated[str, Meta(description="Only events of this page entry, as the browser numbers it.")] = (
        msgspec.field(name="browserPageID", default="")
    )

    def type_number(self) -> event_pb2.EventType.ValueType:
        """The type as the contract numbers it."""
        return _EVENT_TYPES[self.event_type]


class PagesQuery(FilteredQuery, kw_only=True):
    """Which page entries."""

    url: Url = ""
    title: Annotated[str, Meta(description="Only pages with exactly this title.")] = ""
    category: Category = ""


class SessionsQuery(FilteredQuery, kw_only=True):
    """Which sessions."""


class VisitSessionsQuery(SessionsQuery, kw_only=True):
    """Which sessions of a visit."""

    identity_id: Annotated[str, Meta(description="Only sessions of this identity.")] = msgspec.field(
        name="identityId", default=""
    )


class VisitsQuery(FilteredQuery, kw_only=True):
    """Which visits."""

    global_visit_id: Annotated[str, Meta(description="Only visits of this device.")] = msgspec.field(
        name="globalVisitID", default=""
    )
    user_agent: Annotated[str, Meta(description="Only visits with exactly this user agent.")] = msgspec.field(
        name="userAgent", default=""
    )


class IdentityQuery(msgspec.Struct, kw_only=True):
    """What of an identity."""

    site: IncludedSite = ""


class IdentitiesQuery(Paged, kw_only=True):
    """Which identities."""

    site: IncludedSite = ""
    user_agent: Annotated[str, Meta(description="Only identities with a visit with exactly this user agent.")] = (
        msgspec.field(name="userAgent", default="")
    )

    location: Annotated[str, Meta(description="Only identities whose location is exactly this.")] = ""


class VisitIdentitiesQuery(Paged, kw_only=True):
    """Which identities of a visit."""

    site: IncludedSite = ""

    association: (
        Annotated[Literal["Authenticated", "Recognized"], Meta(description="Only those so associated.")] | UnsetType
    ) = UNSET
