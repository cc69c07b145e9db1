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
INTERACTIONS = Counter(
    "footfall_history_interactions_total",
    "Updates of interactions from the event log. Entries that are read again after a crash count again.",
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
SCORECARD_DAY = Gauge(
    "footfall_history_scorecard_day_timestamp_seconds",
    "The beginning of the last day (UTC) whose visits have been counted, in seconds since 1970-01-01. All metrics of "
    "scorecards are about the visits that began on this day. They are the same in every process.",
    ["site"],
)
SCORECARD_VISITS = Gauge(
    "footfall_history_scorecard_visits",
    "Visits of that day by the highest state that they reached: `ANONYMOUS`, `RECOGNIZED` or `AUTHENTICATED`.",
    ["site", "state"],
)
SCORECARD_PROVEN = Gauge(
    "footfall_history_scorecard_proven_visits",
    "Visits of that day with a SignIn whose assurance is proven. They are among those that are `AUTHENTICATED`.",
    ["site"],
)
SCORECARD_RECOGNIZED = Gauge(
    "footfall_history_scorecard_recognized_visits",
    "Visits of that day that named an identity within so many `seconds` of their first event (`more`: at any time).",
    ["site", "seconds"],
)
SCORECARD_IGNORED = Gauge(
    "footfall_history_scorecard_ignored_visits",
    "Visits of that day with a SignIn or UserInfo whose user id names no person, by reason.",
    ["site", "reason"],
)
SCORECARD_DEVICES = Gauge(
    "footfall_history_scorecard_devices",
    "Devices of that day by the number of `identities` that their visits named: more than the label before, and up to "
    "this one.",
    ["site", "identities"],
)
SCORECARD_IDENTITIES = Gauge(
    "footfall_history_scorecard_identities",
    "Identities of that day by the number of `devices` whose visits named them: more than the label before, and up to "
    "this one.",
    ["site", "devices"],
)
SCORECARD_LINKS = Gauge(
    "footfall_history_scorecard_links",
    "Identities that visits of that day named, by how they were linked to contacts when the visits were counted: all "
    "(`all`), `linked`, `ambiguous`, with a `generic` value that rules did not use, or `shared`. Estimates if there "
    "are more than 1,000. Missing if identity did not answer.",
    ["site", "links"],
)
SCORECARD_LATE = Gauge(
    "footfall_history_scorecard_late_visits",
    "Visits of that day with an event that arrived more than five minutes after it happened.",
    ["site"],
)
SCORECARD_REPEATED = Gauge(
    "footfall_history_scorecard_repeated_visits",
    "Visits of that day with an event that arrived by two requests.",
    ["site"],
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
