"""The tables of all metrics, from the modules that define them."""

from types import ModuleType

import footfall_collector.metrics
import footfall_eventlog.metrics
import footfall_gateway.metrics
import footfall_history.metrics
import footfall_identity.metrics
import footfall_relay.metrics
import footfall_servicekit.metrics
from prometheus_client import Counter, Gauge, Histogram

from docs.generate.markdown import table

_OF_PROCESS = [
    ("footfall_process_cpu_seconds_total", "counter", "Processor time that the process has used, in seconds."),
    ("footfall_process_resident_memory_bytes", "gauge", "Memory of the process."),
    ("footfall_process_virtual_memory_bytes", "gauge", "Addresses that the process has reserved, in bytes."),
    ("footfall_process_start_time_seconds", "gauge", "When the process began, in seconds since 1970-01-01."),
    ("footfall_process_open_fds", "gauge", "Files and connections that the process has open."),
    ("footfall_process_max_fds", "gauge", "The most that it may have open."),
]
"""Made by prometheus-client, on Linux alone, so that a table made elsewhere would lack them."""

_MODULES = {
    "every service": footfall_servicekit.metrics,
    "event log": footfall_eventlog.metrics,
    "collector": footfall_collector.metrics,
    "identity": footfall_identity.metrics,
    "history": footfall_history.metrics,
    "relay": footfall_relay.metrics,
    "gateway": footfall_gateway.metrics,
}


def tables() -> dict[str, str]:
    """By section of the page, its table."""
    of_process = {name: [f"`{name}`", kind, "none", meaning] for name, kind, meaning in _OF_PROCESS}
    return {
        section: _table(module, of_process if module is footfall_servicekit.metrics else {})
        for section, module in _MODULES.items()
    }


def _table(module: ModuleType, more: dict[str, list[str]]) -> str:
    rows: dict[str, list[str]] = {}
    for metric in vars(module).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            [family] = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001 - a test would miss a change
            rows.setdefault(name, [f"`{name}`", family.type, labels or "none", family.documentation])
    return table(["Metric", "Type", "Labels", "Meaning"], [*rows.values(), *more.values()])
