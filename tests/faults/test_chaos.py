"""A short form of `make chaos` with the same counts."""

import pytest

from tests.chaos.comparison import Differences
from tests.chaos.run import confirmed_within, run_with_faults
from tests.tools.suite import Suite


@pytest.mark.timeout(240)
async def test_killed_and_frozen_programs_lose_nothing_and_store_nothing_twice(suite: Suite) -> None:
    fault_run = await run_with_faults(suite, seed=22, seconds=6)
    assert fault_run.ledger.acknowledged > 0
    assert fault_run.differences == Differences()
    assert fault_run.injector.log_outages
    assert confirmed_within(fault_run.ledger, fault_run.injector.log_outages) == 0
    assert [answer for answer in fault_run.ledger.answers if not answer.is_documented] == []
