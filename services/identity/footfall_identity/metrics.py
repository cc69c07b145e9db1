"""The metrics of identity."""

from prometheus_client import Counter, Gauge, Histogram

RESOLVE_EVENTS = Histogram(
    "footfall_identity_resolve_events",
    "Events of a `ResolveEvents` call.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)
TIMELINES_CHANGED = Counter(
    "footfall_identity_timelines_changed_total", "Changes of the timeline of a visit, counted once a batch."
)
TIMELINES_TRUNCATED = Counter(
    "footfall_identity_timelines_truncated_total",
    "Visits with more than `MAX_TRANSITIONS_PER_VISIT` transitions. The further ones do not change who the visitor is.",
)
LOG_SKIPPED = Counter(
    "footfall_identity_log_skipped_total", "Malformed events or entries of the event log that were skipped."
)
WATCH_STREAMS = Gauge("footfall_identity_watch_streams", "`WatchVisitors` calls that are open.")
WATCHERS_TOO_SLOW = Counter(
    "footfall_identity_watchers_too_slow_total",
    "`WatchVisitors` calls ended because their client was more than `IDENTITY_WATCH_BUFFER_MESSAGES` behind.",
)
