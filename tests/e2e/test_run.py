"""`make run`, as a developer meets it: it says where to look, nothing stays dead, nothing is lost, nothing is left."""

import os
import signal
import stat
import subprocess
import time
import uuid
from pathlib import Path

import httpx
import pytest

from deploy.embedded import ROOT, is_ready
from tests.arch.house import SERVICES, secrets_of
from tests.tools.eventually import eventually
from tests.tools.make_run import STOP_SECONDS, Run, make_run
from tests.tools.suite import PROGRAMS, Suite
from tests.tools.visits import event, now_ms


def open_to_others(folder: Path) -> list[Path]:
    """What somebody else than its owner can read, write or look into."""
    return [path for path in (folder, *folder.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o077]


def all_pids(suite: Suite) -> list[int]:
    pids = [suite.pid(program) for program in PROGRAMS]
    assert None not in pids
    return [suite.supervisor_pid(), *(pid for pid in pids if pid)]


def assert_ended(run: Run, pids: list[int], asked_at: float) -> None:
    run.process.wait(STOP_SECONDS)
    assert time.monotonic() - asked_at < STOP_SECONDS
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    for port in run.ports.values():
        assert not is_ready(f"http://127.0.0.1:{port}")


async def a_sign_in_at_the_demo_shop_is_linked(http: httpx.AsyncClient) -> None:
    """`make run` has put the shop's customers into the directory."""
    await eventually(lambda: is_contact(http, "demo-dana"))
    sent = event("SignIn", str(uuid.uuid4()), now_ms(), "dana@example.com", data={"email": "dana@example.com"})
    assert (await http.post("/beacon", json=sent)).status_code == 204

    async def is_linked() -> bool:
        visitor = (await http.get(f"/api/v1/visits/{sent['visitID']}/visitor")).json()
        return bool(visitor["contactId"] == "demo-dana")

    await eventually(is_linked)


async def is_contact(http: httpx.AsyncClient, contact_id: str) -> bool:
    return (await http.get(f"/api/v1/contacts/{contact_id}")).status_code == 200


@pytest.mark.timeout(300)
async def test_a_run_says_where_to_look_survives_a_kill_stops_clean_and_finds_its_data_again(tmp_path: Path) -> None:
    visit_id = str(uuid.uuid4())
    data_dir = tmp_path / "data"

    with make_run(data_dir) as first:
        suite = await first.ready()
        credentials = ":".join(suite.credentials)
        for shown in (suite.url, "/demo", "/docs", str(data_dir / "credentials"), credentials, *suite.targets.values()):
            assert shown in first.output
        await eventually(lambda: f"Footfall is ready at {suite.url}" in first.output)

        killed = [suite.pid(program) for program in PROGRAMS]
        for program in PROGRAMS:
            suite.kill(program)
        await eventually(lambda: not {suite.pid(program) for program in PROGRAMS} & {None, *killed}, timeout=30)
        await first.ready()

        async with suite.http() as http:
            answer = await http.post("/beacon", json=event("PageEntered", visit_id, now_ms()))
            assert answer.status_code == 204
            await a_sign_in_at_the_demo_shop_is_linked(http)
        assert open_to_others(data_dir) == []
        pids, asked_at = all_pids(suite), time.monotonic()
        first.process.send_signal(signal.SIGTERM)
        assert_ended(first, pids, asked_at)

    with make_run(data_dir) as second:
        suite = await second.ready()
        assert suite.credentials.password not in second.output

        async def found() -> None:
            answer = await http.get(f"/server/data/visits/{visit_id}/events")
            assert answer.status_code == 200
            assert [item["visitID"] for item in answer.json()] == [visit_id]

        async with suite.http() as http:
            await eventually(found)
        pids, asked_at = all_pids(suite), time.monotonic()
        os.killpg(second.process.pid, signal.SIGINT)  # as Ctrl-C does
        assert_ended(second, pids, asked_at)


def test_a_program_is_told_no_secret_but_its_own(suite: Suite) -> None:
    own = {suite.pid(program): secrets_of(program) for program in PROGRAMS if program in SERVICES}
    every = set().union(*own.values())
    assert every <= set(suite.environment), "a suite of tests is told every secret there is"
    supervisor = suite.supervisor_pid()
    programs = [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    assert len(programs) == len(PROGRAMS) + 1  # and what listens to them
    for pid in programs:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        found = {name for name in every if suite.environment[name].encode() in environ}
        assert found == own.get(pid, set()), Path(f"/proc/{pid}/cmdline").read_text()


def test_a_second_run_on_the_same_ports_is_refused_with_their_names(suite: Suite) -> None:
    taken = suite.targets["history"].rpartition(":")[2]
    refused = subprocess.run(
        ["make", "run"],
        cwd=ROOT,
        env=os.environ | {"HISTORY_PORT": taken, "DATA_DIR": str(suite.data_dir)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode != 0
    assert f"HISTORY_PORT={taken}: Address already in use" in refused.stderr
