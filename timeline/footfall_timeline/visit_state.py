"""The state of a visit, computed from its timeline: attributions, sessions and associations."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from functools import cached_property
from operator import attrgetter
from typing import NamedTuple

from footfall_timeline.ids import session_id
from footfall_timeline.transitions import Assurance, Kind, Timeline, Transition, by_event


class State(IntEnum):
    """How a visitor is known. The numbers are those of footfall.identity.v1.VisitorState."""

    ANONYMOUS = 1
    RECOGNIZED = 2
    AUTHENTICATED = 3


class Rule(StrEnum):
    """The rule that decided what a transition changed: one row of the transition table in `_step`.

    IGNORED is that of events which are no transitions, because their user id names no person.
    """

    USER_INFO_RECOGNIZES = "user_info.recognizes"
    USER_INFO_SAME_IDENTITY = "user_info.same_identity"
    USER_INFO_OTHER_IDENTITY = "user_info.other_identity"
    SIGN_IN_OPENS_SESSION = "sign_in.opens_session"
    SIGN_IN_SAME_IDENTITY = "sign_in.same_identity"
    SIGN_IN_OTHER_IDENTITY = "sign_in.other_identity"
    SIGN_IN_TOKEN_USED_BEFORE = "sign_in.token_used_before"  # noqa: S105 - no password
    SIGN_OUT_CLOSES_SESSION = "sign_out.closes_session"
    SIGN_OUT_WITHOUT_SESSION = "sign_out.without_session"
    ERASED = "erased"
    IGNORED = "ignored"


EFFECTS = {
    Rule.USER_INFO_RECOGNIZES: "The visitor is Recognized as the identity named. Earlier events are unchanged.",
    Rule.USER_INFO_SAME_IDENTITY: "The profile is merged. The visitor stays Authenticated; the session goes on.",
    Rule.USER_INFO_OTHER_IDENTITY: "The identity named is associated as Recognized and owns this one event. "
    "The identity that is signed in stays the active one, because a UserInfo never ends a session.",
    Rule.SIGN_IN_OPENS_SESSION: "The visitor is Authenticated and a session opens. Earlier events are unchanged.",
    Rule.SIGN_IN_SAME_IDENTITY: "Nothing changes: this identity is signed in already, and its session goes on.",
    Rule.SIGN_IN_OTHER_IDENTITY: "The session of the identity signed in before closes, its association falls to "
    "Recognized, and a session of the identity named opens.",
    Rule.SIGN_IN_TOKEN_USED_BEFORE: "It counts as a UserInfo: its token was used in this visit before a SignOut, which "
    "ended what the token proves.",
    Rule.SIGN_OUT_CLOSES_SESSION: "The session closes and the visitor falls to Recognized. The identity stays the "
    "active one.",
    Rule.SIGN_OUT_WITHOUT_SESSION: "Nothing changes: no identity is signed in.",
    Rule.ERASED: "It named a person who has been erased. A session open until then closes if this was a SignIn.",
    Rule.IGNORED: "Nothing changes: its user id names no person. It is not part of the timeline.",
}
"""What a transition changes under each rule, and what it leaves and why, in words."""


class Attribution(NamedTuple):
    """Who the visitor is at one moment. `identity` and `session_id` are empty when there is none."""

    state: State
    identity: str
    session_id: str
    assurance: Assurance


ANONYMOUS = Attribution(State.ANONYMOUS, "", "", Assurance.NONE)


class Step(NamedTuple):
    """What one transition did: the attribution before it, that of its own event, and that of the events after it."""

    transition: Transition
    rule: Rule
    before: Attribution
    own: Attribution
    after: Attribution


class AttributionRange(NamedTuple):
    """All events with start <= order key < stop (None: no end) have this attribution."""

    start: str
    stop: str | None
    attribution: Attribution


@dataclass(frozen=True, slots=True)
class Session:
    """The time from a SignIn to the transition that closed it. While open, the end is None and empty."""

    session_id: str
    identity: str
    start_ms: int
    assurance: Assurance
    start_event_id: str
    end_ms: int | None = None
    end_event_id: str = ""


@dataclass(frozen=True, slots=True)
class Association:
    """The relation of a visit to an identity: the first and last transition that named it, and its scope now."""

    identity: str
    scope: State
    first: Transition
    last: Transition


class VisitState:
    """What follows from the timeline of a visit: each step, and the attribution after the last one."""

    def __init__(self, visit_id: str, timeline: Timeline) -> None:
        self.visit_id = visit_id
        self.steps: list[Step] = []
        self._keys: list[str] = []
        attribution = ANONYMOUS
        for transition in _effective(timeline):
            step = _step(visit_id, attribution, transition)
            self.steps.append(step)
            self._keys.append(transition.order_key)
            attribution = step.after
        self.attribution = attribution
        """The attribution after the last transition."""

    def attribution_ranges(self) -> Iterator[AttributionRange]:
        """The attributions of all events of the visit, as ranges of order keys without gaps."""
        yield AttributionRange("", self._keys[0] if self._keys else None, ANONYMOUS)
        for position, step in enumerate(self.steps):
            key = self._keys[position]
            stop = self._keys[position + 1] if position + 1 < len(self._keys) else None
            if step.own == step.after:
                yield AttributionRange(key, stop, step.after)
            else:
                # Keys have one length, so key + "\0" is the smallest string after this event.
                yield AttributionRange(key, key + "\0", step.own)
                yield AttributionRange(key + "\0", stop, step.after)

    def ignored_step(self, event_time_ms: int, event_id: str, kind: Kind) -> Step:
        """The step of an event that is no transition because its user id names no person: it changes nothing."""
        transition = Transition(event_time_ms, event_id, kind, Assurance.NONE, "")
        position = bisect_left(self._keys, transition.order_key)
        attribution = self.steps[position - 1].after if position else ANONYMOUS
        return Step(transition, Rule.IGNORED, attribution, attribution, attribution)

    @cached_property
    def sessions(self) -> list[Session]:
        """The sessions of the visit, in order."""
        sessions: list[Session] = []
        for step in self.steps:
            transition = step.transition
            if step.before.session_id and step.after.session_id != step.before.session_id:
                sessions[-1] = replace(sessions[-1], end_ms=transition.event_time_ms, end_event_id=transition.event_id)
            if step.after.session_id and step.after.session_id != step.before.session_id:
                sessions.append(
                    Session(
                        step.after.session_id,
                        transition.identity,
                        transition.event_time_ms,
                        transition.assurance,
                        transition.event_id,
                    )
                )
        return sessions

    @cached_property
    def associations(self) -> list[Association]:
        """The identities that the visit is associated with, in the order in which they were first named."""
        first: dict[str, Transition] = {}
        last: dict[str, Transition] = {}
        for step in self.steps:
            if step.transition.identity:
                first.setdefault(step.transition.identity, step.transition)
                last[step.transition.identity] = step.transition
        signed_in = self.attribution.identity if self.attribution.state is State.AUTHENTICATED else ""
        return [
            Association(
                identity,
                State.AUTHENTICATED if identity == signed_in else State.RECOGNIZED,
                transition,
                last[identity],
            )
            for identity, transition in first.items()
        ]


class RunningVisitState:
    """The attribution after the last transition of a timeline that changes, computed from the first change on.

    A transition at the end costs one step, a late transition costs all steps after it.
    """

    def __init__(self, visit_id: str, entries: Iterable[Transition]) -> None:
        self._visit_id = visit_id
        self._timeline: Timeline = ()
        self._attributions: list[Attribution] = [ANONYMOUS]
        self.move_to(entries)

    @property
    def attribution(self) -> Attribution:
        """The attribution after the last transition."""
        return self._attributions[-1]

    def move_to(self, entries: Iterable[Transition]) -> None:
        """Compute the state of another version of the timeline, whose entries may be in any order."""
        timeline = _effective(tuple(sorted(entries)))
        same = len(self._timeline)
        if timeline[:same] != self._timeline:  # nearly always they are equal, and that is seen fast
            pairs = enumerate(zip(self._timeline, timeline, strict=False))
            same = next((at for at, (old, new) in pairs if old != new), len(timeline))
        del self._attributions[same + 1 :]
        for transition in timeline[same:]:
            self._attributions.append(_step(self._visit_id, self.attribution, transition).after)
        self._timeline = timeline


_token_id = attrgetter("token_id")


def _effective(timeline: Timeline) -> Timeline:
    """One transition for each event. A SignIn whose token was used before a SignOut counts as a claimed UserInfo."""
    if not any(map(_token_id, timeline)):
        return by_event(timeline)
    effective: list[Transition] = []
    sign_outs = 0
    sign_outs_before_use: dict[str, int] = {}
    for transition in by_event(timeline):
        sign_outs += transition.kind is Kind.SIGN_OUT
        if transition.token_id and sign_outs_before_use.setdefault(transition.token_id, sign_outs) < sign_outs:
            transition = transition._replace(kind=Kind.USER_INFO, assurance=Assurance.CLAIMED)  # noqa: PLW2901
        effective.append(transition)
    return tuple(effective)


def _step(visit_id: str, before: Attribution, transition: Transition) -> Step:
    """One row of the transition table."""
    is_signed_in = before.state is State.AUTHENTICATED

    def step(rule: Rule, *, after: Attribution = before, own: Attribution | None = None) -> Step:
        return Step(transition, rule, before, own or after, after)

    if transition.is_erased:
        # From here on no identity is known. But an erased UserInfo did not end another person's session.
        if transition.kind is Kind.USER_INFO and is_signed_in:
            return step(Rule.ERASED, own=ANONYMOUS)
        return step(Rule.ERASED, after=ANONYMOUS)

    recognized = Attribution(State.RECOGNIZED, transition.identity, "", transition.assurance)
    match transition.kind:
        case Kind.USER_INFO:
            used_before = Rule.SIGN_IN_TOKEN_USED_BEFORE if transition.token_id else None
            if not is_signed_in:
                return step(used_before or Rule.USER_INFO_RECOGNIZES, after=recognized)
            if transition.identity == before.identity:
                return step(used_before or Rule.USER_INFO_SAME_IDENTITY)
            return step(used_before or Rule.USER_INFO_OTHER_IDENTITY, own=recognized)
        case Kind.SIGN_IN:
            if is_signed_in and transition.identity == before.identity:
                return step(Rule.SIGN_IN_SAME_IDENTITY)
            rule = Rule.SIGN_IN_OTHER_IDENTITY if is_signed_in else Rule.SIGN_IN_OPENS_SESSION
            opened = session_id(visit_id, transition.event_id)
            return step(rule, after=recognized._replace(state=State.AUTHENTICATED, session_id=opened))
        case Kind.SIGN_OUT:
            if not is_signed_in:
                return step(Rule.SIGN_OUT_WITHOUT_SESSION)
            after = before._replace(state=State.RECOGNIZED, session_id="")
            # The SignOut is the session's last event.
            return step(Rule.SIGN_OUT_CLOSES_SESSION, after=after, own=after._replace(session_id=before.session_id))
