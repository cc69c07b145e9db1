"""The tables of all metrics, from the modules that define them."""

from types import ModuleType

import footfall_collector.metrics
import footfall_eventlog.metrics
import footfall_gateway.metrics
import footfall_history.metrics
import footfall_identity.metrics
import footfall_servicekit.metrics
from prometheus_client import Counter, Gauge, Histogram

from docs.generate.markdown import table

_MODULES = {
    "every service": footfall_servicekit.metrics,
    "event log": footfall_eventlog.metrics,
    "collector": footfall_collector.metrics,
    "identity": footfall_identity.metrics,
    "history": footfall_history.metrics,
    "gateway": footfall_gateway.metrics,
}


def tables() -> dict[str, str]:
    """By section of the page, its table."""
    return {section: _table(module) for section, module in _MODULES.items()}


def _table(module: ModuleType) -> str:
    rows: dict[str, list[str]] = {}
    for metric in vars(module).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            [family] = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)  # noqa: SLF001 - a test would miss a change
            rows.setdefault(name, [f"`{name}`", family.type, labels or "none", family.documentation])
    return table(["Metric", "Type", "Labels", "Meaning"], rows.values())
