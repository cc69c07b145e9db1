"""The rules of a visit: each row of the transition table, and what makes it safe to merge in any order."""

import random
import uuid

import pytest
from footfall_timeline import (
    ANONYMOUS,
    Assurance,
    Attribution,
    Kind,
    LaterVersionError,
    Rule,
    RunningVisitState,
    State,
    Timeline,
    Transition,
    VisitState,
    by_event,
    decode,
    encode,
    erase,
    from_fields,
    merge,
    normalize_uuid,
    order_key,
    page_id,
    partition,
    session_id,
    to_fields,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.attributions import attribution_at

VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"


def event_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def user_info(at: int, identity: str) -> Transition:
    return Transition(at, event_id(at), Kind.USER_INFO, Assurance.CLAIMED, identity)


def sign_in(at: int, identity: str) -> Transition:
    return Transition(at, event_id(at), Kind.SIGN_IN, Assurance.CLAIMED, identity)


def proven(at: int, identity: str, token_id: str) -> Transition:
    return sign_in(at, identity)._replace(assurance=Assurance.PROVEN, token_id=token_id)


def sign_out(at: int) -> Transition:
    return Transition(at, event_id(at), Kind.SIGN_OUT, Assurance.NONE, "")


def visit_state(*transitions: Transition) -> VisitState:
    return VisitState(VISIT, merge(transitions))


def recognized(identity: str) -> Attribution:
    return Attribution(State.RECOGNIZED, identity, "", Assurance.CLAIMED)


def authenticated(identity: str, signed_in_at: int) -> Attribution:
    return Attribution(State.AUTHENTICATED, identity, session_id(VISIT, event_id(signed_in_at)), Assurance.CLAIMED)


def other_event_at(found: VisitState, at: int) -> Attribution:
    """The attribution of an event that is no transition."""
    return attribution_at(found, at, "ffffffff-0000-4000-8000-000000000000")


class TestTransitionTable:
    def test_a_visit_without_transitions_is_anonymous(self) -> None:
        assert visit_state().attribution == ANONYMOUS

    def test_user_info_recognizes_an_anonymous_visitor(self) -> None:
        assert visit_state(user_info(1, "ann")).attribution == recognized("ann")

    def test_user_info_of_another_identity_replaces_a_recognized_one(self) -> None:
        found = visit_state(user_info(1, "ann"), user_info(2, "bob"))
        assert found.attribution == recognized("bob")
        assert [(a.identity, a.scope) for a in found.associations] == [
            ("ann", State.RECOGNIZED),
            ("bob", State.RECOGNIZED),
        ]

    def test_user_info_of_the_signed_in_identity_changes_nothing(self) -> None:
        found = visit_state(sign_in(1, "ann"), user_info(2, "ann"))
        assert found.attribution == attribution_at(found, 2, event_id(2)) == authenticated("ann", 1)
        assert found.steps[-1].rule is Rule.USER_INFO_SAME_IDENTITY

    def test_user_info_of_another_identity_while_signed_in_owns_only_its_own_event(self) -> None:
        found = visit_state(sign_in(1, "ann"), user_info(3, "bob"))
        assert attribution_at(found, 3, event_id(3)) == recognized("bob")
        assert other_event_at(found, 2) == other_event_at(found, 4) == authenticated("ann", 1)
        assert [(a.identity, a.scope) for a in found.associations] == [
            ("ann", State.AUTHENTICATED),
            ("bob", State.RECOGNIZED),
        ]

    @pytest.mark.parametrize("before", [(), (user_info(1, "ann"),), (user_info(1, "bob"),)])
    def test_sign_in_authenticates_from_any_state_and_opens_a_session(self, before: Timeline) -> None:
        found = visit_state(*before, sign_in(2, "bob"))
        assert found.attribution == authenticated("bob", 2)
        assert [(s.identity, s.start_ms, s.end_ms) for s in found.sessions] == [("bob", 2, None)]

    def test_sign_in_of_another_identity_closes_the_first_session_at_that_instant(self) -> None:
        found = visit_state(sign_in(1, "ann"), sign_in(5, "bob"))
        assert found.attribution == authenticated("bob", 5)
        assert [(s.identity, s.start_ms, s.end_ms, s.end_event_id) for s in found.sessions] == [
            ("ann", 1, 5, event_id(5)),
            ("bob", 5, None, ""),
        ]
        assert [a.scope for a in found.associations] == [State.RECOGNIZED, State.AUTHENTICATED]

    def test_sign_in_of_the_same_identity_keeps_the_session(self) -> None:
        found = visit_state(sign_in(1, "ann"), sign_in(5, "ann"))
        assert found.attribution == authenticated("ann", 1)
        assert len(found.sessions) == 1

    def test_sign_out_falls_to_recognized_and_still_carries_the_session_itself(self) -> None:
        found = visit_state(sign_in(1, "ann"), sign_out(5))
        assert found.attribution == recognized("ann")
        assert attribution_at(found, 5, event_id(5)) == recognized("ann")._replace(
            session_id=found.sessions[0].session_id
        )
        assert found.sessions[0].end_ms == 5
        assert found.associations[0].scope is State.RECOGNIZED

    @pytest.mark.parametrize("before", [(), (user_info(1, "ann"),)])
    def test_sign_out_without_a_session_has_no_effect(self, before: Timeline) -> None:
        assert visit_state(*before, sign_out(2)).attribution == visit_state(*before).attribution

    def test_earlier_events_are_not_back_filled(self) -> None:
        found = visit_state(sign_in(5, "ann"))
        assert other_event_at(found, 4) == ANONYMOUS

    def test_signing_in_again_after_signing_out_opens_a_second_session(self) -> None:
        found = visit_state(sign_in(1, "ann"), sign_out(2), sign_in(3, "ann"))
        assert [(s.start_ms, s.end_ms) for s in found.sessions] == [(1, 2), (3, None)]
        assert found.associations[0].scope is State.AUTHENTICATED


class TestTokens:
    A, B = "a" * 16, "b" * 16

    def test_a_token_used_before_a_sign_out_proves_nothing_after_it(self) -> None:
        found = visit_state(proven(1, "ann", self.A), sign_out(2), proven(3, "ann", self.A))
        assert found.attribution == recognized("ann")
        assert found.steps[-1].rule is Rule.SIGN_IN_TOKEN_USED_BEFORE
        assert [(s.start_ms, s.end_ms) for s in found.sessions] == [(1, 2)]

    def test_another_token_counts_and_so_does_the_same_token_before_a_sign_out(self) -> None:
        for again in (
            visit_state(proven(1, "ann", self.A), proven(2, "ann", self.A)),
            visit_state(proven(1, "ann", self.A), proven(2, "bob", self.B), proven(3, "ann", self.A)),
            visit_state(proven(1, "ann", self.A), sign_out(2), proven(3, "ann", self.B)),
            visit_state(sign_out(1), proven(2, "ann", self.A)),
        ):
            assert (again.attribution.state, again.attribution.assurance) == (State.AUTHENTICATED, Assurance.PROVEN)

    def test_every_token_used_before_the_sign_out_is_used_whoever_signed_out(self) -> None:
        used = proven(1, "ann", self.A), proven(2, "bob", self.B), sign_out(3)
        for token_id, name in ((self.A, "ann"), (self.B, "bob")):
            assert visit_state(*used, proven(4, name, token_id)).attribution.state is State.RECOGNIZED

    def test_beside_whoever_is_signed_in_it_counts_as_any_user_info(self) -> None:
        signed_in = proven(1, "ann", self.A), sign_out(2), proven(3, "bob", self.B)
        found = visit_state(*signed_in, proven(4, "ann", self.A))
        assert found.attribution == visit_state(*signed_in).attribution
        assert attribution_at(found, 4, event_id(4)) == recognized("ann")
        assert found.steps[-1].rule is Rule.SIGN_IN_TOKEN_USED_BEFORE

    def test_erasing_a_person_brings_no_token_back(self) -> None:
        erased = erase((proven(1, "ann", self.A), sign_out(2)), "ann", 2)
        assert VisitState(VISIT, merge(erased, (proven(3, "ann", self.A),))).attribution == recognized("ann")
        assert merge(erased, (proven(1, "ann", self.A),)) == erased

    def test_entries_without_a_token_are_encoded_as_before_tokens_had_ids(self) -> None:
        assert encode(sign_in(1_700_000_000_000, "a|b")) == "1700000000000|2|1|a|b"
        with_token = proven(1_700_000_000_000, "a|b", self.A)
        assert encode(with_token) == f"1700000000000|2|2.{self.A}|a|b"
        # That of one event which an earlier version has admitted stays away when this one has known it, too.
        assert merge((with_token._replace(token_id=""),), (with_token,)) == (with_token,)


class TestErasure:
    def test_after_an_erased_sign_in_the_visitor_is_anonymous(self) -> None:
        found = VisitState(VISIT, erase((sign_in(1, "ann"), sign_out(3)), "ann", 10))
        assert found.attribution == other_event_at(found, 2) == ANONYMOUS
        assert (found.sessions, found.associations) == ([], [])

    def test_an_erased_sign_in_still_closes_another_persons_session(self) -> None:
        found = VisitState(VISIT, erase((sign_in(1, "ann"), sign_in(2, "bob")), "bob", 10))
        assert [(s.identity, s.end_ms) for s in found.sessions] == [("ann", 2)]
        assert found.attribution == ANONYMOUS

    def test_an_erased_user_info_leaves_another_persons_session_open(self) -> None:
        found = VisitState(VISIT, erase((sign_in(1, "ann"), user_info(2, "bob")), "bob", 10))
        assert found.attribution == authenticated("ann", 1)
        assert attribution_at(found, 2, event_id(2)) == ANONYMOUS

    def test_what_happened_after_the_erasure_stays(self) -> None:
        assert erase((user_info(11, "ann"),), "ann", 10) == (user_info(11, "ann"),)

    def test_the_marker_wins_over_a_late_copy(self) -> None:
        erased = erase((user_info(1, "ann"),), "ann", 10)
        assert merge(erased, (user_info(1, "ann"),)) == merge((user_info(1, "ann"),), erased) == erased


transitions = st.builds(
    lambda at, number, kind, assurance, identity, token_id: Transition(
        at,
        event_id(number),
        kind,
        assurance,
        "" if kind is Kind.SIGN_OUT else identity,
        token_id if (kind, assurance) == (Kind.SIGN_IN, Assurance.PROVEN) else "",
    ),
    st.integers(0, 30),
    st.integers(0, 12),
    st.sampled_from(Kind),
    st.sampled_from(Assurance),
    st.sampled_from(["ann", "bob", "é|x", "", "\U0001f600"]),
    st.sampled_from(["", TestTokens.A, TestTokens.B]),
)
timelines = st.lists(transitions, max_size=12).map(merge)


class TestMerge:
    @given(timelines, timelines, timelines)
    def test_is_commutative_associative_and_idempotent(self, a: Timeline, b: Timeline, c: Timeline) -> None:
        assert merge(a, b) == merge(b, a)
        assert merge(merge(a, b), c) == merge(a, merge(b, c))
        assert merge(a, a) == a

    @pytest.mark.parametrize("most", [1, 2, 3])
    @given(a=timelines, b=timelines, c=timelines)
    def test_stays_so_when_only_the_smallest_are_kept(self, most: int, a: Timeline, b: Timeline, c: Timeline) -> None:
        a, b, c = a[:most], b[:most], c[:most]
        assert merge(a, b)[:most] == merge(b, a)[:most]
        assert merge(merge(a, b)[:most], c)[:most] == merge(a, merge(b, c)[:most])[:most] == merge(a, b, c)[:most]
        assert merge(a, a) == a

    def test_the_proven_copy_of_an_event_wins_at_the_earliest_of_its_times(self) -> None:
        proven = sign_in(5, "ann")._replace(assurance=Assurance.PROVEN)
        again = user_info(5, "ann")._replace(event_time_ms=3)  # its token had expired, and it was another second's
        for timeline in (merge((proven, again)), merge((again,), (proven,))):
            assert by_event(timeline) == (proven._replace(event_time_ms=3),)
            assert VisitState(VISIT, timeline).attribution == authenticated("ann", 5)._replace(
                assurance=Assurance.PROVEN
            )

    @given(transitions, transitions)
    def test_of_copies_of_one_assurance_the_smaller_wins(self, one: Transition, other: Transition) -> None:
        other = other._replace(event_id=one.event_id, assurance=one.assurance)
        assert merge((one, other)) == merge((other, one)) == (min(one, other, key=lambda each: encode(each).encode()),)

    @given(timelines)
    def test_what_stores_keep_is_read_back(self, timeline: Timeline) -> None:
        assert from_fields(to_fields(timeline).items()) == timeline

    @given(st.lists(transitions, max_size=12), st.randoms(use_true_random=False))
    def test_the_state_does_not_depend_on_arrival(self, arrived: list[Transition], chance: random.Random) -> None:
        expected = VisitState(VISIT, merge(arrived)).steps
        again = arrived + chance.sample(arrived, len(arrived) // 2)
        chance.shuffle(again)
        timeline: Timeline = ()
        while again:
            size = chance.randint(1, 3)
            timeline, again = merge(timeline, again[:size]), again[size:]
        assert VisitState(VISIT, timeline).steps == expected

    @given(transitions)
    def test_the_encoded_form_of_an_entry_is_read_back(self, one: Transition) -> None:
        assert decode(one.event_id, encode(one)) == one

    @pytest.mark.parametrize(
        "text", ["!2|1700000000000|2|1|ann", "1700000000000|4|1|ann", "1700000000000|2|3|ann", "1700000000000|2"]
    )
    def test_what_a_later_version_has_encoded_is_told_apart(self, text: str) -> None:
        with pytest.raises(LaterVersionError):
            decode(event_id(1), text)


class TestVisitState:
    @given(timelines)
    def test_ranges_say_the_same_as_attributions_for_every_key(self, timeline: Timeline) -> None:
        found = VisitState(VISIT, timeline)
        ranges = list(found.attribution_ranges())
        for at in range(31):
            for number in range(13):
                key = order_key(at, event_id(number))
                [attribution] = [s.attribution for s in ranges if s.start <= key and (s.stop is None or key < s.stop)]
                assert attribution == attribution_at(found, at, event_id(number))

    @given(st.lists(timelines, max_size=6))
    def test_a_running_state_equals_one_computed_from_the_beginning(self, seen: list[Timeline]) -> None:
        running, timeline = RunningVisitState(VISIT, ()), merge()
        for more in seen:
            timeline = merge(timeline, more)[:8]
            running.move_to(reversed(timeline))
            assert running.attribution == VisitState(VISIT, timeline).attribution

    @given(timelines, st.integers(0, 30))
    def test_a_visitor_at_a_moment_is_what_the_steps_until_then_say(self, timeline: Timeline, at_ms: int) -> None:
        steps = VisitState(VISIT, timeline).steps
        assert VisitState(VISIT, until(timeline, at_ms)).steps == [
            step for step in steps if step.transition.event_time_ms <= at_ms
        ]

    @given(timelines)
    def test_a_session_is_open_exactly_while_authenticated(self, timeline: Timeline) -> None:
        found = VisitState(VISIT, timeline)
        open_sessions = [s.session_id for s in found.sessions if s.end_ms is None]
        assert open_sessions == (
            [found.attribution.session_id] if found.attribution.state is State.AUTHENTICATED else []
        )
        assert all(s.end_ms is None or s.start_ms <= s.end_ms for s in found.sessions)


class TestIds:
    def test_uuids_are_normalized_to_dashed_lower_case(self) -> None:
        assert normalize_uuid("6B0D549B6F03475A9600A35A099950D8") == "6b0d549b-6f03-475a-9600-a35a099950d8"
        assert normalize_uuid(VISIT.upper()) == VISIT

    @pytest.mark.parametrize(
        "text",
        [
            *("", "x", VISIT[:-1], "{" + VISIT + "}", "6b0d549b-6f03475a9600a35a099950d8", "٣" * 32),
            *(VISIT.replace("-", " "), VISIT.replace("-", "") + "  ", " " * 32, "0x" + "0" * 30, "-" * 36),
        ],
    )
    def test_what_is_no_uuid_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a UUID"):
            normalize_uuid(text)

    def test_derived_ids_depend_only_on_what_caused_them(self) -> None:
        assert session_id(VISIT, event_id(1)) == session_id(VISIT, event_id(1)) != session_id(VISIT, event_id(2))
        assert page_id(VISIT, "A") != page_id(VISIT, "B")

    @pytest.mark.parametrize("name", ["", "8D116ECE173847D9BD9C172411E20B8F", "ключ", *map(str, range(16))])
    def test_are_uuids_version_5(self, name: str) -> None:
        assert page_id(VISIT, name) == str(uuid.uuid5(uuid.UUID(VISIT), f"page/{name}"))

    def test_a_visit_keeps_its_partition(self) -> None:
        assert {partition(VISIT, 16) for _ in range(3)} == {partition(VISIT, 16)}
        assert partition(VISIT, 1) == 0
