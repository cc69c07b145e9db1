"""Changes with the attribution before and after them, however much later the timeline is read."""

import random

import pytest
from footfall_identity.changes import TimelineChange, VisitorChange, visitor_changes
from footfall_identity.visit_record import VisitRecord
from footfall_timeline import (
    Assurance,
    Attribution,
    Kind,
    Step,
    Timeline,
    Transition,
    VisitState,
    encode,
    merge,
    visit_state,
)

VISITS = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"]


def random_transition(chance: random.Random) -> Transition:
    kind = chance.choice(list(Kind))
    # Few ids, so that entries also replace each other.
    event_id = f"event-{chance.randint(1, 8)}"
    return Transition(chance.randint(1, 20), event_id, kind, chance.choice(list(Assurance)), chance.choice("abc"))


def as_fields(visit_id: str, rev: int, before: Timeline, after: Timeline) -> dict[bytes, bytes]:
    """Return the fields that merge_visits.lua writes."""
    old = {(t.event_id, t.assurance): t for t in before}
    new = {(t.event_id, t.assurance): t for t in after}
    fields = {"visit": visit_id, "rev": str(rev)}
    for key in old.keys() | new.keys():
        name = f"{key[0]}+{key[1]}"
        if old.get(key) != new.get(key):
            fields |= {name: encode(new[key])} if key in new else {}
            fields |= {f"-{name}": encode(old[key])} if key in old else {}
    return {name.encode(): value.encode() for name, value in fields.items()}


def record(visit_id: str, rev: int, timeline: Timeline) -> VisitRecord:
    return VisitRecord(visit_id, "default", "", 1, 1, "", "", rev, False, timeline)


def stamp(visit_id: str, timeline: Timeline) -> Attribution:
    return VisitState(visit_id, timeline).attribution


@pytest.mark.parametrize("most", [3, 1_000])
@pytest.mark.parametrize("seed", range(50))
def test_each_change_has_the_attribution_before_and_after_it(seed: int, most: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    visits = {visit_id: record(visit_id, 0, ()) for visit_id in VISITS}
    expected: list[VisitorChange] = []
    history = [dict(visits)]
    for number in range(30):
        visit_id = chance.choice(VISITS)
        known = visits[visit_id]
        after = merge(known.timeline, [random_transition(chance) for _ in range(chance.randint(1, 3))])[:most]
        if after != known.timeline:
            rev = known.rev + 1
            change = TimelineChange.read(f"{number}-0", as_fields(visit_id, rev, known.timeline, after))
            expected.append(VisitorChange(change, stamp(visit_id, known.timeline), stamp(visit_id, after)))
            visits[visit_id] = record(visit_id, rev, after)
            history.append(dict(visits))
    begun = chance.randint(0, len(expected))
    seen = chance.randint(begun, len(expected))
    changes = [step.change for step in expected[begun:]]
    assert list(visitor_changes(changes, history[seen])) == expected[begun:]


def test_the_value_before_an_erasure_is_not_reported() -> None:
    sign_in = Transition(1, "event-1", Kind.SIGN_IN, Assurance.NONE, "ann")
    marker = sign_in._replace(identity="")
    fields = {b"visit": VISITS[0].encode(), b"rev": b"2", b"event-1": encode(marker).encode()}
    [step] = visitor_changes([TimelineChange.read("1-0", fields)], {VISITS[0]: record(VISITS[0], 2, (marker,))})
    assert step.before == step.after == stamp(VISITS[0], ())


def test_changes_of_an_expired_visit_are_left_out() -> None:
    assert list(visitor_changes([TimelineChange("1-0", VISITS[0], 1, ())], {})) == []


def test_a_visit_of_many_changes_evaluates_each_transition_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each timeline were evaluated from its beginning, a thousand changes would cost half a million steps."""
    evaluated: list[Transition] = []
    step = visit_state._step

    def counted(visit_id: str, before: Attribution, transition: Transition) -> Step:
        evaluated.append(transition)
        return step(visit_id, before, transition)

    timeline = merge(
        Transition(1_700_000_000_000 + n, f"event-{n}", Kind.USER_INFO, Assurance.CLAIMED, f"user-{n}")
        for n in range(1_000)
    )
    changes = [
        TimelineChange.read(f"{n}-0", as_fields(VISITS[0], n, (), (transition,)))
        for n, transition in enumerate(timeline, 1)
    ]
    monkeypatch.setattr(visit_state, "_step", counted)
    assert len(list(visitor_changes(changes, {VISITS[0]: record(VISITS[0], len(timeline), timeline)}))) == 1_000
    assert evaluated == list(timeline)
