"""Matching of identities and contacts: keys, the order of rules, and manual decisions."""

import pytest
from email_validator import EmailNotValidError, validate_email
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.match_keys import (
    MatchKey,
    MatchKeys,
    Rule,
    contact_keys,
    email_key,
    match_keys_of,
    name_key,
    phone_key,
)
from footfall_identity.identity_record import IdentityRecord
from footfall_identity.link_decisions import (
    MAX_DECISIONS,
    linked_manually,
    manual_decisions,
    unlinked_manually,
    with_match_result,
)
from footfall_identity.matching import MAX_CANDIDATES, Matches, MatchResult, Status, match_contact
from footfall_timeline import Assurance, Kind, Transition
from hypothesis import given, settings
from hypothesis import strategies as st

EVENT = "00000000-0000-4000-8000-000000000001"
VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"


def transition(at: int, identity: str, kind: Kind = Kind.SIGN_IN) -> Transition:
    return Transition(at, EVENT, kind, Assurance.CLAIMED, identity)


def match_keys(at: int = 1, identity: str = "ann", **data: object) -> MatchKeys:
    return match_keys_of(Event(visit_id=VISIT), transition(at, identity), data, "DE")


def decide(of: MatchKeys, matches: dict[str, list[str]], **more: object) -> tuple[Status, Rule, str, tuple[str, ...]]:
    given: dict[str, object] = {"by_hand": "", "ruled_out": set(), "known": {}} | more
    found_by_key = {key: Matches(tuple(sorted(contact_ids)), len(contact_ids)) for key, contact_ids in matches.items()}
    found = match_contact(of, matches=found_by_key, **given)  # type: ignore[arg-type]
    return found.status, found.rule, found.contact_id, found.candidates


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (email_key("Ann.Lee@Shop.EXAMPLE"), email_key(" ann.lee@shop.example ")),
        (email_key("jürgen@MÜNCHEN.de"), email_key("Jürgen@xn--mnchen-3ya.de")),
        (phone_key("030 1234567", "DE"), phone_key("+49 (30) 123-45 67", None)),
        (phone_key("tel:+49-30-1234567", None), phone_key("0049301234567", "DE")),
        (name_key("ANN  Mary", "Straße"), name_key(" ann mary", "STRASSE")),
    ],
)
def test_case_and_format_do_not_matter(one: str, other: str) -> None:
    assert one == other != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (email_key("ann@shop.example"), email_key("ann@shop2.example")),
        (phone_key("+49301234567", None), phone_key("+49301234567 ext. 5", None)),
        (name_key("Ann", "Lee"), name_key("Lee", "Ann")),
        (name_key("Ann Lee", "X"), name_key("Ann", "Lee X")),
    ],
)
def test_different_values_have_different_keys(one: str, other: str) -> None:
    assert one != other
    assert one
    assert other


@pytest.mark.parametrize(
    "text", ["", "ann", "ann@", "@b.de", "a b@c.de", "Ann <ann@b.de>", "ann@localhost", "x" * 9_999]
)
def test_an_invalid_address_has_no_key(text: str) -> None:
    assert email_key(text) == ""
    assert phone_key(text, "DE") == ""
    assert name_key(text, "") == ""


@settings(max_examples=500)
@given(
    st.one_of(
        st.emails(),
        st.text("aB1.-_+'@\"< \u00fc\u0301", max_size=12).map(lambda text: f"{text}@shop.example"),
        st.text("aB1.-@[]n\u00fc", max_size=12).map(lambda text: f"Ann.Lee@{text}.example"),
        st.sampled_from(["a@xn--mnchen-3ya.de", "a@xn--a.de", "a@ab--c.de", "a@localhost", f"a@{'b' * 64}.example"]),
    )
)
def test_the_key_of_an_address_is_as_the_library_normalizes_it(text: str) -> None:
    try:
        expected = f"email:{validate_email(text.strip(), check_deliverability=False).normalized.casefold()}"
    except EmailNotValidError:
        expected = ""
    assert email_key(text) == (expected if len(text) <= 254 else "")


def test_a_national_number_needs_a_region() -> None:
    assert phone_key("030 1234567", None) == ""


def recognized(identity: str, **data: object) -> MatchKeys:
    return match_keys_of(Event(), transition(1, identity, Kind.USER_INFO), data, None)


def test_a_user_info_never_links_but_names_candidates() -> None:
    contacts = {"email:a@b.de": ["c2", "c1"]}
    for of in (recognized("ann", email="A@b.de"), recognized("a@b.de"), recognized("x@b.de", email="a@b.de")):
        assert of.ranked() == []
        assert of.assurance == 0
        assert decide(of, contacts) == (Status.UNLINKED, Rule.EMAIL_ADDRESS, "", ("c1", "c2"))
        assert decide(of, contacts, ruled_out={"c1", "c2"}) == (Status.UNLINKED, Rule.NONE, "", ())
        assert decide(of, {}) == (Status.UNLINKED, Rule.NONE, "", ())
    both = recognized("ann", email="a@b.de").merged(match_keys(email="c@d.de"))
    assert decide(both, contacts | {"email:c@d.de": ["c3"]}) == (Status.LINKED, Rule.EMAIL_ADDRESS, "c3", ())
    assert recognized("ann", phone="+49301234567", firstName="Ann", lastName="Lee") == MatchKeys()


def test_the_user_id_stands_in_for_an_address_that_is_not_given() -> None:
    assert [s.key for _, s in match_keys(identity="Ann@b.de").ranked()] == ["email:ann@b.de"]
    both = match_keys(at=1, identity="ann@b.de", email="lee@c.de").merged(match_keys(at=2, identity="ann@b.de"))
    assert [s.key for _, s in both.ranked()] == ["email:lee@c.de"]


def test_the_newest_sign_in_that_gives_an_attribute_counts_in_any_order() -> None:
    old, new = match_keys(at=1, email="a@b.de", phone="0301234567"), match_keys(at=2, email="c@b.de", firstName="Ann")
    assert old.merged(new) == new.merged(old)
    assert [(rule, s.key) for rule, s in old.merged(new).ranked()] == [
        (Rule.EMAIL_ADDRESS, "email:c@b.de"),
        (Rule.PHONE_NUMBER, "phone:+49301234567"),
    ]


def test_values_that_are_no_strings_give_no_keys() -> None:
    assert match_keys(email=["a@b.de"], phone=301234567, firstName=None, lastName={}) == MatchKeys()


def test_rules_are_tried_in_order_and_the_first_that_finds_any_decides() -> None:
    of = match_keys(email="a@b.de", phone="+49301234567", firstName="Ann", lastName="Lee")
    email, phone, name = (s.key for _, s in of.ranked())
    assert decide(of, {name: ["c3"]}) == (Status.LINKED, Rule.NAME, "c3", ())
    assert decide(of, {name: ["c3"], phone: ["c2"]}) == (Status.LINKED, Rule.PHONE_NUMBER, "c2", ())
    assert decide(of, {phone: ["c2"], email: ["c9", "c1"]}) == (Status.AMBIGUOUS, Rule.EMAIL_ADDRESS, "", ("c1", "c9"))
    assert decide(of, {}) == (Status.UNLINKED, Rule.NONE, "", ())


def test_a_manual_link_wins_while_the_contact_exists() -> None:
    of = match_keys(email="a@b.de")
    matches = {"email:a@b.de": ["c1"]}
    assert decide(of, matches, by_hand="c2", known={"c2": ()}) == (Status.LINKED, Rule.MANUAL, "c2", ())
    assert decide(of, matches, by_hand="c2") == (Status.LINKED, Rule.EMAIL_ADDRESS, "c1", ())
    assert decide(of, matches, ruled_out={"c1"}) == (Status.UNLINKED, Rule.NONE, "", ())
    assert decide(of, {"email:a@b.de": ["c1", "c2"]}, ruled_out={"c1"}) == (Status.LINKED, Rule.EMAIL_ADDRESS, "c2", ())


def test_contacts_that_are_ruled_out_are_no_candidates_and_do_not_count() -> None:
    key = "email:a@b.de"
    ids = [f"c{number:02}" for number in range(MAX_CANDIDATES + 2)]
    given = {"by_hand": "", "ruled_out": {"c00", "c70", "d"}, "known": {"c00": [key], "c70": [key], "d": []}}
    found = match_contact(match_keys(email="a@b.de"), matches={key: Matches(tuple(ids), 80)}, **given)  # type: ignore[arg-type]
    assert (found.candidates, found.candidate_count) == (tuple(ids[1 : MAX_CANDIDATES + 1]), 78)


def test_a_contact_is_found_by_every_address_it_has() -> None:
    keys = contact_keys(["A@b.de", "c@d.de"], ["030 1234567"], "Ann", "Lee", "DE")
    assert set(keys) == {"email:a@b.de", "email:c@d.de", "phone:+49301234567", "name:ann\tlee"}


class TestDecisions:
    ANN = IdentityRecord(identity_id="ann")
    SIGN = MatchKey(1, "0000000000001" + EVENT, VISIT, "email:a@b.de")
    LINKED = MatchResult(Status.LINKED, Rule.EMAIL_ADDRESS, "c1", match_key=SIGN)
    NONE = MatchResult(Status.UNLINKED)

    def test_the_same_result_is_no_new_decision(self) -> None:
        assert with_match_result(self.ANN, self.NONE, 1).decisions == ()
        linked = with_match_result(self.ANN, self.LINKED, 1)
        assert with_match_result(linked, self.LINKED, 2) == linked
        gone = with_match_result(linked, self.NONE, 3)
        assert with_match_result(gone, self.NONE, 4) == gone
        assert [(d.status, d.at_ms) for d in gone.decisions] == [(Status.LINKED, 1), (Status.UNLINKED, 3)]
        assert (linked.contact_id, gone.contact_id) == ("c1", "")

    def test_unlinking_rules_a_contact_out_until_it_is_chosen(self) -> None:
        unlinked = unlinked_manually(with_match_result(self.ANN, self.LINKED, 1), "agent", 2)
        assert (unlinked.contact_id, manual_decisions([unlinked]).ruled_out, unlinked.is_due) == ("", {"c1"}, True)
        assert unlinked_manually(unlinked, "agent", 3) == unlinked
        chosen = linked_manually(unlinked, "c1", "agent", 4)
        assert (chosen.contact_id, chosen.by_hand, manual_decisions([chosen]).ruled_out) == ("c1", "c1", set())
        assert linked_manually(chosen, "c1", "other", 5) == chosen

    def test_a_manual_link_returns_with_its_contact_and_names_its_actor(self) -> None:
        chosen = linked_manually(self.ANN, "c1", "agent", 1)
        back = with_match_result(
            with_match_result(chosen, self.NONE, 2), MatchResult(Status.LINKED, Rule.MANUAL, "c1"), 3, "agent"
        )
        assert [(d.contact_id, d.actor) for d in back.decisions] == [("c1", "agent"), ("", "rule"), ("c1", "agent")]
        assert back.by_hand == "c1"

    def test_decisions_are_limited_and_manual_ones_stay(self) -> None:
        record = linked_manually(self.ANN, "c0", "agent", 0)
        for number in range(MAX_DECISIONS):
            record = with_match_result(record, self.NONE if number % 2 else self.LINKED, number)
        assert len(record.decisions) == MAX_DECISIONS
        assert record.decisions[0].contact_id == "c0"
