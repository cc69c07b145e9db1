"""A change is told with the timelines around it, however much later the timeline is looked at."""

import random

import pytest
from footfall_identity.changes import Change, Step, steps
from footfall_timeline import Assurance, Kind, Timeline, Transition, encode, merge

VISITS = ["visit-1", "visit-2"]


def random_transition(chance: random.Random) -> Transition:
    kind = chance.choice(list(Kind))
    # Few ids, so that entries replace each other too.
    event_id = f"event-{chance.randint(1, 8)}"
    return Transition(chance.randint(1, 20), event_id, kind, Assurance.NONE, chance.choice("abc"))


def as_fields(visit_id: str, before: Timeline, after: Timeline) -> dict[bytes, bytes]:
    """What merge.lua writes."""
    old = {t.event_id: t for t in before}
    fields = {"visit": visit_id}
    for t in after:
        if old.get(t.event_id) != t:
            fields[t.event_id] = encode(t)
            if t.event_id in old:
                fields[f"-{t.event_id}"] = encode(old[t.event_id])
    return {name.encode(): value.encode() for name, value in fields.items()}


@pytest.mark.parametrize("seed", range(50))
def test_each_change_has_the_timeline_before_and_after_it(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    timelines: dict[str, Timeline] = dict.fromkeys(VISITS, ())
    expected: list[Step] = []
    history = [dict(timelines)]
    for number in range(30):
        visit_id = chance.choice(VISITS)
        before = timelines[visit_id]
        after = merge(before, [random_transition(chance) for _ in range(chance.randint(1, 3))])
        if after != before:
            change = Change.read(f"{number}-0", as_fields(visit_id, before, after))
            expected.append(Step(change, before, after))
            timelines[visit_id] = after
            history.append(dict(timelines))
    begun = chance.randint(0, len(expected))
    seen = chance.randint(begun, len(expected))
    changes = [step.change for step in expected[begun:]]
    assert list(steps(changes, history[seen])) == expected[begun:]


def test_what_an_erased_marker_replaced_is_not_told() -> None:
    sign_in = Transition(1, "event-1", Kind.SIGN_IN, Assurance.NONE, "ann")
    marker = sign_in._replace(identity="")
    fields = {b"visit": b"visit-1", b"event-1": encode(marker).encode()}
    [step] = steps([Change.read("1-0", fields)], {"visit-1": (marker,)})
    assert (step.before, step.after) == ((), (marker,))
