"""Turns supervisord.conf into a suite on ports of its own, whose programs can be killed, stopped and started by name.

`make run` is deploy/run.py. In the environment of the tests FOOTFALL_CLUSTER=1 gives every suite a Valkey cluster,
FOOTFALL_MUTUAL_TLS=1 lets it serve HTTPS, and gRPC by mutual TLS alone.
"""

import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args
from xmlrpc.client import ServerProxy

import grpc
import httpx
from cryptography import x509
from supervisor.xmlrpc import SupervisorTransport

from deploy.certificates import Authority
from deploy.embedded import (
    DEFAULT_PORTS,
    Credentials,
    gateway_url,
    is_ready,
    kept_keys,
    prepare,
    start_supervisord,
    suite_environment,
)
from tests.tools.ports import free_ports
from tests.tools.stores import cluster_member, form_cluster, running_nodes

Store = Literal["valkey", "mongo"]
Program = Literal["valkey", "mongo", "collector", "identity", "history", "gateway"]
PROGRAMS: tuple[Program, ...] = get_args(Program)

ANY_METRICS_PORTS = {f"{name}_METRICS_PORT": "0" for name in ("COLLECTOR", "IDENTITY", "HISTORY")}

ON_CLUSTER = bool(os.environ.get("FOOTFALL_CLUSTER"))
MUTUAL_TLS = bool(os.environ.get("FOOTFALL_MUTUAL_TLS"))

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of `http://`. httpx would read all certificates of the machine for each client, which takes long."""

START_SECONDS = 60.0
STOP_SECONDS = 60.0


class Suite:
    """A running suite, as its clients see it, and its programs, as an operator sees them."""

    def __init__(self, environment: Mapping[str, str], authority: Authority | None = None) -> None:
        self.environment = environment
        self.data_dir = Path(environment["DATA_DIR"])
        self.url = gateway_url(environment)
        self.targets = {name: environment[f"{name.upper()}_TARGET"] for name in ("collector", "identity", "history")}
        self.redis_url = environment["REDIS_URL"]
        self.mongo_url = environment["MONGO_URL"]
        self.credentials = Credentials(environment["API_USER"], environment["API_PASSWORD"])
        self.authority = authority
        """Of all its certificates; None without TLS."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What clients of the gateway connect with; None without TLS."""
        return ssl.create_default_context(cafile=self.authority.file) if self.authority else None

    def http(self, **more: Any) -> httpx.AsyncClient:
        """A client of the gateway that may do everything, unless `more` says otherwise. Its user closes it."""
        return httpx.AsyncClient(**self._http_options | more)

    def blocking_http(self, **more: Any) -> httpx.Client:
        """The same for code that is not asynchronous."""
        return httpx.Client(**self._http_options | more)

    @property
    def _http_options(self) -> dict[str, Any]:
        return {"base_url": self.url, "auth": self.credentials, "timeout": 60, "verify": self.tls or NO_TLS}

    def metrics_urls(self) -> list[str]:
        """Where every program of the suite's own shows its metrics."""
        logs = [(self.data_dir / "log" / f"{name}.log").read_text() for name in self.targets]
        ports = [re.findall(r'"metrics_port": (\d+)', log)[-1] for log in logs]
        return [f"{self.url}/metrics", *(f"http://127.0.0.1:{port}/metrics" for port in ports)]

    def channel(self, service: str) -> grpc.aio.Channel:
        """A plain gRPC channel to a service: no retries, no deadlines. To be closed by its user."""
        if self.authority is None:
            return grpc.aio.insecure_channel(self.targets[service])
        return grpc.aio.secure_channel(self.targets[service], self.channel_credentials("gateway"))

    def blocking_channel(self, service: str) -> grpc.Channel:
        """The same for code that is not asynchronous."""
        if self.authority is None:
            return grpc.insecure_channel(self.targets[service])
        return grpc.secure_channel(self.targets[service], self.channel_credentials("gateway"))

    def channel_credentials(self, role: str) -> grpc.ChannelCredentials:
        """What a client of that role shows to the services of a suite with TLS."""
        authority = self.authority
        assert authority
        certificate, key = authority.issue(f"client-{role}", [x509.DNSName(role)])
        return grpc.ssl_channel_credentials(authority.file.read_bytes(), key.read_bytes(), certificate.read_bytes())

    def is_ready(self) -> bool:
        """Whether the gateway says that everything serves; waits two seconds for the answer at most."""
        return is_ready(self.url)

    def pid(self, program: Program) -> int | None:
        """The process id of a program; None while it does not run."""
        pid: int = self._call("getProcessInfo", _full_name(program))["pid"]
        return pid or None

    def supervisor_pid(self) -> int:
        """The process id of supervisord."""
        pid: int = self._call("getPID")
        return pid

    def kill(self, program: Program, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a running program a signal, SIGKILL by default. supervisord starts it again when it dies of it.

        Raises:
            ProcessLookupError: it does not run.

        """
        pid = self.pid(program)
        if pid is None:
            raise ProcessLookupError(f"{program} does not run")
        os.kill(pid, number)

    @contextmanager
    def frozen(self, program: Program) -> Iterator[None]:
        """Hold a running program still: it keeps its connections, and answers nothing.

        Raises:
            ProcessLookupError: it does not run.

        """
        self.kill(program, signal.SIGSTOP)
        pid = self.pid(program)
        try:
            while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
                time.sleep(0.001)
            yield
        finally:
            self.kill(program, signal.SIGCONT)

    def stop(self, program: Program) -> None:
        """Stop a program in order and keep it stopped; returns when it has ended."""
        self._call("stopProcess", _full_name(program))

    def start(self, program: Program, *, waits: bool = True) -> None:
        """Start a program that was stopped; returns when it has run for a second, ready or not, if it waits."""
        self._call("startProcess", _full_name(program), waits)

    def snapshot(self, store: Store) -> Path:
        """Copy the data of a running store, as a power failure at this moment would leave them; see `restore`."""
        copy = Path(tempfile.mkdtemp(prefix=f"{store}-", dir=self.data_dir))
        with self.frozen(store):
            shutil.copytree(self.data_dir / store, copy, dirs_exist_ok=True)
        return copy

    def restore(self, store: Store, snapshot: Path) -> None:
        """Replace the data of a store by an earlier snapshot. The other programs run on."""
        self.stop(store)
        shutil.rmtree(self.data_dir / store)
        shutil.copytree(snapshot, self.data_dir / store)
        self.start(store)

    def _call(self, method: str, *arguments: str | bool) -> Any:
        transport = SupervisorTransport(
            "owner", "the-mode-of-the-socket-is-the-lock", f"unix://{self.data_dir / 'sock'}"
        )
        try:
            return getattr(ServerProxy("http://127.0.0.1", transport=transport).supervisor, method)(*arguments)
        finally:
            transport.close()


def _full_name(program: Program) -> str:
    return f"{'stores' if program in ('valkey', 'mongo') else 'suite'}:{program}"


def mutual_tls(authority: Authority) -> dict[str, str]:
    """The settings of a suite on HTTPS and mutual TLS, with new certificates; a program's role is its name."""
    settings = {"GRPC_TLS_CA_FILE": str(authority.file), "GRPC_TLS_CLIENT_CA_FILE": str(authority.file)}
    for service in ("collector", "identity", "history", "gateway"):
        certificate, key = map(str, authority.issue(service))
        prefix = f"{service.upper()}_GRPC_TLS"
        settings |= {f"{prefix}_CERT_FILE": certificate, f"{prefix}_KEY_FILE": key}
    return settings | {"GATEWAY_TLS_CERT_FILE": certificate, "GATEWAY_TLS_KEY_FILE": key}


@contextmanager
def running_suite(
    data_dir: Path,
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    on_cluster: bool = ON_CLUSTER,
    is_mutual_tls: bool = MUTUAL_TLS,
) -> Iterator[Suite]:
    """A whole suite with its data in `data_dir`, on free ports; ready when it is given, ended afterwards.

    `settings` are environment variables of the programs, beside those of this process. On a cluster the program
    `valkey` is one node of three.

    Raises:
        RuntimeError: it did not get ready, or did not end in time; the text ends with what it wrote last.

    """
    prepare(data_dir)
    ports = dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))
    environment = suite_environment(data_dir, ports, Credentials("tester", secrets.token_urlsafe(18)))
    environment |= kept_keys(data_dir) | ANY_METRICS_PORTS
    authority = Authority(data_dir / "tls") if is_mutual_tls else None
    if authority:
        environment |= mutual_tls(authority)
    if on_cluster:
        environment |= {"VALKEY_SERVER": str(cluster_member(data_dir)), "PARTITIONS": "16"}
    with running_nodes(data_dir, 2 if on_cluster else 0) as other_nodes:
        suite = Suite({**environment, **settings}, authority)
        with (data_dir / "log" / "output.log").open("ab") as output:
            process = start_supervisord(suite.environment, output)
        try:
            if other_nodes:
                form_cluster([suite.redis_url, *other_nodes])
            deadline = time.monotonic() + START_SECONDS
            while not is_ready(suite.url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"The suite does not get ready:\n{_last_output(data_dir)}")
                time.sleep(0.05)
            yield suite
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"The suite does not end:\n{_last_output(data_dir)}") from None


def _last_output(data_dir: Path) -> str:
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted((data_dir / "log").glob("*.log"))
    )
