"""Metrics of every process, each with its meaning, and the port that serves them."""

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import Counter, Gauge, Histogram, start_http_server

RPC_CALLS = Counter("rpc_calls_total", "Calls that ended, by method and gRPC status code.", ["method", "code"])
RPC_SECONDS = Histogram(
    "rpc_seconds",
    "Time from a call's arrival in the server to its end; for a stream the whole stream.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
RPC_IN_FLIGHT = Gauge("rpc_in_flight", "Calls being served now.", ["method"])
READY = Gauge("process_ready", "1 while the process reports itself as serving, else 0.")
BACKGROUND_FAILURES = Counter(
    "background_failures_total",
    "Times that background work has failed for a reason nobody thought of. It is tried again.",
    ["work"],
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
