"""What history counts, with its meaning, in one place."""

from prometheus_client import Counter, Gauge

EVENTS = Counter(
    "history_events_total",
    "Events read from the log, each once by what became of it: `stored`, `unstorable` (put aside as a dead letter), "
    "`dropped` (could not be stored, and its visit has enough dead letters), or `duplicate` (stored or put aside "
    "before, whether or not with the same content). Counted when entries are done; one that is read again after a "
    "crash counts again, as duplicates.",
    ["outcome"],
)
STORED = EVENTS.labels("stored")
DUPLICATE = EVENTS.labels("duplicate")
UNSTORABLE = EVENTS.labels("unstorable")
DROPPED = EVENTS.labels("dropped")
CONFLICTS = Counter("history_conflicts_total", "Duplicates that had other content than the event stored.")
WATCHERS = Gauge("history_watchers", "Calls of StreamEvents being served.")
RESTAMPED = Counter(
    "history_restamped_total", "Events stamped anew because the timeline of their visit had changed after all."
)
TIMELINES_TRUNCATED = Counter(
    "history_timelines_truncated_total",
    "Visits that have come to have more transitions than MAX_TRANSITIONS_PER_VISIT: those beyond do not count.",
)
EXPIRED = Counter("history_expired_total", "Events removed because they were older than the retention time.")
SLOW_VISITS = Gauge(
    "history_slow_visits",
    "Visits set aside because they cost much or could not be stored, and erasures, that wait in all partitions.",
)
SLOW_BYTES = Gauge("history_slow_bytes", "Bytes of what waits of these.")
BEHIND = Gauge(
    "history_behind_seconds",
    "How long ago the oldest entry of the log was appended that history has not handled; 0 when there is none.",
)
DEAD_LETTERS = Gauge("history_dead_letters", "Events and entries of the log that lie aside, in all partitions.")
OLDEST_DEAD_LETTER = Gauge(
    "history_dead_letters_oldest_timestamp_seconds",
    "When the oldest of these was put aside, in seconds since the epoch; 0 when there is none.",
)
