"""Turns the store programs of supervisord.conf into running servers on free ports, for as long as a test needs them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded import program_command, valkey_server
from tests.tools.suite import free_ports

START_SECONDS = 20.0
STOP_SECONDS = 10.0


@contextmanager
def running_valkey(folder: Path, *options: str) -> Iterator[str]:
    """A Valkey server with its data in `folder`; gives its URL. `options` are added to its command line."""
    with _running("valkey", folder, *options) as port:
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def running_mongo(folder: Path) -> Iterator[str]:
    """A MongoDB-wire server with its data in `folder`; gives its URL."""
    with _running("mongo", folder) as port:
        yield f"mongodb://127.0.0.1:{port}"


@contextmanager
def _running(program: str, folder: Path, *options: str) -> Iterator[int]:
    [port] = free_ports(1)
    (folder / program).mkdir(exist_ok=True)
    command = program_command(
        program,
        {
            "DATA_DIR": str(folder),
            "REDIS_PORT": str(port),
            "MONGO_PORT": str(port),
            "VALKEY_SERVER": str(valkey_server()),
        },
    )
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = folder / f"{program}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=output, env=os.environ | {"PATH": scripts}
        )
    try:
        _wait_for_port(port, process, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}:\n{log.read_text()[-2000:]}")
