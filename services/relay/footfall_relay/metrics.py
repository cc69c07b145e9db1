"""Metrics of the relay, each with its meaning."""

from prometheus_client import Counter, Gauge, Histogram

DELIVERED = Counter(
    "footfall_relay_delivered_total",
    "Messages that an outlet has taken, by kind: `event`, `revised` or `erasure`.",
    ["outlet", "kind"],
)
FAILURES = Counter(
    "footfall_relay_failures_total",
    "Attempts to deliver that failed, by reason: an HTTP status, or the name of an error. They are tried again.",
    ["outlet", "reason"],
)
DELIVERY_SECONDS = Histogram(
    "footfall_relay_delivery_seconds",
    "Time that an outlet needs to take what is delivered together, with all attempts.",
    ["outlet"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0),
)
LAG_SECONDS = Gauge(
    "footfall_relay_lag_seconds",
    "Age of the oldest entry of the event log that the outlet has not taken; 0 if there is none. Also while it is "
    "paused. Only the process that relays a partition shows it: of several take the greatest.",
    ["outlet"],
)
PAUSED = Gauge("footfall_relay_paused", "1 while the outlet is paused, else 0.", ["outlet"])
DEAD_LETTERS = Gauge("footfall_relay_dead_letters", "Dead letters of the outlet.", ["outlet"])
DROPPED = Counter(
    "footfall_relay_dropped_dead_letters_total",
    "Dead letters dropped because the outlet has `RELAY_MAX_DEAD_LETTERS`.",
    ["outlet"],
)
LOST = Counter(
    "footfall_relay_lost_entries_total",
    "Entries of the event log that were removed before the outlet had taken them (`RELAY_HOLD_MINUTES`).",
    ["outlet"],
)
