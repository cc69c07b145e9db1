"""Turns a file of contacts into a run of `footfall-contacts import`, and that into what it said."""

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How the command ended, with its standard output and its standard error."""

    code: int
    said: str
    complained: str


async def imported(target: str, *arguments: str, given: bytes = b"", **settings: object) -> Ended:
    """Run the command beside the identity at a target; `given` is its standard input."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "footfall-contacts"),
        "import",
        *arguments,
        env={"IDENTITY_TARGET": target, "LC_ALL": "C.UTF-8"} | {name: str(value) for name, value in settings.items()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(given)
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(), complained.decode())
