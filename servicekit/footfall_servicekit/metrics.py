"""The metrics that all services have, and the port that serves them. Each service defines its own likewise."""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

RPC_CALLS = Counter("footfall_rpc_calls_total", "gRPC calls that ended, by method and status code.", ["method", "code"])
RPC_SECONDS = Histogram(
    "footfall_rpc_seconds",
    "Time from the arrival of a gRPC call to its end. Of a stream: its whole duration.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
RPC_IN_FLIGHT = Gauge("footfall_rpc_in_flight", "gRPC calls that are running.", ["method"])
READY = Gauge("footfall_process_ready", "1 while the process reports that it serves, else 0.")
BACKGROUND_FAILURES = Counter(
    "footfall_background_failures_total",
    "Unexpected failures of background work. The work is tried again. Each one is a line in the log.",
    ["work"],
)

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
    "Consumer lag: entries that no consumer of the group has read.",
    ["stream", "group"],
)
STREAM_PENDING = Gauge(
    "footfall_stream_pending_entries", "Entries that a consumer has read and not acknowledged.", ["stream", "group"]
)
STREAM_TRIMMED = Counter(
    "footfall_stream_trimmed_total",
    "Entries removed from the event log after every consumer group had handled them.",
    ["stream"],
)


class MetricsPort:
    """The HTTP port that Prometheus scrapes, served by a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        """Listen at once; raises OSError when the port is taken."""
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host)
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
