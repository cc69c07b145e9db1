"""The settings as written down (generated tables, containers, the embedded run) are those the services read."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml  # type: ignore[import-untyped]
from footfall_servicekit.settings import unknown_variables, variable

from deploy.embedded import DEFAULT_PORTS, ROOT, Credentials, suite_environment
from docs.generate.__main__ import outdated
from docs.generate.settings import meanings_of, renamed_variables
from tests.arch.house import PROCESSES, PROGRAMS, SERVICES, own_dependencies, secrets_of, settings_class
from tests.tools.kustomize import pod_of, render

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
COMPOSE_TLS: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text(encoding="utf-8"))
OVERLAYS: dict[str, dict[tuple[str, str], Any]] = {
    folder.name: {(document["kind"], document["metadata"]["name"]): document for document in render(folder)}
    for folder in (ROOT / "deploy" / "kubernetes" / "overlays").iterdir()
}
KUBERNETES = OVERLAYS["small"]
BACKUP, RELAY = (
    {document["kind"]: document for document in render(ROOT / "deploy" / "kubernetes" / folder)}
    for folder in ("backup", "relay")
)
SOURCES = {name: folder.relative_to(ROOT).as_posix() for name, folder in SERVICES.items()}
BACKING = {"valkey": 6379, "mongo": 27017}

every_service = pytest.mark.parametrize("service", SERVICES)
every_program = pytest.mark.parametrize("program", PROGRAMS)
every_process = pytest.mark.parametrize("service", PROCESSES)


def variables(service: str) -> dict[str, Any]:
    """By environment variable, the default of each setting of a service."""
    cls = settings_class(service)
    return {variable(cls, name): field.default for name, field in cls.model_fields.items()}


def dockerfile(program: str) -> dict[str, list[str]]:
    """By instruction, the arguments of a program's Dockerfile."""
    found: dict[str, list[str]] = {}
    for line in (PROGRAMS[program] / "Dockerfile").read_text(encoding="utf-8").splitlines():
        instruction, _, arguments = line.partition(" ")
        found.setdefault(instruction, []).append(arguments)
    return found


def test_generated_tables_are_up_to_date() -> None:
    assert [*outdated()] == [], "run `make reference`"


@every_process
def test_the_page_of_settings_has_every_variable_of_a_service(service: str) -> None:
    page = (ROOT / "docs" / "ops" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in variables(service) if f"`{name}`" not in page] == []
    assert [name for name, meaning in meanings_of(settings_class(service)).items() if not meaning] == []


def test_every_metric_has_the_prefix_of_the_suite() -> None:
    page = (ROOT / "docs" / "ops" / "metrics.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert len(names) > 30
    assert [name for name in names if not name.startswith("footfall_")] == []


def test_no_old_name_of_a_setting_is_a_name_in_use() -> None:
    in_use = {name for service in PROCESSES for name in variables(service)}
    old, new = {*renamed_variables()}, {*renamed_variables().values()}
    assert len(old) > 50
    assert not old & in_use
    assert new <= in_use


@every_process
def test_every_number_has_limits(service: str) -> None:
    cls = settings_class(service)
    numbers = {
        name: field
        for name, field in cls.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    }
    assert len(numbers) > 5
    limits = {name: {type(limit).__name__.lower()[0] for limit in field.metadata} for name, field in numbers.items()}
    assert [variable(cls, name) for name, found in limits.items() if not {"g", "l"} <= found] == []


@every_process
def test_what_others_are_told_is_not_taken_for_a_slip(service: str) -> None:
    told = suite_environment(Path("/data"), DEFAULT_PORTS, Credentials("user", "password"))
    every = {name for other in PROCESSES for name in variables(other)}
    assert unknown_variables(settings_class(service), every | set(told) | set(os.environ)) == {}


@every_process
def test_a_service_reads_what_the_embedded_run_says(service: str) -> None:
    assert variables(service)[f"{service.upper()}_PORT"] == DEFAULT_PORTS[f"{service.upper()}_PORT"]
    told = suite_environment(Path("/data"), DEFAULT_PORTS, Credentials("user", "password"))
    for name, default in variables(service).items():
        if name in told and name not in ("API_USER", "API_PASSWORD", "GATEWAY_KEYS_FILE"):
            assert told[name] == str(default)


@every_process
def test_compose_tells_a_service_only_what_it_reads_and_everything_that_differs(service: str) -> None:
    known = variables(service)
    told = COMPOSE["services"][service]["environment"]
    assert set(told) <= set(known)
    addresses = {name for name in known if name.endswith(("_URL", "_TARGET"))}
    assert addresses <= set(told), "the default of an address is this machine, which a container is not"


@pytest.mark.parametrize("service", [service for service in PROCESSES if service != "gateway"])
def test_containers_without_tls_say_that_they_are(service: str) -> None:
    for told in (COMPOSE["services"][service]["environment"], KUBERNETES["ConfigMap", "footfall"]["data"]):
        assert told["ALLOW_INSECURE_GRPC"] == "true", "an image listens to all: its service would not start"


@every_process
def test_addresses_in_compose_are_those_of_its_containers(service: str) -> None:
    ports = BACKING | {name: DEFAULT_PORTS[f"{name.upper()}_PORT"] for name in PROCESSES}
    for name, value in COMPOSE["services"][service]["environment"].items():
        if name.endswith(("_URL", "_TARGET")):
            host, port = re.fullmatch(r"(?:\w+://.+@|dns:///)(\w+):(\d+)", value).groups()  # type: ignore[union-attr]
            assert host in COMPOSE["services"]
            assert int(port) == ports[host]


@every_process
def test_every_container_has_a_health_check_of_its_own_port(service: str) -> None:
    check = " ".join(COMPOSE["services"][service]["healthcheck"]["test"])
    assert f"127.0.0.1:{DEFAULT_PORTS[f'{service.upper()}_PORT']}" in check


def test_balancers_ask_a_gateway_for_beacons_alone() -> None:
    for compose in (COMPOSE, COMPOSE_TLS):
        assert ":8080/readyz/beacons" in compose["services"]["gateway"]["healthcheck"]["test"][-1]
    [container] = KUBERNETES["Deployment", "gateway"]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz/beacons"


@every_service
def test_compose_and_kubernetes_tell_a_service_all_settings_of_tls(service: str) -> None:
    # Without GRPC_CLIENT_ROLES: the names in the certificates are the roles.
    known = {name for name in variables(service) if "_TLS_" in name}
    added = COMPOSE_TLS["services"][service]
    assert set(added["environment"]) == known
    if service != "gateway":
        assert added["healthcheck"]["test"][-1] in COMPOSE["services"][service]["healthcheck"]["test"]
    [container] = OVERLAYS["mtls"]["Deployment", service]["spec"]["template"]["spec"]["containers"]
    assert {one["name"] for one in container["env"]} == known


@every_service
def test_kubernetes_tells_a_service_the_secrets_it_reads_and_no_others(service: str) -> None:
    [container] = KUBERNETES["Deployment", service]["spec"]["template"]["spec"]["containers"]
    references = [one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one]
    told = {name for reference in references for name in KUBERNETES["Secret", reference]["stringData"]}
    assert secrets_of(service, with_urls=True) <= told <= set(variables(service))
    assert not secrets_of(service, with_urls=True) & set(KUBERNETES["ConfigMap", "footfall"]["data"])


@every_program
def test_an_image_holds_the_wheels_that_the_program_needs_and_starts_it(program: str) -> None:
    path = PROGRAMS[program].relative_to(ROOT).as_posix()
    assert COMPOSE["services"][program]["build"] == {"context": ".", "dockerfile": f"{path}/Dockerfile"}
    image = dockerfile(program)
    sources = {*(SOURCES.get(name, name) for name in own_dependencies(program)), path}
    built = image["RUN"][1].split(" --wheel-dir /wheels ")[1].split()
    assert {source.removeprefix("./") for source in built} == sources
    assert {copied.split("/ ")[0] for copied in image["COPY"] if copied.endswith("/")} >= sources
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source.partition('/')[0]}" for source in sources} <= {*context}
    project = tomllib.loads((PROGRAMS[program] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"footfall-{program}" in project["scripts"]
    assert image["ENTRYPOINT" if program == "ops" else "CMD"] == [f'["footfall-{program}"]']
    assert image["USER"] == ["10001:10001"]


def test_the_command_of_operators_is_told_what_it_reads_and_starts_only_when_asked() -> None:
    told = COMPOSE["services"]["ops"]
    assert (told["profiles"], told["restart"]) == (["ops"], "no")
    for name in ("history", "identity"):
        assert secrets_of(name, with_urls=True) <= set(BACKUP["Secret"]["stringData"])
        of_service = COMPOSE["services"][name]["environment"]
        assert {key: of_service[key] for key in told["environment"]} == told["environment"]
    [volume] = told["volumes"]
    assert volume.partition(":")[2] in " ".join(dockerfile("ops")["RUN"]), "its user could not write into it"


def test_images_have_what_the_distributions_declare() -> None:
    pinned = {*re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)}
    assert "grpcio" in pinned
    for file in (*ROOT.glob("*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")):
        declared = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
        names = {re.split(r"[\[<>=]", requirement)[0] for requirement in declared}
        assert {name for name in names if not name.startswith("footfall-")} <= pinned, file


@every_process
def test_an_image_listens_where_the_service_does_by_default(service: str) -> None:
    image = dockerfile(service)
    assert image["EXPOSE"] == [str(variables(service)[f"{service.upper()}_PORT"])]
    for assignment in image["ENV"]:
        assert assignment.partition("=")[0] in variables(service)
    assert f"{service.upper()}_HOST=0.0.0.0" in image["ENV"]


@every_program
def test_a_container_can_do_nothing_that_the_program_does_not_need(program: str) -> None:
    told = COMPOSE["services"][program]
    assert (told["read_only"], told["cap_drop"], told["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    beside = {"ops": BACKUP.get("CronJob"), "relay": RELAY.get("Deployment")}
    pod = pod_of(beside.get(program) or KUBERNETES["Deployment", program])["spec"]
    needed = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["securityContext"] == needed | ({"fsGroup": 10001} if program == "ops" else {})
    assert not pod["automountServiceAccountToken"]
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_compose_starts_redis_with_the_settings_of_the_embedded_run() -> None:
    valkey = COMPOSE["services"]["valkey"]
    [file] = [volume.split(":") for volume in valkey["volumes"] if volume.startswith("./")]
    assert file[0] == "./deploy/valkey.conf"
    assert valkey["command"][:2] == ["valkey-server", file[1]]


def test_the_stores_of_compose_have_passwords() -> None:
    valkey, mongo = (COMPOSE["services"][name] for name in ("valkey", "mongo"))
    assert valkey["configs"][0]["target"] == valkey["command"][valkey["command"].index("--include") + 1]
    assert COMPOSE["configs"]["redis-password"]["content"] == "requirepass ${REDIS_PASSWORD}"
    for asked in (valkey["environment"]["REDISCLI_AUTH"], mongo["environment"]["MONGO_INITDB_ROOT_PASSWORD"]):
        assert ":?" in asked, "without a value Compose must not start"
