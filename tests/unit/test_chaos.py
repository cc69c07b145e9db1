"""What `make chaos` computes from what it sees."""

from contextlib import nullcontext
from typing import Any

from tests.chaos.clients import Answer, Ledger
from tests.chaos.comparison import Differences
from tests.chaos.faults import Fault
from tests.chaos.report import trial_row
from tests.chaos.trial import Trial


def ledger(*answers: tuple[float, int]) -> Ledger:
    """A ledger with answers at these times, with these statuses."""
    return Ledger(answers=[Answer(at_s, at_s, status, retry_after_s=1) for at_s, status in answers])


def trial(**more: Any) -> Trial:
    """A trial in which all was as promised, but for `more`."""
    fields: dict[str, Any] = {
        "fault": Fault("any", "a fault", lambda _target: nullcontext(())),  # never entered
        "lasted_s": 5.0,
        "ledger": ledger((1.0, 204)),
        "differences": Differences(lost_with_log=2),
        "outage_s": 9.0,
        "not_ready_after_s": 1.0,
        "back_after_s": 2.9,
        "ended": [],
    }
    return Trial(**fields | more)


def test_an_outage_is_the_time_between_two_confirmations() -> None:
    seen = ledger((1.0, 204), (9.0, 204), (10.0, 204), (11.0, 503), (12.0, 503), (14.0, 204), (20.0, 204))
    assert seen.longest_outage_s(10.5, 13.0) == 4.0
    assert seen.longest_outage_s() == 8.0


def test_all_that_is_not_as_promised_is_said() -> None:
    assert trial().shortfalls() == []
    wrong = trial(
        differences=Differences(missing=1_000, wrong_states=1),
        ledger=ledger((1.0, 500)),
        not_ready_after_s=None,
        back_after_s=3.1,
        ended=["identity"],
    )
    assert wrong.shortfalls() == [
        "missing: 1,000",
        "wrong states: 1",
        "undocumented answers to beacons: 1",
        "ended: identity",
        "no confirmation for 9.0 s, but `/readyz` said ready",
        "back after 3.1 s",
    ]
    assert trial(outage_s=2.0, not_ready_after_s=None).shortfalls() == []


def test_a_row_has_the_counts_and_times_of_a_trial() -> None:
    cells = ["`any`: a fault", "5", "0", "0", "0", "0", "0", "2", "9.0", "1.0", "2.9"]
    assert trial_row(trial()).cells() == cells
