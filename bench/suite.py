"""Turns a folder that is removed afterwards into a suite that has seen nothing yet."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tools.suite import Suite, running_suite


@contextmanager
def fresh_suite(**settings: str) -> Iterator[Suite]:
    """A whole suite, ready when it is given; `settings` are environment variables of its programs.

    Raises RuntimeError when it does not start or end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="footfall-bench-") as folder,
        running_suite(Path(folder), settings) as suite,
    ):
        yield suite
