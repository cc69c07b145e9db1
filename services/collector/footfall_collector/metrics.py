"""The metrics of the collector."""

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from prometheus_client import Counter, Gauge, Histogram

_EVENTS = Counter(
    "footfall_collector_events_total",
    "Events of batches by outcome: `stored`, `unavailable` (it may be sent again), `suppressed` (no consent), or "
    "`rejected` with the reason. An event that is sent again is counted again.",
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
_IGNORED = Counter(
    "footfall_collector_ignored_user_ids_total",
    "Stored SignIn and UserInfo events whose user id names no person, by reason. Such an event changes nothing about "
    "who the visitor is: a page sends a wrong value.",
    ["reason"],
)
IGNORED_USER_IDS = {
    number: _IGNORED.labels(name.removeprefix("IGNORED_REASON_").lower())
    for name, number in event_pb2.IgnoredReason.items()
    if number
}
IGNORED_ATTRIBUTES = Counter(
    "footfall_collector_ignored_attributes_total",
    "E-mail addresses, telephone numbers and names of SignIn and UserInfo events that belong to no person, so that "
    "they match no contact.",
)
_STAFF_EVENTS = Counter(
    "footfall_collector_staff_events_total",
    "Events of staff, by reason: `site` or `address` (identity policy), `key` (API key). Their visits do not count as "
    "those of customers.",
    ["reason"],
)
STAFF_EVENTS = {
    number: _STAFF_EVENTS.labels(name.removeprefix("STAFF_REASON_").lower())
    for name, number in event_pb2.StaffReason.items()
    if number
}

INTERACTIONS = Counter(
    "footfall_collector_interactions_total",
    "Updates of interactions that were stored in the event log. An update that is sent again is counted again.",
)
BATCH_EVENTS = Histogram(
    "footfall_collector_batch_events", "Events of a batch.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
)
APPEND_SECONDS = Histogram(
    "footfall_collector_append_seconds",
    "Time from sending a batch to the event log until Redis has written it to disk.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
APPENDS_FAIL_SINCE = Gauge(
    "footfall_collector_appends_fail_since_timestamp_seconds",
    "Since when no append to the event log is confirmed, in seconds since the epoch. 0 while appends are confirmed.",
)
LOG_BYTES = Gauge("footfall_collector_log_bytes", "Memory of the event log in Redis, sampled once a second.")
LOG_BOUND_BYTES = Gauge(
    "footfall_collector_log_bound_bytes",
    "Memory of the event log above which events are refused: `COLLECTOR_LOG_MAX_BYTES`.",
)

_IDENTITY_CALLS = Counter(
    "footfall_collector_identity_calls_total",
    "Batches by the call to identity: `answered`, `failed`, or `skipped` because identity has just failed.",
    ["result"],
)
IDENTITY_CALLS_ANSWERED = _IDENTITY_CALLS.labels("answered")
IDENTITY_CALLS_FAILED = _IDENTITY_CALLS.labels("failed")
IDENTITY_CALLS_SKIPPED = _IDENTITY_CALLS.labels("skipped")
