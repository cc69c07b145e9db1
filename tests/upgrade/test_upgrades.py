"""Services replaced one after the other under load: by themselves, by today's and back; calls of a later version.

The last tagged version is built from its tag. FOOTFALL_UPGRADE_FROM names another state of the repository in its place,
such as a commit.
"""

import asyncio
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2
from footfall.history.v1 import history_service_pb2
from footfall.identity.v1 import identity_service_pb2
from google.protobuf.descriptor import MethodDescriptor

from deploy.embedded import ROOT
from tests.chaos.clients import NO_ANSWER, Ledger
from tests.chaos.comparison import Differences, compare, drain
from tests.chaos.run import DRAIN_TIMEOUT_S, retrying_clients
from tests.tools.eventually import eventually
from tests.tools.later import FIELD
from tests.tools.operators import ops
from tests.tools.suite import Program, Suite, running_suite
from tests.tools.wheels import SCRIPTS, build, install

pytestmark = pytest.mark.long

ORDER: tuple[Program, ...] = ("identity", "history", "collector", "gateway")
"""That of an upgrade, by docs/ops/run.md."""
MIXED_EVENTS = 200
"""How many events two versions take beside each other before the next service is replaced."""
METHODS = [
    (service, method)
    for service, file in {
        "collector": collector_service_pb2,
        "identity": identity_service_pb2,
        "history": history_service_pb2,
    }.items()
    for method in file.DESCRIPTOR.services_by_name[f"{service.title()}Service"].methods
    if not method.server_streaming
]


async def replaced_under_load(
    suite: Suite, order: Sequence[Program], seed: int, choose: Callable[[Program], None] = lambda _: None
) -> Ledger:
    """Replace programs one after the other under load, and see that this costs only retries.

    `choose` is called for a program before it is started again.
    """
    replaced: dict[Program, tuple[float, float]] = {}
    async with retrying_clients(suite, seed) as ledger:
        for program in order:
            taken, began = ledger.acknowledged, time.monotonic()
            await asyncio.to_thread(suite.stop, program)
            choose(program)
            await asyncio.to_thread(suite.start, program)
            await eventually(lambda: asyncio.to_thread(suite.is_ready), timeout=60)
            replaced[program] = began, time.monotonic()
            await eventually(partial(has_taken, ledger, taken + MIXED_EVENTS), timeout=60)
    began, ended = replaced["gateway"]
    without_answer = [answer for answer in ledger.answers if answer.status == NO_ANSWER]
    assert [answer for answer in ledger.answers if not answer.is_documented] == []
    assert all(answer.ended > began and answer.began < ended for answer in without_answer), "only gateways refuse"
    await drain(suite, DRAIN_TIMEOUT_S)
    assert await compare(suite, ledger.reference) == Differences()
    return ledger


def has_taken(ledger: Ledger, events: int) -> bool:
    return ledger.acknowledged >= events


@pytest.mark.timeout(600)
async def test_replacing_each_service_under_load_costs_only_retries(suite: Suite) -> None:
    await replaced_under_load(suite, ORDER, seed=2)


@pytest.fixture
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of the last tagged version, from its wheels."""
    revision = os.environ.get("FOOTFALL_UPGRADE_FROM") or last_tag()
    if not revision:
        pytest.skip("no version has a tag yet, such as v1.0.0; FOOTFALL_UPGRADE_FROM=COMMIT begins with a commit")
    folder = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder / "sources", filter="data")
    return commands(folder / "sources", folder)


def last_tag() -> str:
    """The latest version before this commit, as its tag; empty if there is none."""
    listed = ["git", "tag", "--list", "v*", "--merged=HEAD", "--no-contains=HEAD", "--sort=-version:refname"]
    return next(iter(subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()), "")


@pytest.fixture
def todays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of these sources, from their wheels."""
    return commands(ROOT, tmp_path_factory.mktemp("todays"))


def commands(sources: Path, folder: Path) -> Path:
    build(sources, wheels := folder / "wheels")
    pins = f"--constraint={sources / 'requirements.txt'}"
    return install(folder / "environment", pins, *wheels.glob("*.whl"))


@pytest.mark.timeout(1800)
async def test_the_last_version_is_replaced_by_todays_and_back_on_the_same_stores(
    earlier: Path, todays: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chosen = tmp_path_factory.mktemp("chosen")

    def choose(scripts: Path, program: Program) -> None:
        (command := chosen / f"footfall-{program}").unlink(missing_ok=True)
        command.symlink_to(scripts / command.name)

    for program in ORDER:
        choose(earlier, program)
    path = os.pathsep.join([str(chosen), str(SCRIPTS), os.environ["PATH"]])
    with running_suite(tmp_path_factory.mktemp("upgraded"), {"PATH": path}) as suite:
        assert commands_of(suite) == {earlier}
        before = await replaced_under_load(suite, ORDER, seed=18, choose=partial(choose, todays))
        assert commands_of(suite) == {todays}
        assert (await ops(suite, "verify"))[:2] == (0, [])
        await replaced_under_load(suite, ORDER[::-1], seed=19, choose=partial(choose, earlier))
        assert commands_of(suite) == {earlier}
        assert await compare(suite, before.reference) == Differences()
        assert (await ops(suite, "verify"))[:2] == (0, [])


def commands_of(suite: Suite) -> set[Path]:
    """The folders of the commands that the services run from."""
    lines = [Path(f"/proc/{suite.pid(program)}/cmdline").read_bytes() for program in ORDER]
    return {Path(line.split(b"\0")[0].decode()).parent for line in lines}


@pytest.mark.parametrize(("service", "method"), METHODS, ids=lambda value: getattr(value, "name", value))
async def test_a_call_with_fields_of_a_later_version_is_answered_the_same(
    suite: Suite, service: str, method: MethodDescriptor
) -> None:
    async with suite.channel(service) as channel:
        call: Any = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        assert await outcome(call, FIELD) == await outcome(call, b"")


async def outcome(call: Any, request: bytes) -> grpc.StatusCode:
    try:
        await call(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
