"""Metrics of reading the event log, each with its meaning."""

from prometheus_client import Counter, Gauge

STREAM_HANDLED = Counter(
    "footfall_stream_handled_total",
    "Entries of the event log that the consumer group has handled.",
    ["stream", "group"],
)
STREAM_RECLAIMED = Counter(
    "footfall_stream_reclaimed_total",
    "Entries taken over from a consumer that did not acknowledge them.",
    ["stream", "group"],
)
STREAM_FAILURES = Counter(
    "footfall_stream_failures_total",
    "Reads of the event log whose entries could not be handled. They are tried again.",
    ["stream", "group"],
)
STREAM_LOST = Counter(
    "footfall_stream_lost_entries_total",
    "Entries removed from the event log before the consumer group had handled them: lost for it.",
    ["stream", "group"],
)
STREAM_LAG = Gauge(
    "footfall_stream_lag_entries",
    "Consumer lag: entries that no consumer of the group has read. Each process shows that of all groups, as for "
    "`footfall_stream_lag_seconds`: of several processes take the greatest.",
    ["stream", "group"],
)
STREAM_LAG_SECONDS = Gauge(
    "footfall_stream_lag_seconds",
    "Age of the oldest entry that the consumer group has not handled; 0 if there is none. Each process that reads the "
    "event log shows the lag of all groups, every five seconds, so also of a service that does not run.",
    ["stream", "group"],
)
STREAM_PENDING = Gauge(
    "footfall_stream_pending_entries",
    "Entries that a consumer has read and not acknowledged. Each process shows those of all groups.",
    ["stream", "group"],
)
STREAM_TRIMMED = Counter(
    "footfall_stream_trimmed_total",
    "Entries removed from the event log after every consumer group had handled them.",
    ["stream"],
)
STREAM_STORE_WENT_BACK = Counter(
    "footfall_stream_store_went_back_total",
    "Times that the checkpoints of the consumer group showed that a store (`redis` or `mongodb`) had gone back to an "
    "earlier state, for example restored from a backup.",
    ["stream", "group", "store"],
)
STREAM_GAPS = Gauge(
    "footfall_stream_gaps",
    "Gaps that no operator has confirmed: entries that MongoDB lost and the event log no longer holds, in all "
    "partitions.",
    ["group"],
)
