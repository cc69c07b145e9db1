"""Every metric of the gateway with its meaning, in one place."""

from prometheus_client import Counter, Gauge, Histogram

BEACONS = Counter("footfall_gateway_beacons_total", "Beacons answered, by HTTP status.", ["status"])
EVENTS = Counter(
    "footfall_gateway_events_total",
    "Events of beacons and POSTs by what became of them, each once: `stored`, `suppressed` (consent), `unavailable` "
    "(to be sent again), or `rejected` for good with the reason.",
    ["outcome", "reason"],
)
LOST_BY_BROWSERS = Counter(
    "footfall_gateway_lost_by_browsers_total",
    "Events that tracking scripts say they have lost before they could send them: too old, too many, or refused.",
)
BATCH_EVENTS = Histogram(
    "footfall_gateway_batch_events",
    "Events in one Collect.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)
COLLECT_SECONDS = Histogram(
    "footfall_gateway_collect_seconds",
    "Time from a Collect's start to its answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
REQUESTS = Counter(
    "footfall_gateway_requests_total", "Other requests, by operation and HTTP status.", ["operation", "status"]
)
REQUEST_SECONDS = Histogram(
    "footfall_gateway_request_seconds",
    "Time from the arrival of such a request to its answer.",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
LIVE_STREAMS = Gauge("footfall_gateway_live_streams", "Streams of /api/v1/live being served.")
