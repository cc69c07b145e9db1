"""Which events of a batch identity must see: what it keeps of a visit is the same as if it had seen all."""

import random

import pytest
from footfall_collector.resolver import telling
from footfall_identity.visit_record import touches
from footfall_timeline import transition_of

from tests.tools.identity import admitted, new_id


@pytest.mark.parametrize("seed", range(20))
def test_a_visit_is_touched_as_by_all_its_events(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    visits = [new_id() for _ in range(3)]
    events = [
        admitted(
            chance.choice(["PageEntered", "PageEntered", "PageEntered", "SignIn"]),
            chance.choice(visits),
            chance.randint(1, 9),
            "ann",
            site=chance.choice(["a", "b"]),
            global_visit_id=chance.choice(["", "g", "h"]),
            url=chance.choice(["", "u", "v"]),
        )
        for _ in range(chance.randint(1, 60))
    ]
    seen, told = (touches((event, transition_of(event)) for event in each) for each in (events, telling(events)))
    for touch in (*seen, *told):
        touch.transitions.sort()
    assert sorted(told, key=repr) == sorted(seen, key=repr)


def test_of_a_long_beacon_the_first_and_the_last_are_told_and_what_identifies() -> None:
    visit_id = new_id()
    events = [admitted("SignIn" if at == 5 else "PageEntered", visit_id, at, "ann") for at in range(1, 11)]
    assert sorted(event.event_time_ms for event in telling(events)) == [1, 5, 10]
