"""A change is told with who the visitor was around it, however much later the timeline is looked at."""

import random
import time

import pytest
from footfall_identity.changes import Change, Step, steps
from footfall_timeline import Assurance, Fold, Kind, Stamp, Timeline, Transition, encode, merge

VISITS = [f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2)]


def random_transition(chance: random.Random) -> Transition:
    kind = chance.choice(list(Kind))
    # Few ids, so that entries replace each other too. Without an identity somebody has been erased.
    event_id = f"event-{chance.randint(1, 8)}"
    identity = "" if kind is Kind.SIGN_OUT else chance.choice(["a", "b", "c", ""])
    return Transition(chance.randint(1, 20), event_id, kind, chance.choice(list(Assurance)), identity)


def stamp_of(visit_id: str, timeline: Timeline) -> Stamp:
    return Fold(visit_id, timeline).stamp


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


@pytest.mark.parametrize("seed", range(200))
def test_each_change_has_the_visitor_before_and_after_it(seed: int) -> None:
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
            expected.append(Step(change, stamp_of(visit_id, before), stamp_of(visit_id, after)))
            timelines[visit_id] = after
            history.append(dict(timelines))
    begun = chance.randint(0, len(expected))
    seen = chance.randint(begun, len(expected))
    changes = [step.change for step in expected[begun:]]
    found = {step.change.position: step for step in steps(changes, history[seen])}
    assert [found[change.position] for change in changes] == expected[begun:]
    assert len(found) == len(changes)


def test_what_an_erased_marker_replaced_is_not_told() -> None:
    sign_in = Transition(1, "event-1", Kind.SIGN_IN, Assurance.NONE, "ann")
    marker = sign_in._replace(identity="")
    fields = {b"visit": VISITS[0].encode(), b"event-1": encode(marker).encode()}
    [step] = steps([Change.read("1-0", fields)], {VISITS[0]: (marker,)})
    assert step.before == step.after == stamp_of(VISITS[0], ())


def cpu_of_steps(count: int, *, is_seen: bool) -> float:
    """Seconds a change of one visit with so many, by people who sign in one after the other."""
    chance = random.Random(count)  # noqa: S311
    entries = [
        Transition(chance.randrange(10**9), f"event-{n}", Kind.SIGN_IN, Assurance.NONE, chance.choice("abc"))
        for n in range(count)
    ]
    changes = [Change(f"{n}-0", VISITS[0], ((entry.event_id, entry, None),)) for n, entry in enumerate(entries)]
    started = time.process_time()
    assert sum(1 for _ in steps(changes, {VISITS[0]: merge(entries)} if is_seen else {})) == count
    return (time.process_time() - started) / count


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_change_costs_the_same_however_many_its_visit_has_had(*, is_seen: bool) -> None:
    few = min(cpu_of_steps(200, is_seen=is_seen) for _ in range(5))
    assert cpu_of_steps(10_000, is_seen=is_seen) < 4 * few
