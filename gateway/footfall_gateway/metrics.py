"""The metrics of the gateway."""

from prometheus_client import Counter, Gauge, Histogram

BEACONS = Counter("footfall_gateway_beacons_total", "Answered beacons, by HTTP status.", ["status"])
EVENTS = Counter(
    "footfall_gateway_events_total",
    "Events of beacons and POST requests by outcome: `stored`, `suppressed` (no consent), `unavailable` (the client "
    "sends it again), or `rejected` with the reason. An event that is sent again is counted again.",
    ["outcome", "reason"],
)
CLIENT_DROPPED_EVENTS = Counter(
    "footfall_gateway_client_dropped_events_total",
    "Events that tracking scripts report as dropped before they were stored: too old, too many, or refused.",
)
TRACKER_REQUESTS = Counter(
    "footfall_gateway_tracker_requests_total",
    "Answered requests of trackers of other makers, by protocol (`segment`, `posthog`, `snowplow`, `matomo`) and HTTP "
    "status.",
    ["protocol", "status"],
)
BATCH_EVENTS = Histogram(
    "footfall_gateway_batch_events",
    "Events of a `Collect` call.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000),
)
COLLECT_SECONDS = Histogram(
    "footfall_gateway_collect_seconds",
    "Time from a `Collect` call to its answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
REQUESTS = Counter(
    "footfall_gateway_requests_total",
    "Requests that are no beacons, by operation and HTTP status.",
    ["operation", "status"],
)
REQUEST_SECONDS = Histogram(
    "footfall_gateway_request_seconds",
    "Time from the arrival of a request that is no beacon to its answer.",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
LIVE_STREAMS = Gauge("footfall_gateway_live_streams", "Streams of `/api/v1/live` that are open.")
CONNECTIONS = Gauge("footfall_gateway_connections", "Connections that are open.")
CLOSED_CONNECTIONS = Counter(
    "footfall_gateway_closed_connections_total",
    "Connections without a complete request that were closed because few further ones could be opened.",
)
REFUSED_REQUESTS = Counter(
    "footfall_gateway_refused_requests_total",
    "Requests answered 503 because of too many connections: of their address (`address`), or of all (`all`).",
    ["limit"],
)
