"""Metrics of reading the log, each with its meaning."""

from prometheus_client import Counter, Gauge

STREAM_HANDLED = Counter("stream_handled_total", "Entries handled and acknowledged.", ["stream", "group"])
STREAM_RECLAIMED = Counter(
    "stream_reclaimed_total",
    "Entries taken over from a consumer that did not acknowledge them.",
    ["stream", "group"],
)
STREAM_FAILURES = Counter(
    "stream_failures_total", "Batches whose handler failed; their entries are delivered again.", ["stream", "group"]
)
STREAM_LOST = Counter(
    "stream_lost_entries_total",
    "Entries removed from the stream before the group had handled them.",
    ["stream", "group"],
)
STREAM_LAG = Gauge(
    "stream_lag_entries",
    "Entries not yet delivered to any consumer of the group, as Redis counts them.",
    ["stream", "group"],
)
STREAM_PENDING = Gauge(
    "stream_pending_entries", "Entries delivered to a consumer and not acknowledged.", ["stream", "group"]
)
STREAM_TRIMMED = Counter("stream_trimmed_total", "Entries removed after every group had acknowledged them.", ["stream"])
