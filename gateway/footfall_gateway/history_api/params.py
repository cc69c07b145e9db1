"""Query parameters of the History API, with the names and types of Genesys Web Engagement 8.5."""

from typing import Annotated, Literal

import msgspec
from footfall.history.v1.history_service_pb2 import Scope
from footfall_eventlog.events import MAX_TIMESTAMP_MS
from msgspec import UNSET, Meta, UnsetType

Site = Annotated[str, Meta(description="Only this website.")]
IncludedSite = Annotated[str, Meta(description="Only this website's items in the included lists.")]
From = Annotated[
    int, Meta(description="Only items that happened or began at this time (ms) or later.", ge=0, le=MAX_TIMESTAMP_MS)
]
To = Annotated[
    int, Meta(description="Only items that happened or began before this time (ms).", ge=0, le=MAX_TIMESTAMP_MS)
]
Age = Annotated[
    int,
    Meta(description="Only items received or begun at most this many seconds ago.", ge=1, le=MAX_TIMESTAMP_MS // 1000),
]
Category = Annotated[str, Meta(description="Only items of this category; `all categories`: of any category.")]
Url = Annotated[str, Meta(description="Only items with exactly this page address.")]


class Paged(msgspec.Struct, kw_only=True):
    """One page of a collection."""

    page_size: Annotated[int, Meta(description="Maximum number of items.", ge=1, le=1_000)] = 1_000
    page_start: Annotated[
        str, Meta(description="`Paging-Next` of the previous response; all other parameters must be the same.")
    ] = ""


class FilteredQuery(Paged, kw_only=True):
    """The filters of every collection of visits, sessions, pages and events."""

    age: Age | UnsetType = UNSET
    site: Site = ""
    from_ms: From | UnsetType = msgspec.field(name="from", default=UNSET)
    to_ms: To | UnsetType = msgspec.field(name="to", default=UNSET)

    def to_scope(self, site: str) -> Scope:
        """The filters for history. `site`: the site that the client may see."""
        scope = Scope(site=site, age_seconds=self.age or 0)
        if self.from_ms is not UNSET:
            scope.start_time.FromMilliseconds(self.from_ms)
        if self.to_ms is not UNSET:
            scope.end_time.FromMilliseconds(self.to_ms)
        return scope


class EventsQuery(FilteredQuery, kw_only=True):
    """Filters of events."""

    event_name: Annotated[str, Meta(description="Only events of this name.")] = msgspec.field(
        name="eventName", default=""
    )
    event_type: Annotated[Literal["SYSTEM", "BUSINESS"], Meta(description="Only events of this type.")] | UnsetType = (
        msgspec.field(name="eventType", default=UNSET)
    )
    category: Category = ""
    url: Url = ""
    global_visit_id: Annotated[str, Meta(description="Only events of this device.")] = msgspec.field(
        name="globalVisitID", default=""
    )
    browser_page_id: Annotated[str, Meta(description="Only events with this page id of the browser.")] = msgspec.field(
        name="browserPageID", default=""
    )


class PagesQuery(FilteredQuery, kw_only=True):
    """Filters of page entries."""

    url: Url = ""
    title: Annotated[str, Meta(description="Only pages with exactly this title.")] = ""
    category: Category = ""


class VisitSessionsQuery(FilteredQuery, kw_only=True):
    """Filters of a visit's sessions."""

    identity_id: Annotated[str, Meta(description="Only sessions of this identity.")] = msgspec.field(
        name="identityId", default=""
    )


class VisitsQuery(FilteredQuery, kw_only=True):
    """Filters of visits."""

    global_visit_id: Annotated[str, Meta(description="Only visits of this device.")] = msgspec.field(
        name="globalVisitID", default=""
    )
    user_agent: Annotated[str, Meta(description="Only visits with exactly this user agent.")] = msgspec.field(
        name="userAgent", default=""
    )


class IdentityQuery(msgspec.Struct, kw_only=True):
    """Filters of the lists included in an identity."""

    site: IncludedSite = ""


class IdentitiesQuery(Paged, kw_only=True):
    """Filters of identities."""

    site: IncludedSite = ""
    user_agent: Annotated[str, Meta(description="Only identities with a visit with exactly this user agent.")] = (
        msgspec.field(name="userAgent", default="")
    )

    location: Annotated[str, Meta(description="Only identities whose location is exactly this.")] = ""


class VisitIdentitiesQuery(Paged, kw_only=True):
    """Filters of a visit's identities."""

    site: IncludedSite = ""

    association: (
        Annotated[Literal["Authenticated", "Recognized"], Meta(description="Only identities with this `visitScope`.")]
        | UnsetType
    ) = UNSET
