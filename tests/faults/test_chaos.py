"""A short form of `make chaos` with the same counts."""

import pytest

from tests.chaos.comparison import Verdict
from tests.chaos.run import confirmed_within, survive
from tests.tools.suite import Suite


@pytest.mark.timeout(240)
async def test_killed_and_frozen_programs_lose_nothing_and_store_nothing_twice(suite: Suite) -> None:
    survival = await survive(suite, seed=22, seconds=6)
    assert survival.ledger.acknowledged > 0
    assert survival.verdict == Verdict()
    assert survival.storm.log_outages
    assert confirmed_within(survival.ledger, survival.storm.log_outages) == 0
    assert [answer for answer in survival.ledger.answers if not answer.is_fit] == []
