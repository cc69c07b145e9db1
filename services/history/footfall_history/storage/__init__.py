"""What MongoDB holds of events and visits, and what several folders need to read and to change it.

Documents and timelines are pure; `store` is the one file that asks MongoDB.
"""

from footfall_history.storage.arrivals import Arrival, Arrivals, Unstorable, by_visit, parts_of
from footfall_history.storage.documents import (
    IMPORTED,
    NO_REVISION,
    PAGE_ENTERED,
    PAGE_EXITED,
    TIME_DIGITS,
    Document,
    document_id,
    event_time_ms,
    has_same_content,
    stored_event,
    visit_of,
)
from footfall_history.storage.preview import Preview
from footfall_history.storage.reattribution import each_behind, erase_in_visit, restamps_behind, restamps_of
from footfall_history.storage.store import Series, Store, Unavailable, check_url
from footfall_history.storage.tombstones import EraseTimes, Tombstones
from footfall_history.storage.visit import Visit

__all__ = [
    "IMPORTED",
    "NO_REVISION",
    "PAGE_ENTERED",
    "PAGE_EXITED",
    "TIME_DIGITS",
    "Arrival",
    "Arrivals",
    "Document",
    "EraseTimes",
    "Preview",
    "Series",
    "Store",
    "Tombstones",
    "Unavailable",
    "Unstorable",
    "Visit",
    "by_visit",
    "check_url",
    "document_id",
    "each_behind",
    "erase_in_visit",
    "event_time_ms",
    "has_same_content",
    "parts_of",
    "restamps_behind",
    "restamps_of",
    "stored_event",
    "visit_of",
]
