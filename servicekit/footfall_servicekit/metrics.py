"""Metrics of every process, each with its meaning, and the port that serves them."""

import platform
import threading
from functools import cache
from importlib.metadata import version
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

BUILD_INFO = Gauge(
    "footfall_build_info",
    "Always 1: which service a process is, its version, and that of Python.",
    ["service", "version", "python"],
)

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
STORE_SECONDS = Histogram(
    "footfall_store_seconds",
    "Time from a command to a store (`redis` or `mongodb`) to its answer. `PIPELINE` is several commands that are sent "
    "together. Reads that wait for new entries of the event log do not count.",
    ["store", "command"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


@cache
def store_seconds(store: str, command: str) -> Histogram:
    """The times of one command of a store."""
    return STORE_SECONDS.labels(store, command)


def describe_process(service: str) -> None:
    """Say what this process is, and give the metrics of its memory, processor and files our prefix. Call once."""
    for unprefixed in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        REGISTRY.unregister(unprefixed)
    ProcessCollector(namespace="footfall")
    BUILD_INFO.labels(service, version("footfall-servicekit"), platform.python_version()).set(1)


class MetricsPort:
    """The HTTP port that Prometheus reads, served by its own thread. It has OpenMetrics for clients that accept it."""

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
