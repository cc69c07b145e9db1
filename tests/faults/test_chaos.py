"""A short form of `make chaos` with the same counts."""

import pytest

from tests.chaos.comparison import Differences
from tests.chaos.faults import FAULTS
from tests.chaos.run import confirmed_within, run_with_faults
from tests.chaos.trial import try_fault
from tests.tools.suite import Suite


@pytest.mark.timeout(240)
async def test_killed_and_frozen_programs_lose_nothing_and_store_nothing_twice(suite: Suite) -> None:
    fault_run = await run_with_faults(suite, seed=22, seconds=4)
    assert fault_run.ledger.acknowledged > 0
    assert fault_run.differences == Differences()
    assert fault_run.injector.log_outages
    assert confirmed_within(fault_run.ledger, fault_run.injector.log_outages) == 0
    assert fault_run.ledger.shortfalls() == []


@pytest.mark.parametrize("name", ["redis-read-only"])
async def test_a_fault_of_the_table_loses_nothing_and_is_over(suite: Suite, name: str) -> None:
    [fault] = [each for each in FAULTS if each.name == name]
    trial = await try_fault(suite, fault, seed=1, seconds=1)
    assert trial.outage_s > 0.5, "the fault has had no effect"
    assert trial.ledger.acknowledged > 0
    assert trial.differences == Differences()
    assert trial.ledger.shortfalls() == []
    assert trial.ended == []
