"""Types of JSON fields that several schemas share, with the words and limits of the API description.

A limit in `extra_json_schema` is described here and checked elsewhere; msgspec checks the limits of its own names.
"""

from typing import Annotated

import msgspec
from footfall_eventlog.events import MAX_IDENTITY_LENGTH, MAX_PAGE_ID_LENGTH
from footfall_eventlog.sites import SITE_NAME
from msgspec import Meta

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
"""A UUID as Footfall writes it: with dashes, in lower case."""

Time = Annotated[int, Meta(extra_json_schema={"format": "int64", "minimum": 0})]
"""Milliseconds since the epoch."""

JsonObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]

SentUuid = Annotated[
    str,
    Meta(extra_json_schema={"pattern": "^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"}),
]
"""A UUID as clients may send it: with or without dashes, in any case."""

SentGlobalVisitId = Annotated[SentUuid, Meta(description="The device or browser, the same over many visits.")]

EventId = Annotated[Uuid, Meta(description="The event; unique within its visit.")]
VisitId = Annotated[Uuid, Meta(description="The visit.")]
PageId = Annotated[Uuid, Meta(description="The page entry.")]
SessionId = Annotated[Uuid, Meta(description="The session.")]
GlobalVisitId = Annotated[Uuid, Meta(description="The device or browser, the same over many visits; null: not known.")]
BrowserPageId = Annotated[
    str,
    Meta(
        description="The page entry, as the browser names it; null: not known.",
        extra_json_schema={"maxLength": MAX_PAGE_ID_LENGTH},
    ),
]
IdentityId = Annotated[
    str,
    Meta(
        description="The identity: the user id of a website.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_IDENTITY_LENGTH},
    ),
]
ContactId = Annotated[
    str,
    Meta(description="The contact, by the contact center's id.", extra_json_schema={"minLength": 1, "maxLength": 256}),
]
SiteName = Annotated[
    str,
    Meta(description="The website.", extra_json_schema={"pattern": f"^{SITE_NAME.pattern}$"}),
]
PageUrl = Annotated[str, Meta(description="The address of the page; null: not known.")]
PageTitle = Annotated[str, Meta(description="The title of the page, as sent; null: not known.")]
Category = Annotated[str, Meta(description="Categories, separated by semicolons; empty: none.")]
NextPageToken = Annotated[str, Meta(description="Where the next page begins, for `page_token`; null on the last one.")]
