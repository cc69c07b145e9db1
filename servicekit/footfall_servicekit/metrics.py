"""Metrics of every process, each with its meaning, and the port that serves them."""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

RPC_CALLS = Counter(
    "footfall_rpc_calls_total",
    "gRPC calls that ended, by method (`unknown`: one that the server does not have) and status code.",
    ["method", "code"],
)
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
INDEXES = Gauge(
    "footfall_store_indexes",
    "Indexes that the process needs in MongoDB, by state: `ready`, or `missing` (not made yet, or not known).",
    ["state"],
)
INDEX_BUILD_STARTED = Gauge(
    "footfall_store_index_build_start_timestamp_seconds",
    "The index that is being built, and since when, in seconds since 1970-01-01. No value while none is.",
    ["index"],
)


class MetricsPort:
    """The HTTP port that Prometheus reads, served by its own thread."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host)
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
