"""The command of operators, beside a suite."""

import asyncio
import os
import sys

from tests.tools.suite import Suite


async def ops(suite: Suite, *arguments: object) -> tuple[int, list[str], str]:
    """The exit code of `footfall-ops`, the lines on its standard output, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "footfall_ops", *map(str, arguments)),
        env=os.environ | suite.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    print(arguments, errors.decode())  # noqa: T201 - a measurement, shown by `pytest -s`
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines(), errors.decode()
