"""`make run` on free ports, in a process group of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded import DEFAULT_PORTS, ROOT, Credentials, is_ready, suite_environment
from tests.tools.eventually import eventually
from tests.tools.ports import free_ports
from tests.tools.suite import Suite

STOP_SECONDS = 15


class Run:
    """One `make run` in a process group of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.ports = dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))
        self.url = f"http://127.0.0.1:{self.ports['GATEWAY_PORT']}"
        self.data_dir = data_dir
        self._output = data_dir.with_suffix(".out")
        settings = {name: str(port) for name, port in self.ports.items()} | {"DATA_DIR": str(data_dir)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("API_")}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", "run"],
                cwd=ROOT,
                env=inherited | settings,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All it has written so far."""
        return self._output.read_text(encoding="utf-8")

    def suite(self) -> Suite:
        """Its programs and clients, with the credentials of its file."""
        user, _, password = (self.data_dir / "credentials").read_text(encoding="utf-8").strip().partition(":")
        return Suite(suite_environment(self.data_dir, self.ports, Credentials(user, password)))

    async def ready(self) -> Suite:
        """Wait until everything serves."""
        await eventually(lambda: is_ready(self.url), timeout=60)
        return self.suite()


@contextmanager
def make_run(data_dir: Path) -> Iterator[Run]:
    run = Run(data_dir)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGTERM)
            run.process.wait(2 * STOP_SECONDS)
