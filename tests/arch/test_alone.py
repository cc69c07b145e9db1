"""Each service stands alone: its wheel and what it declares, in an empty environment, start, answer and end in order.

So do the client, whose callers can check types with what it declares, and the command of operators, which explains
itself.

Versions come from requirements.txt; a package used but not declared is missing here.
"""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.embedded import ROOT
from tests.arch.house import PROCESSES, PROGRAMS, own_dependencies
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports

pytestmark = pytest.mark.long

SCRIPTS = Path(sys.executable).parent
DISTRIBUTIONS = ["protos", "timeline", "servicekit", "eventlog", "client"]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all wheels, built from the sources."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [*(ROOT / name for name in DISTRIBUTIONS), *PROGRAMS.values()]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, folder, *sources], check=True)
    return folder


@pytest.fixture
def installed(request: pytest.FixtureRequest, wheels: Path, tmp_path: Path) -> tuple[str, Path]:
    """A service and the scripts folder of an environment with nothing else in it."""
    service: str = request.param
    own = [*own_dependencies(service), service]
    environment = tmp_path / "environment"
    install(environment, wheels, own, "requirements.txt")
    uv = str(SCRIPTS / "uv")
    freeze = [uv, "pip", "freeze", "--quiet", f"--python={environment}"]
    versions = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.splitlines()
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert [line for line in versions if not line.startswith("footfall-") and f"{line} " not in pinned] == []
    return service, environment / "bin"


def install(environment: Path, wheels: Path, own: list[str], constraints: str, *others: str) -> None:
    """Make an environment with distributions of this house, what they declare, and others."""
    files = [next(wheels.glob(f"footfall_{name}-*.whl")) for name in own]
    uv = str(SCRIPTS / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    command = [uv, "pip", "install", "--quiet", f"--python={environment}", f"--constraint={constraints}"]
    subprocess.run([*command, *files, *others], cwd=ROOT, check=True)


def test_code_that_uses_the_client_passes_mypy_in_strict_mode_with_what_it_declares(
    wheels: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    install(environment, wheels, ["client", "protos"], "requirements-dev.txt", "mypy")
    scripts = [ROOT / "docs" / "examples" / f"{name}.py" for name in ("live_visitors", "contact_center")]
    wrong = tmp_path / "wrong.py"
    wrong.write_text(scripts[0].read_text(encoding="utf-8").replace("change.before", "change.visitor.url"))
    misspelled = tmp_path / "misspelled.py"
    misspelled.write_text(scripts[0].read_text(encoding="utf-8").replace("live_visitors", "all_visitors"))
    check = [str(environment / "bin" / "mypy"), "--strict", f"--cache-dir={tmp_path / 'cache'}", "--config-file="]
    ended = subprocess.run([*check, *scripts], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    ended = subprocess.run([*check, wrong, misspelled], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'has incompatible type "str"; expected "Visitor | None"' in ended.stdout
    assert '"Footfall" has no attribute "all_visitors"' in ended.stdout
    listed = [str(environment / "bin" / "python"), "-c", "import footfall, sys; print(footfall.__path__[0])"]
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
async def test_a_service_installs_alone_starts_answers_and_ends_in_order(
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

    with running(scripts, service, settings) as process:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{service} has ended with {process.returncode}")
            if service == "gateway":
                return http_status(port, "/healthz") == http.client.OK
            probe = [str(scripts / "python"), "-m", "footfall_servicekit.probe", f"127.0.0.1:{port}"]
            return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == os.EX_OK

        await eventually(answers, timeout=60, every=0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


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
