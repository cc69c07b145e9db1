"""Every metric of identity with its meaning."""

from prometheus_client import Counter, Gauge, Histogram

RESOLVE_EVENTS = Histogram(
    "identity_resolve_events", "Events in a ResolveEvents call.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
)
TIMELINES_CHANGED = Counter("identity_timelines_changed_total", "Visits whose timeline a batch changed.")
TIMELINES_TRUNCATED = Counter(
    "identity_timelines_truncated_total",
    "Visits that have come to have more transitions than MAX_TRANSITIONS_PER_VISIT: those beyond do not count.",
)
LOG_SKIPPED = Counter(
    "identity_log_skipped_total", "Events or entries of the log skipped because they are not as admission leaves them."
)
WATCHERS = Gauge("identity_watchers", "Calls of WatchVisitors being served.")
WATCHERS_TOO_SLOW = Counter(
    "identity_watchers_too_slow_total", "Calls of WatchVisitors ended because they did not read."
)
