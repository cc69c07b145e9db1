"""Each service stands alone: its wheel and what it declares, in an empty environment, start, answer and end in order.

So do the client, whose callers can check types with what it declares, and the command of operators, which explains
itself.

Versions are the newest that a service allows, not those of requirements.txt. A package that is used but not declared is
missing here.
"""

import asyncio
import http.client
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from footfall.collector.v1.collector_service_pb2 import CollectRequest
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1.history_service_pb2 import ListVisitsRequest
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_service_pb2 import ListVisitorsRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from deploy.embedded import ROOT
from tests.arch.house import PROCESSES, own_dependencies
from tests.tools.batches import batch, message
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.wheels import build, install

pytestmark = pytest.mark.long


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all wheels, built from the sources."""
    build(ROOT, folder := tmp_path_factory.mktemp("wheels"))
    return folder


@pytest.fixture
def installed(request: pytest.FixtureRequest, wheels: Path, tmp_path: Path) -> tuple[str, Path]:
    """A service and the scripts folder of an environment with nothing else in it."""
    service: str = request.param
    own = [*own_dependencies(service), service]
    return service, install(tmp_path / "environment", *(wheel(wheels, name) for name in own))


def wheel(wheels: Path, name: str) -> Path:
    return next(wheels.glob(f"footfall_{name}-*.whl"))


def test_code_that_uses_the_client_passes_mypy_in_strict_mode_with_what_it_declares(
    wheels: Path, tmp_path: Path
) -> None:
    pins = f"--constraint={ROOT / 'requirements-dev.txt'}"
    own = [wheel(wheels, name) for name in ("client", "protos")]
    commands = install(tmp_path / "environment", pins, *own, "mypy")
    scripts = [ROOT / "docs" / "examples" / f"{name}.py" for name in ("live_visitors", "contact_center")]
    wrong = tmp_path / "wrong.py"
    wrong.write_text(scripts[0].read_text(encoding="utf-8").replace("change.before", "change.visitor.url"))
    misspelled = tmp_path / "misspelled.py"
    misspelled.write_text(scripts[0].read_text(encoding="utf-8").replace("live_visitors", "all_visitors"))
    check = [str(commands / "mypy"), "--strict", f"--cache-dir={tmp_path / 'cache'}", "--config-file="]
    ended = subprocess.run([*check, *scripts], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    ended = subprocess.run([*check, wrong, misspelled], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'has incompatible type "str"; expected "Visitor | None"' in ended.stdout
    assert '"Footfall" has no attribute "all_visitors"' in ended.stdout
    listed = [str(commands / "python"), "-c", "import footfall, sys; print(footfall.__path__[0])"]
    folder = Path(subprocess.run(listed, check=True, capture_output=True, text=True).stdout.strip())
    shipped = {file.relative_to(folder).as_posix() for file in folder.rglob("*.proto")}
    contract = ROOT / "protos" / "footfall"
    assert shipped == {file.relative_to(contract).as_posix() for file in contract.rglob("*.proto")} != set()


@contextmanager
def running(scripts: Path, service: str, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([scripts / f"footfall-{service}"], env=settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("installed", PROCESSES, indirect=True, ids=str)
async def test_a_service_installs_alone_is_checked_starts_answers_and_ends_in_order(
    installed: tuple[str, Path], redis_database_url: str, mongo_url: str, mongo_database: str
) -> None:
    service, scripts = installed
    [port] = free_ports(1)
    settings = {
        f"{service.upper()}_PORT": str(port),
        "REDIS_URL": redis_database_url,
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": mongo_database,
        "NEVER_ERASE": "true",
        "LC_ALL": "C.UTF-8",
    }
    check = await asyncio.create_subprocess_exec(scripts / f"footfall-{service}", "check", "--stores", env=settings)
    assert await check.wait() == 0

    with running(scripts, service, settings) as process:

        def is_healthy() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{service} has ended with {process.returncode}")
            if service == "gateway":
                return http_status(port, "/healthz") == http.client.OK
            probe = [str(scripts / "python"), "-m", "footfall_servicekit.probe", f"127.0.0.1:{port}"]
            return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == os.EX_OK

        await eventually(is_healthy, timeout=60, every=0.2)
        await answers(service, port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


async def answers(service: str, port: int) -> None:
    """One request, answered from the stores as far as the service has any."""
    if service == "gateway":
        assert http_status(port, "/openapi.json") == http.client.OK
        return
    if service == "relay":  # health, which has been asked, is all that it answers
        return
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        if service == "collector":
            request = CollectRequest(batch=batch(message()))
            assert (await CollectorServiceStub(channel).Collect(request, timeout=10)).stored_count == 1
        elif service == "identity":
            assert not (await IdentityServiceStub(channel).ListVisitors(ListVisitorsRequest(), timeout=10)).visitors
        else:
            assert not (await HistoryServiceStub(channel).ListVisits(ListVisitsRequest(), timeout=10)).visits


@pytest.mark.parametrize("installed", ["ops"], indirect=True)
def test_the_command_of_operators_installs_alone(installed: tuple[str, Path]) -> None:
    _, scripts = installed
    said = subprocess.run([scripts / "footfall-ops", "--help"], check=True, capture_output=True, text=True).stdout
    assert "repartition" in said


def http_status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
