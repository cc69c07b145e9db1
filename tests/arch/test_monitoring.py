"""The alert rules, the dashboards, the metrics of the code and the page of alerts agree.

Whether Prometheus takes the rules, and whether they notice a fault: tests/faults/test_alerts.py.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.embedded import ROOT
from docs.generate.metrics import tables
from docs.pages import Page

MONITORING: Final = ROOT / "deploy" / "monitoring"
[GROUP] = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
RULES: Final[dict[str, dict[str, Any]]] = {rule["alert"]: rule for rule in GROUP["rules"]}
DASHBOARDS: Final[dict[str, dict[str, Any]]] = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(MONITORING.glob("dashboard-*.json"))
}
PAGE: Final = Page("docs/ops/alerts.md")
OF_PROMETHEUS: Final = {"job", "instance", "le"}
"""Labels that Prometheus and histograms add."""
GRAFANAS: Final = {"datasource", "__rate_interval"}

every_rule = pytest.mark.parametrize("name", RULES)
every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


class Metric(NamedTuple):
    """What the code says of a metric."""

    kind: str
    labels: frozenset[str]


def metrics() -> Iterator[tuple[str, Metric]]:
    """All series of the metrics of the code."""
    for table in tables().values():
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", table, re.MULTILINE):
            metric = Metric(kind, frozenset(re.findall(r"`(\w+)`", labels)))
            for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
                yield name + suffix, metric


METRICS: Final = dict(metrics())


def faults(expression: str) -> Iterator[str]:
    """What an expression of PromQL names that no metric has."""
    known = set(OF_PROMETHEUS)
    for name, matchers in re.findall(r"\b(footfall_\w+)(?:\{([^}]*)\})?", expression):
        if (metric := METRICS.get(name)) is None:
            yield f"no metric {name}"
            continue
        known |= metric.labels
        matched = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", matchers))
        yield from (f"{name} has no label {label}" for label in matched - metric.labels)
    for names in re.findall(r"\b(?:by|on|group_left) ?\(([^)]*)\)", expression):
        yield from (f"no label {label}" for label in set(re.findall(r"\w+", names)) - known)
    # A counter is only meaningful as a rate. `unless ... offset` says that it has just begun.
    for name in re.findall(r"\b(footfall_\w+_(?:total|bucket|sum|count))\b", expression):
        if f"{name} unless {name} offset" not in expression and not re.search(
            rf"\b(?:rate|increase)\({name}\b", expression
        ):
            yield f"{name} is no rate"


def labels_of(expression: str) -> set[str]:
    """Labels that the results of an expression may have."""
    grouped = re.findall(r"\b(?:by|on|group_left) ?\(([^)]*)\)", expression)
    found = {label for names in grouped for label in re.findall(r"\w+", names)}
    if not grouped:
        found |= OF_PROMETHEUS
    return found | {
        label for matchers in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)=", matchers)
    }


@every_rule
def test_a_rule_asks_for_metrics_and_labels_that_exist(name: str) -> None:
    assert [*faults(RULES[name]["expr"])] == []


def test_a_rule_of_something_else_is_found() -> None:
    assert [*faults('sum by (color) (rate(footfall_rpc_calls_total{colour="red"}[5m]))')] == [
        "footfall_rpc_calls_total has no label colour",
        "no label color",
    ]
    assert [*faults("footfall_history_slow_visitors > 0")] == ["no metric footfall_history_slow_visitors"]
    assert [*faults("footfall_rpc_calls_total > 0")] == ["footfall_rpc_calls_total is no rate"]


@every_rule
def test_a_rule_says_how_urgent_it_is_and_leads_to_its_section(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{PAGE.name}#{name.lower()}"
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert shown <= labels_of(rule["expr"])


def test_the_page_has_a_section_for_each_rule_in_their_order() -> None:
    assert re.findall(r"^## (Footfall\w+)$", PAGE.prose, re.MULTILINE) == [*RULES]


@every_rule
def test_a_section_has_the_symptom_a_command_with_its_output_and_what_to_do(name: str) -> None:
    section = PAGE.sections[name.lower()]
    found = re.fullmatch(
        r"## \w+\n\n\*\*Symptom\.\*\* .+?\n\n```sh\n(.*?)```\n\n\*\*Do\.\*\* .+", section.strip(), re.DOTALL
    )
    assert found, "a section is Symptom, a block of commands, Do"
    last = found[1].splitlines()[-1]
    assert last.startswith("# ") or "Prints nothing" in found[1]


def panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DASHBOARDS[name]["panels"]
    return found


@every_dashboard
def test_a_dashboard_asks_for_metrics_and_labels_that_exist(name: str) -> None:
    wrong = [
        (panel["title"], fault)
        for panel in panels(name)
        for target in panel["targets"]
        for fault in faults(target["expr"].replace('"$service"', '"any"'))
    ]
    assert wrong == []


@every_dashboard
def test_a_legend_shows_labels_that_the_series_have(name: str) -> None:
    for panel in panels(name):
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels_of(target["expr"]), panel[
                "title"
            ]


@every_dashboard
def test_a_dashboard_can_be_imported(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert len({panel["id"] for panel in panels(name)}) == len(panels(name)) > 10
    taken: set[tuple[int, int]] = set()
    for panel in panels(name):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    assert used - GRAFANAS <= variables
    assert variables <= used


def test_dashboards_have_ids_of_their_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 2
