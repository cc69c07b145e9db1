"""Many contacts are written while events arrive, and identity is killed: all links are right in the end."""

import asyncio
from pathlib import Path

import pytest

from bench.contact_writes import measure
from tests.tools.suite import running_suite


@pytest.mark.long
@pytest.mark.timeout(900)
def test_links_are_right_after_many_contacts_were_written_under_load_and_kills(tmp_path: Path) -> None:
    # The machine may be busy with other tests.
    with running_suite(tmp_path, {"IDENTITY_MONGO_TIMEOUT_MS": "20000"}) as suite:
        phases = asyncio.run(measure(suite, 1_000))
    assert all(phase.delays_ms for phase in phases)
