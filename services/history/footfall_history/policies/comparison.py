"""Compares a visit by the stored decisions about its events with the same visit under another policy.

Both timelines are folded by `footfall_timeline.VisitState`, as everywhere in history.
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

from footfall_timeline import Kind, Rule, State, Step, Transition, VisitState, by_event, merge

from footfall_history.policies.decisions import REJECTED, Decision, Doubt, JudgedEvent
from footfall_history.storage import Visit, event_time_ms

MAX_ROWS: Final = 50
"""Events of one visit that are explained: the first ones."""
MAX_PAIRS: Final = 1_000
"""Pairs of identities of one visit that are kept in memory."""
NOT_COUNTED: Final = "not_counted"
OTHER_USER: Final = "other_user"
"""Why an event names another identity: under the policy another key, or another value, names the user."""


class VisitChange(StrEnum):
    """How far a visit changes. Only the first that holds is given."""

    STATE = "state"
    """The state of the visitor after the last event."""
    IDENTITY = "identity"
    """The identity of the visitor after the last event."""
    COURSE = "course"
    """Only who the visitor was at an earlier moment."""
    NONE = "none"


class Explanation(NamedTuple):
    """What one event does under one policy, and who the visitor is after it.

    `rule`: that of the timeline, `ignored`, `rejected`, or `not_counted` for a transition beyond the limit.
    """

    rule: str
    reason: str
    names: str
    state: str
    identity: str


class Row(NamedTuple):
    """An event and its explanation by the stored decisions and by the policy. `name` is empty if it has expired."""

    order_key: str
    event_id: str
    name: str
    before: Explanation
    after: Explanation


class Pair(NamedTuple):
    """The identities that an event named before and names now (empty: none), and why they differ."""

    before: str
    after: str
    reason: str


class VisitComparison:
    """A visit before and under a policy. Takes its events in order, and keeps a limited number of them."""

    def __init__(self, visit: Visit, max_transitions: int) -> None:
        """`max_transitions`: how many transitions of a visit have an effect."""
        self._visit = visit
        self._max_transitions = max_transitions
        self._named = {transition.event_id: transition.identity for transition in by_event(visit.timeline)}
        self._without_event = {*self._named}
        self._is_changed = False
        self._replaced: set[str] = set()
        self._added: list[Transition] = []
        self._rows: list[JudgedEvent] = []
        self.events = 0
        self.pairs: Counter[Pair] = Counter()
        """How many events named each pair, for `take_pairs`."""
        self.doubts: Counter[Doubt] = Counter()

    def add(self, judged: JudgedEvent) -> None:
        """Add the next event of the visit."""
        self.events += 1
        before, after = judged.before, judged.after
        is_changed = before.effect != after.effect
        self._without_event.discard(judged.event_id)
        if judged.doubt:
            self.doubts[judged.doubt] += 1
        is_missing = judged.event_id not in self._named
        if is_changed:
            self._is_changed = True
            self._replaced |= set() if is_missing else {judged.event_id}
        # Of a truncated visit, transitions beyond the limit come into effect when earlier ones do no longer.
        if (is_changed or (is_missing and self._visit.is_truncated)) and len(self._added) < self._max_transitions:
            self._added += filter(None, [judged.transition(after)])
        if len(self._rows) < MAX_ROWS:
            self._rows.append(judged)
        self._count(judged, self._named.get(judged.event_id, before.identity), is_changed=is_changed)

    def _count(self, judged: JudgedEvent, named: str, *, is_changed: bool) -> None:
        """Count which identity the event named by its decision or, if it was sent twice, by that of a copy."""
        after = judged.after.identity if is_changed else named
        if not (named or after):
            return
        reason = ""
        if named != after:
            reason = OTHER_USER if named and after else judged.after.reason or judged.before.reason
        self.pairs[Pair(named, after, reason)] += 1

    def take_pairs(self) -> "Counter[Pair]":
        """The pairs counted since the last call."""
        taken, self.pairs = self.pairs, Counter()
        return taken

    def finish(self) -> None:
        """Count the transitions whose events have expired: they stay as they were. Call it after the last event."""
        for event_id in self._without_event:
            if identity := self._named[event_id]:
                self.pairs[Pair(identity, identity, "")] += 1

    @property
    def expired(self) -> int:
        """The number of transitions whose events have expired."""
        return len(self._without_event)

    @cached_property
    def before(self) -> VisitState:
        """The visit by the stored decisions."""
        return self._visit.visit_state

    @cached_property
    def after(self) -> VisitState:
        """The visit under the policy."""
        if not self._is_changed:
            return self.before
        kept = [transition for transition in self._visit.timeline if transition.event_id not in self._replaced]
        return VisitState(self._visit.visit_id, merge(kept, self._added)[: self._max_transitions])

    @cached_property
    def change(self) -> VisitChange:
        """How far the visit changes."""
        before, after = self.before, self.after
        if before is after:
            return VisitChange.NONE
        if before.attribution.state != after.attribution.state:
            return VisitChange.STATE
        if before.attribution.identity != after.attribution.identity:
            return VisitChange.IDENTITY
        return VisitChange.NONE if _course(before) == _course(after) else VisitChange.COURSE

    def rows(self) -> tuple[list[Row], int]:
        """The explanations of the first events by both, and how many more there are."""
        states = self.before, self.after
        steps = [{step.transition.event_id: step for step in state.steps} for state in states]
        judged = {one.event_id: one for one in self._rows}
        keys = {one.event_id: one.order_key for one in self._rows}
        for of_state in steps:
            for event_id, step in of_state.items():
                keys.setdefault(event_id, step.transition.order_key)
        in_order = sorted((key, event_id) for event_id, key in keys.items())[:MAX_ROWS]
        rows = []
        for key, event_id in in_order:
            one = judged.get(event_id)
            decisions = (one.before, one.after) if one else (None, None)
            cells = [
                _explanation(state, of_state, key, event_id, decision)
                for state, of_state, decision in zip(states, steps, decisions, strict=True)
            ]
            rows.append(Row(key, event_id, one.name if one else "", *cells))
        return rows, self.events + self.expired - len(rows)


def _explanation(
    state: VisitState, steps: Mapping[str, Step], key: str, event_id: str, decision: Decision | None
) -> Explanation:
    """What an event does in one of the two. `steps`: by event. `decision`: None if the event has expired."""
    if step := steps.get(event_id):
        now = step.after
        return Explanation(step.rule.value, "", step.transition.identity, now.state.name, now.identity)
    now = state.ignored_step(event_time_ms(key), event_id, Kind.USER_INFO).after
    rule, reason = NOT_COUNTED, ""
    if decision and decision.reason == REJECTED:
        rule = REJECTED
    elif decision and decision.kind is None:
        rule, reason = Rule.IGNORED.value, decision.reason
    return Explanation(rule, reason, "", now.state.name, now.identity)


def _course(state: VisitState) -> list[tuple[str, tuple[State, str, str]]]:
    """Who the visitor was, from which key on: what is stored with the events of the visit."""
    course: list[tuple[str, tuple[State, str, str]]] = []
    for start, _, (visitor, identity, session, _) in state.attribution_ranges():
        if not course or course[-1][1] != (visitor, identity, session):
            course.append((start, (visitor, identity, session)))
    return course
