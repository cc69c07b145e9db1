"""The example clients of a contact center (docs/examples), as processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography import x509

from deploy.embedded import ROOT
from tests.tools.suite import Suite

_EXAMPLES = ROOT / "docs" / "examples"
_BIN = ROOT / ".venv" / "bin"  # deploy/install-node puts Node there, where the machine has none
NODE = shutil.which("node", path=f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}") or "node"
CLIENTS: Mapping[str, list[str]] = MappingProxyType(
    {
        "python": [sys.executable, str(_EXAMPLES / "contact_center.py")],
        "node": [NODE, str(_EXAMPLES / "node" / "contact_center.js")],
    }
)
"""The command of each client."""


def _environment(suite: Suite) -> dict[str, str]:
    """What a client reads; with mutual TLS, for the role `contact-center`."""
    targets = {f"{name.upper()}_TARGET": suite.targets[name] for name in ("collector", "identity", "history")}
    found = {**os.environ, **targets, "NODE_PATH": str(ROOT / ".venv" / "node" / "node_modules")}
    if suite.authority:
        certificate, key = suite.authority.issue("client-contact-center", [x509.DNSName("contact-center")])
        found |= {"CA_FILE": str(suite.authority.file), "CERT_FILE": str(certificate), "KEY_FILE": str(key)}
    return found


def _objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def answers(client: str, suite: Suite, *arguments: str) -> list[dict[str, Any]]:
    """What a client prints. Fails when it fails."""
    ended = subprocess.run(
        [*CLIENTS[client], *arguments], env=_environment(suite), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return _objects(ended.stdout)


class Watched:
    """What a client that watches visitors has printed so far."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def shows(self, visit_id: str) -> list[dict[str, Any]]:
        """What it has printed about a visit, in order. A change may come again after the list."""
        whole_lines = self._output.read_text(encoding="utf-8").rpartition("\n")[0]
        return [line for line in _objects(whole_lines) if line.get("visit") == visit_id]


@contextmanager
def watching(client: str, suite: Suite, folder: Path, *contacts: str) -> Iterator[Watched]:
    """A client that watches all visitors, or those who are one of the contacts, until the end of the block."""
    output = folder / f"{client}.jsonl"
    with output.open("wb") as file, (folder / f"{client}.log").open("wb") as errors:
        command = [*CLIENTS[client], "watch", *contacts]
        process = subprocess.Popen(command, env=_environment(suite), stdout=file, stderr=errors)
        try:
            yield Watched(output)
            assert process.poll() is None, (folder / f"{client}.log").read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()
