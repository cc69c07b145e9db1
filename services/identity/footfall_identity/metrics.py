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
RELINKED = Counter(
    "footfall_identity_relinked_total", "Identities that were linked again because a contact had changed."
)
PENDING_RELINKS = Gauge(
    "footfall_identity_pending_relinks",
    "Contacts, and attributes that many identities share, whose identities have still to be linked again because a "
    "contact has changed. Counted every 10 s, up to 50 contacts and 1,000 attributes. Contacts of the last 10 s do not "
    "count. The same in every process.",
)
OLDEST_PENDING_RELINK = Gauge(
    "footfall_identity_pending_relinks_oldest_timestamp_seconds",
    "Since when the oldest of them waits, in seconds since the epoch. 0 while none does.",
)
GENERIC_VALUES = Gauge(
    "footfall_identity_generic_values",
    "E-mail addresses, telephone numbers and names that rules do not use, because too many identities give them, at "
    "most 1,000. Without those that a person has allowed. Counted every 30 s. The same in every process.",
)
SHARED_IDENTITIES = Gauge(
    "footfall_identity_shared_identities",
    "Identities that were used on more than `IDENTITY_MAX_DEVICES_PER_DAY` devices on one of their latest days, at "
    "most 1,000. Counted every 30 s. The same in every process.",
)
REBUILDING = Gauge(
    "footfall_identity_rebuilding_partitions",
    "Partitions whose live state is being built again from history, because Redis has lost some of it or may have. "
    "Until then a visitor who has signed in may be shown as Anonymous.",
)
REBUILT_VISITS = Counter(
    "footfall_identity_rebuilt_visits_total", "Visits read from history to build live state again."
)
VISIT_CODES = Counter(
    "footfall_identity_visit_codes_total",
    "Requests of pages for a code of their visit, by `outcome`: `given`, or `refused` because "
    "`IDENTITY_MAX_VISIT_CODES` codes are in use.",
    ["outcome"],
)
VISIT_CODE_TRIES = Counter(
    "footfall_identity_visit_code_tries_total",
    "Codes of visits that callers have given, by `outcome`: `found` a visit, `nothing` (wrong, used by another caller, "
    "expired, or of another website), `refused` because too many wrong codes were given. Many of the last "
    "two: somebody guesses.",
    ["outcome"],
)
