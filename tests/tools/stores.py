"""Turns the store programs of supervisord.conf into running servers on free ports, for as long as a test needs them."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from deploy.embedded import ROOT, SUPERVISORD_CONF, valkey_server
from tests.tools.ports import free_ports

START_SECONDS = 60
STOP_SECONDS = 30.0
SLOTS = 16_384


@contextmanager
def running_valkey(folder: Path, *options: str) -> Iterator[str]:
    """A Valkey server with its data in `folder`; gives its URL. `options` are added to its command line."""
    with _running("valkey", folder, *options) as port:
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def running_cluster(folder: Path) -> Iterator[list[str]]:
    """A Valkey cluster of three primaries; gives their URLs."""
    with running_nodes(folder, 3) as urls:
        form_cluster(urls)
        yield urls


@contextmanager
def running_nodes(folder: Path, count: int) -> Iterator[list[str]]:
    """Valkey servers that have yet to form a cluster; gives their URLs."""
    with ExitStack() as nodes:
        urls = []
        for number in range(count):
            own = folder / f"node{number}"
            own.mkdir()
            urls.append(nodes.enter_context(running_valkey(own, *_member_options())))
        yield urls


def cluster_member(folder: Path) -> Path:
    """A program to be run in the place of valkey-server: one that can become a member of a cluster."""
    program = folder / "cluster-member"
    program.write_text(f'#!/bin/sh\nexec "{valkey_server()}" "$@" {" ".join(_member_options())}\n', encoding="utf-8")
    program.chmod(0o700)
    return program


def _member_options() -> list[str]:
    # By default the members talk on ports 10,000 above, which need not exist, and a replica waits 5 s for company.
    return f"--cluster-enabled yes --cluster-port {free_ports(1)[0]} --repl-diskless-sync-delay 0".split()


def form_cluster(urls: Sequence[str]) -> None:
    """Let empty nodes know each other and share the slots evenly; returns when all of them serve."""
    deadline = time.monotonic() + START_SECONDS
    with ExitStack() as closing:
        nodes: list[Any] = [closing.enter_context(Redis.from_url(url, decode_responses=True)) for url in urls]
        while not _answers(nodes[0]):
            _pause(deadline)
        bounds = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
        for node, start, end in zip(nodes, bounds, bounds[1:], strict=False):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
            _meet(node, nodes[0])
        while not all(_knows_all_slots(node) for node in nodes):
            _pause(deadline)


def replicate(url: str, spare: str) -> None:
    """Make an empty node the replica of a member of a cluster; returns when it is up to date."""
    deadline = time.monotonic() + START_SECONDS
    with Redis.from_url(url, decode_responses=True) as primary, Redis.from_url(spare, decode_responses=True) as replica:
        _meet(replica, primary)
        while not _knows_all_slots(replica):
            _pause(deadline)
        replica.execute_command("CLUSTER", "REPLICATE", primary.execute_command("CLUSTER", "MYID"))
        while not primary.execute_command("WAIT", 1, 100):
            _pause(deadline)


def _meet(node: Any, member: Any) -> None:
    port = member.connection_pool.connection_kwargs["port"]
    node.execute_command("CLUSTER", "MEET", "127.0.0.1", port, member.config_get("cluster-port")["cluster-port"])


def _answers(node: Any) -> bool:
    try:
        return bool(node.ping())
    except RedisConnectionError:
        return False


def _knows_all_slots(node: Any) -> bool:
    info = node.execute_command("CLUSTER", "INFO")
    return f"cluster_slots_ok:{SLOTS}\r" in info and "cluster_state:ok" in info


def _pause(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError("the cluster does not form")
    time.sleep(0.02)


@contextmanager
def running_mongo(folder: Path, *options: str) -> Iterator[str]:
    """A MongoDB-wire server with its data in `folder`; gives its URL. `options` are added to its command line."""
    with _running("mongo", folder, *options) as port:
        yield f"mongodb://127.0.0.1:{port}"


def program_command(program: str, environment: Mapping[str, str]) -> list[str]:
    """The command of one program of supervisord.conf, with its `ENV_` values from `environment`."""
    conf = RawConfigParser()
    conf.read(SUPERVISORD_CONF)
    values = {"here": str(ROOT)} | {f"ENV_{name}": value for name, value in environment.items()}
    return shlex.split(conf[f"program:{program}"]["command"] % values)


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
