"""Every metric of the collector with its meaning."""

from footfall.collector.v1 import collector_service_pb2 as collector
from prometheus_client import Counter, Gauge, Histogram

_EVENTS = Counter(
    "collector_events_total",
    "Events by what became of them, each once: `stored`, `unavailable` (send it again), `suppressed` (consent), or "
    "`rejected` for good with the reason.",
    ["outcome", "reason"],
)
EVENTS_STORED = _EVENTS.labels("stored", "")
EVENTS_UNAVAILABLE = _EVENTS.labels("unavailable", "")
EVENTS_SUPPRESSED = _EVENTS.labels("suppressed", "")
EVENTS_REJECTED = {
    number: _EVENTS.labels("rejected", name.removeprefix("REJECT_REASON_").lower())
    for name, number in collector.RejectReason.items()
    if number
}

BATCH_EVENTS = Histogram(
    "collector_batch_events", "Events in a batch.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
)
APPEND_SECONDS = Histogram(
    "collector_append_seconds",
    "Time from sending a batch to the log until it is on disk there.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
LOG_BYTES = Gauge("collector_log_bytes", "Memory of the log in Redis, as last sampled.")
LOG_BOUND_BYTES = Gauge("collector_log_bound_bytes", "Memory of the log above which events are refused.")

_RESOLVES = Counter(
    "collector_resolves_total",
    "Batches sent to identity (`answered`, `failed`) or not, because it has just failed (`skipped`).",
    ["result"],
)
RESOLVES_ANSWERED = _RESOLVES.labels("answered")
RESOLVES_FAILED = _RESOLVES.labels("failed")
RESOLVES_SKIPPED = _RESOLVES.labels("skipped")
