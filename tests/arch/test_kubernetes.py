"""The Kubernetes files are valid by the schemas, and agree with the suite that they start and with each other."""

import tomllib
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from deploy.embedded import DEFAULT_PORTS, ROOT
from tests.arch.house import PROCESSES, PROGRAMS, SERVICES, secrets_of
from tests.tools.kustomize import Document, pod_of, render

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = {folder.name: render(folder) for folder in (FOLDER / "overlays").iterdir()}
BACKUP = {one["kind"]: one for one in render(FOLDER / "backup")}
KUBERNETES = "1.32"
"""The version of the schemas. The `sleep` of a container's `preStop` needs 1.30."""

every_overlay = pytest.mark.parametrize("overlay", sorted(OVERLAYS))
every_service = pytest.mark.parametrize("service", SERVICES)


def of_kind(overlay: str, kind: str) -> dict[str, Document]:
    """By name, the documents of a kind."""
    return {one["metadata"]["name"]: one for one in OVERLAYS[overlay] if one["kind"] == kind}


def container(overlay: str, service: str) -> dict[str, Any]:
    [found] = of_kind(overlay, "Deployment")[service]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@every_overlay
def test_every_document_is_valid_by_the_schemas_of_kubernetes(overlay: str) -> None:
    assert sorted(of_kind(overlay, "Deployment")) == sorted(SERVICES)
    for document in OVERLAYS[overlay]:
        if document["kind"] != "ServiceMonitor":  # of the Prometheus operator, not of Kubernetes
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@every_overlay
@every_service
def test_images_have_the_version_of_the_suite(overlay: str, service: str) -> None:
    project = tomllib.loads((SERVICES[service] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert container(overlay, service)["image"] == f"footfall-{service}:{project['version']}"


@every_overlay
@every_service
def test_ports_are_those_of_the_service_and_of_its_metrics(overlay: str, service: str) -> None:
    settings = of_kind(overlay, "ConfigMap")["footfall"]["data"]
    ports = {DEFAULT_PORTS[f"{service.upper()}_PORT"]}
    if service != "gateway":
        ports.add(int(settings[f"{service.upper()}_METRICS_PORT"]))
    assert {one["containerPort"] for one in container(overlay, service)["ports"]} == ports
    assert {one["port"] for one in of_kind(overlay, "Service")[service]["spec"]["ports"]} == ports
    policy = of_kind(overlay, "NetworkPolicy")[service]["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


@every_overlay
@every_service
def test_a_service_has_probes_and_limits_and_spreads_over_nodes_and_zones(overlay: str, service: str) -> None:
    found = container(overlay, service)
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= found.keys()
    assert {name: {*found["resources"][name]} for name in ("requests", "limits")} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }
    spread = of_kind(overlay, "Deployment")[service]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


@every_overlay
def test_a_service_may_reach_exactly_the_services_that_let_it_in(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    calls = {
        (service, to["podSelector"]["matchLabels"]["app"])
        for service in SERVICES
        for rule in policies[service]["spec"]["egress"]
        for to in rule.get("to", ())
    }
    callers = {
        (source["podSelector"]["matchLabels"]["app"], service)
        for service in SERVICES
        for rule in policies[service]["spec"]["ingress"]
        for source in rule.get("from", ())
        if "app" in source.get("podSelector", {}).get("matchLabels", {})
    }
    assert len(calls) > 5
    assert calls == callers
    everything = policies["footfall-nobody"]["spec"]
    assert everything["policyTypes"] == ["Ingress", "Egress"]
    assert not everything.keys() & {"ingress", "egress"}


@every_overlay
@every_service
def test_what_selects_pods_finds_them(overlay: str, service: str) -> None:
    deployment = of_kind(overlay, "Deployment")[service]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        of_kind(overlay, "Service")[service]["spec"]["selector"],
        of_kind(overlay, "PodDisruptionBudget")[service]["spec"]["selector"]["matchLabels"],
        of_kind(overlay, "NetworkPolicy")[service]["spec"]["podSelector"]["matchLabels"],
        of_kind(overlay, "NetworkPolicy")["footfall-nobody"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels
    if overlay != "small":
        monitor, of_service = of_kind(overlay, "ServiceMonitor")[service]["spec"], of_kind(overlay, "Service")[service]
        assert monitor["selector"]["matchLabels"].items() <= of_service["metadata"]["labels"].items()
        ports = {one["name"] for one in of_service["spec"]["ports"]}
        assert {one["port"] for one in monitor["endpoints"]} <= ports
        scaler = of_kind(overlay, "HorizontalPodAutoscaler")[service]["spec"]
        assert scaler["scaleTargetRef"]["name"] == service
        assert "replicas" not in deployment


def test_the_relay_is_added_beside_an_overlay_with_what_it_reads_and_may_reach() -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in render(FOLDER / "relay")}
    for document in found.values():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    spec = found["Deployment", "relay"]["spec"]["template"]["spec"]
    [started] = spec["containers"]
    project = tomllib.loads((PROCESSES["relay"] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert started["image"] == f"footfall-relay:{project['version']}"
    assert {one["containerPort"] for one in started["ports"]} == {DEFAULT_PORTS["RELAY_PORT"], 9054}
    assert started["securityContext"] == container("small", "history")["securityContext"]
    secrets = {name for one in started["envFrom"] if (reference := one.get("secretRef")) for name in secret(reference)}
    told = secrets | {one["name"] for one in started["env"]} | {*of_kind("small", "ConfigMap")["footfall"]["data"]}
    assert secrets_of("relay", with_urls=True) <= secrets
    outlets = tomllib.loads(found["ConfigMap", "footfall-outlets"]["data"]["outlets.toml"])
    assert {one["secret_env"] for one in outlets["webhook"]} <= told
    called = found["NetworkPolicy", "relay-calls"]["spec"]
    assert called["podSelector"]["matchExpressions"][0]["values"] == ["history", "identity"]
    assert {one["port"] for one in called["ingress"][0]["ports"]} == {
        DEFAULT_PORTS["HISTORY_PORT"],
        DEFAULT_PORTS["IDENTITY_PORT"],
    }


def secret(reference: dict[str, str]) -> set[str]:
    """The variables in a Secret of the relay."""
    documents = yaml.safe_load_all((FOLDER / "relay" / "outlets.yaml").read_text(encoding="utf-8"))
    found = {one["metadata"]["name"]: one for one in documents if one["kind"] == "Secret"}
    return {*found[reference["name"]]["stringData"]}


def test_autoscaling_asks_for_metrics_that_the_services_have() -> None:
    page = (ROOT / "docs" / "ops" / "metrics.md").read_text(encoding="utf-8")
    for scaler in of_kind("large", "HorizontalPodAutoscaler").values():
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "External":
                assert f"`{metric['external']['metric']['name']}`" in page


def test_the_backup_is_a_pod_of_the_suite_that_reaches_the_stores_alone() -> None:
    for document in BACKUP.values():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    pod = pod_of(BACKUP["CronJob"])
    policy = BACKUP["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    everything = of_kind("small", "NetworkPolicy")["footfall-nobody"]["spec"]["podSelector"]["matchLabels"]
    assert everything.items() <= pod["metadata"]["labels"].items()
    stores = of_kind("small", "NetworkPolicy")["history"]["spec"]["egress"][-1]
    assert (policy["egress"], policy.keys() & {"ingress"}) == ([stores], set())
    [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
    assert container["args"][-1].startswith(f"{container['volumeMounts'][0]['mountPath']}/")
    assert volume["persistentVolumeClaim"]["claimName"] == BACKUP["PersistentVolumeClaim"]["metadata"]["name"]
    version = tomllib.loads((PROGRAMS["ops"] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert container["image"] == f"footfall-ops:{version}"


def test_no_file_of_kubernetes_is_left_out() -> None:
    for file in FOLDER.rglob("*.yaml"):
        if file.name != "kustomization.yaml":
            resources = yaml.safe_load((file.parent / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
            assert file.name in resources
