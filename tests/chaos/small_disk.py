"""Small disks for the data of stores, so that a fault can fill them. They need root and Linux."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoSmallDiskError(Exception):
    """No file system can be mounted here. The text says why."""


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    """Mount a file system of this size, in memory, in a new folder. Raises NoSmallDiskError."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True, capture_output=True, text=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise NoSmallDiskError(getattr(error, "stderr", "") or str(error)) from None
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
