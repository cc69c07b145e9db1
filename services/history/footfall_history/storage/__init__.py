"""Events, visits and tombstones in MongoDB, and the attribution that is stored with each event.

`store` is the only module that talks to MongoDB. The modules of documents and timelines do no I/O.
"""

from footfall_history.storage.arrivals import (
    Arrival,
    Arrivals,
    Unstorable,
    group_by_visit,
    split_by_visit,
    split_events,
)
from footfall_history.storage.documents import (
    IMPORTED,
    NO_REVISION,
    TIME_DIGITS,
    TOUCH_INTERVAL_MS,
    Document,
    assurance_reason_code,
    attribution_fields,
    document_id,
    event_time_ms,
    has_same_content,
    stored_event,
    visit_of,
)
from footfall_history.storage.event_cursor import EventCursor
from footfall_history.storage.indexes import Need, index_names
from footfall_history.storage.interactions import InteractionRecord, subject, subject_id
from footfall_history.storage.marks import (
    CONFLICT,
    IGNORED,
    LATE,
    LATE_S,
    PLACEHOLDER,
    REPEATED,
    marks_of_repetition,
)
from footfall_history.storage.preview import Preview
from footfall_history.storage.reattribution import (
    each_reattribution,
    erase_in_visit,
    find_reattributions,
    reattributions_of,
)
from footfall_history.storage.store import REATTRIBUTION_FIELDS, TRANSIENT_STORE_ERRORS, EventQuery, Store, check_url
from footfall_history.storage.tombstones import EraseTimes, Tombstones
from footfall_history.storage.visit import ErasableRange, Visit
from footfall_history.storage.visit_events import events_of_visits
