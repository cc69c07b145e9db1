"""The metrics of history."""

from prometheus_client import Counter, Gauge

EVENTS = Counter(
    "footfall_history_events_total",
    "Events read from the event log by outcome: `stored`, `unstorable` (a dead letter), `dropped` (could not be "
    "stored, and its visit has `HISTORY_MAX_DEAD_LETTERS_PER_VISIT`), or `duplicate` (stored or a dead letter before). "
    "Entries that are read again after a crash count again, as duplicates.",
    ["outcome"],
)
STORED = EVENTS.labels("stored")
DUPLICATE = EVENTS.labels("duplicate")
UNSTORABLE = EVENTS.labels("unstorable")
DROPPED = EVENTS.labels("dropped")
CONFLICTING_DUPLICATES = Counter(
    "footfall_history_conflicting_duplicates_total", "Duplicates with other content than the stored event."
)
EVENT_STREAMS = Gauge("footfall_history_event_streams", "`StreamEvents` calls that are open.")
REATTRIBUTED = Counter(
    "footfall_history_reattributed_total",
    "Stored events that were attributed again because the timeline of their visit had changed.",
)
TIMELINES_TRUNCATED = Counter(
    "footfall_history_timelines_truncated_total",
    "Visits with more than `MAX_TRANSITIONS_PER_VISIT` transitions. The further ones do not change who the visitor is.",
)
EXPIRED = Counter(
    "footfall_history_expired_total", "Events removed because they were older than `EVENT_RETENTION_DAYS`."
)
SLOW_VISITS = Gauge(
    "footfall_history_slow_visits",
    "Slow visits and erasures that wait in the queue of slow visits, in all partitions.",
)
SLOW_BYTES = Gauge(
    "footfall_history_slow_bytes", "Memory of that queue in Redis. Its limit is `HISTORY_SLOW_VISIT_BYTES`."
)
LAG_SECONDS = Gauge(
    "footfall_history_lag_seconds",
    "Age of the oldest entry of the event log that history has not handled; 0 if there is none.",
)
DEAD_LETTERS = Gauge(
    "footfall_history_dead_letters", "Dead letters of all partitions, kept until replayed, discarded or expired."
)
OLDEST_DEAD_LETTER = Gauge(
    "footfall_history_dead_letters_oldest_timestamp_seconds",
    "When the oldest dead letter was kept, in seconds since 1970-01-01; 0 if there is none.",
)
