"""Records of identities: proven values before claimed ones, in any order of arrival."""

import json
import random
from itertools import permutations
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import STAFF_REASON_SITE
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.match_keys import MatchKeys, Rule
from footfall_identity.identity_record import (
    IdentityMention,
    IdentityRecord,
    ProfileValue,
    Source,
    VisitStatus,
    best_values,
    erased,
    with_mentions,
    without_lost_revisions,
)
from footfall_identity.settings import IdentitySettings
from footfall_servicekit.settings import load
from footfall_timeline import Assurance, Kind
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from msgspec.structs import replace

from tests.tools.identity import ATTRIBUTE_NAMES, admitted

VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
ANN = IdentityRecord(identity_id="ann")


def mention(
    at_ms: int, said: dict[str, Any], proven: dict[str, Any] | None = None, kind: Kind = Kind.SIGN_IN, **fields: Any
) -> IdentityMention:
    """Return an event that names ann; with `proven` (claims of its token) a proven SignIn."""
    fields |= {"event_id": f"00000000-0000-4000-8000-{at_ms:012d}", "transition": kind.value}
    if proven is not None:
        fields |= {"assurance": Assurance.PROVEN.value, "proven_json": json.dumps(proven).encode()}
    event = admitted("SignIn", VISIT, at_ms, "ann", data=said, **fields)
    transition = transition_of(event)
    assert transition
    return IdentityMention.of(event, transition, ATTRIBUTE_NAMES, "DE")


def of(*mentions: IdentityMention) -> IdentityRecord:
    return with_mentions(ANN, mentions, ())


def profile(record: IdentityRecord) -> dict[str, Any]:
    return {value.key: json.loads(value.value) for value in record.profile if value.key != "userID"}


def keys(record: IdentityRecord) -> dict[Rule, str]:
    return {rule: match_key.key for rule, match_key in record.match_keys.ranked()}


BOB = {"email": "bob@mail.example", "phone": "+493011", "firstName": "Bob", "lastName": "Lee", "location": "Mars"}


def test_beside_a_token_event_data_is_stored_but_not_matched() -> None:
    record = of(mention(1, BOB, {}))
    assert profile(record) == BOB
    assert keys(record) == {}


def test_claims_of_a_token_are_matched_and_are_in_the_profile() -> None:
    token = {"email": "Ann@mail.example", "phone_number": "030 1234567", "given_name": "Ann", "family_name": "Poe"}
    record = of(mention(1, BOB, token))
    assert profile(record) == {
        "email": "Ann@mail.example",
        "phone": "030 1234567",
        "firstName": "Ann",
        "lastName": "Poe",
        "location": "Mars",
    }
    assert keys(record) == {
        Rule.EMAIL_ADDRESS: "email:ann@mail.example",
        Rule.PHONE_NUMBER: "phone:+49301234567",
        Rule.NAME: "name:ann\tpoe",
    }
    assert {match_key.assurance for _, match_key in record.match_keys.ranked()} == {Assurance.PROVEN}


@pytest.mark.parametrize("kind", [Kind.SIGN_IN, Kind.USER_INFO])
def test_what_staff_say_of_a_person_is_no_evidence_in_any_order(kind: Kind) -> None:
    own = mention(1, {"email": "ann@mail.example"}, kind=kind, global_visit_id="of ann")
    by_agent = mention(2, BOB, kind=kind, staff_reason=STAFF_REASON_SITE, global_visit_id="of an agent")
    assert (of(by_agent).match_keys, of(by_agent).devices) == (MatchKeys(), ())
    for order in permutations([own, by_agent]):
        assert (of(*order).match_keys, of(*order).devices) == (of(own).match_keys, of(own).devices)
    assert of(own).devices


@pytest.mark.parametrize(
    ("said", "unified"),
    [
        (
            {"EmailAddress": "a@b.de", "PhoneNumber": "030 1", "FirstName": "Ann", "LastName": "Poe"},
            {"email": "a@b.de", "phone": "030 1", "firstName": "Ann", "lastName": "Poe"},
        ),
        ({"mail": "a@b.de", "mobile": "1", "givenName": "Ann"}, {"email": "a@b.de", "phone": "1", "firstName": "Ann"}),
        ({"emailaddress": "a@b.de", "TEL": "1", "familyname": "P"}, {"email": "a@b.de", "phone": "1", "lastName": "P"}),
        # The first name with a text counts; the others stay as they are.
        ({"EmailAddress": "c@d.de", "email": "a@b.de"}, {"EmailAddress": "c@d.de", "email": "a@b.de"}),
        ({"EmailAddress": "c@d.de", "email": " "}, {"email": "c@d.de"}),
        ({"mobile": "2", "PHONENUMBER": "1", "tel": "3"}, {"mobile": "2", "phone": "1", "tel": "3"}),
        ({"Mail": "1", "MAIL": "2", "mAIL": "3"}, {"MAIL": "2", "Mail": "1", "email": "3"}),
        ({"email": 7, "mail": None, "FirstName": ""}, {"email": 7, "mail": None, "FirstName": ""}),
        ({"name": "Ann", "e-mail": "x", "address": "y"}, {"name": "Ann", "e-mail": "x", "address": "y"}),
    ],
)
def test_each_attribute_gets_one_name(said: dict[str, Any], unified: dict[str, Any]) -> None:
    assert profile(of(mention(1, said))) == unified
    assert profile(of(mention(1, dict(reversed(said.items())), kind=Kind.USER_INFO))) == unified


def test_an_attribute_links_by_any_of_its_names_and_a_token_by_its_own() -> None:
    said = {"EmailAddress": "Bob@b.de", "Mobile": "030 1234567", "FIRSTNAME": "Bob", "familyName": "Lee"}
    assert keys(of(mention(1, said))) == {
        Rule.EMAIL_ADDRESS: "email:bob@b.de",
        Rule.PHONE_NUMBER: "phone:+49301234567",
        Rule.NAME: "name:bob\tlee",
    }
    proven = of(mention(1, said, {"email": "ann@b.de"}))
    assert keys(proven) == {Rule.EMAIL_ADDRESS: "email:ann@b.de"}
    assert profile(proven)["email"] == "ann@b.de", "a page cannot show another address beside the proven one"


def test_which_names_count_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDENTITY_EMAIL_KEYS", " kundenMail, ,login ")
    monkeypatch.setenv("NEVER_ERASE", "true")
    names = load(IdentitySettings).link_policy.names
    said = {"kundenmail": '""', "login": '"a@b.de"', "email": '"c@d.de"', "": '"e@f.de"', "Tel": '"1"'}
    assert names.unified(said) == {"kundenmail": '""', "email": '"a@b.de"', "": '"e@f.de"', "phone": '"1"'}


def test_an_address_that_is_the_subject_is_proven() -> None:
    event = admitted("SignIn", VISIT, 1, "ann@mail.example", data=BOB, assurance=Assurance.PROVEN.value)
    transition = transition_of(event)
    assert transition
    record = with_mentions(
        IdentityRecord(identity_id="ann@mail.example"),
        [IdentityMention.of(event, transition, ATTRIBUTE_NAMES, None)],
        (),
    )
    assert keys(record) == {Rule.EMAIL_ADDRESS: "email:ann@mail.example"}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_claimed_values_do_not_replace_proven_ones(order: tuple[int, ...]) -> None:
    said = {"name": "Ann Poe", "location": "Berlin", "email": "other@mail.example"}
    mentions = [
        mention(1, said, {"email": "ann@mail.example"}),
        mention(2, BOB | {"name": "Bob"}, kind=Kind.USER_INFO),
        mention(3, BOB | {"name": "Bob"}),  # a SignIn of a site without keys
    ]
    record = ANN
    for place in order:
        record = with_mentions(record, [mentions[place]], ())
    assert profile(record) == BOB | said | {"email": "ann@mail.example"}
    assert keys(record) == {Rule.EMAIL_ADDRESS: "email:ann@mail.example"}


def test_without_a_key_the_newest_value_counts_and_is_matched() -> None:
    record = of(mention(1, {"email": "ann@mail.example"}), mention(2, {"email": "lee@mail.example"}))
    assert profile(record) == {"email": "lee@mail.example"}
    assert keys(record) == {Rule.EMAIL_ADDRESS: "email:lee@mail.example"}


def test_a_proof_of_a_claimed_value_makes_linking_due() -> None:
    claimed = of(mention(1, {"email": "ann@mail.example"}))
    with_match_result = IdentityRecord(
        **{name: getattr(claimed, name) for name in claimed.__struct_fields__} | {"is_due": False}
    )
    assert with_mentions(
        with_match_result, [mention(2, {}, {"email": "ann@mail.example", "email_verified": True})], ()
    ).is_due


def test_erasing_removes_proven_values_and_keeps_later_ones() -> None:
    record = of(mention(1, {"location": "Berlin"}, {"email": "ann@mail.example"}), mention(9, {"sku": "A"}))
    later = erased(record, 5)
    assert (profile(later), keys(later), later.first_ms) == ({"sku": "A"}, {}, 9)
    assert erased(record, 9).left_keys == record.keys, "it is counted once more who gives them"
    assert replace(erased(record, 9), left_keys=()).is_blank


def test_a_profile_value_without_a_source_is_claimed() -> None:
    old = convert({"key": "email", "value": '"ann@mail.example"', "at": "9"}, ProfileValue)
    assert old.source is Source.PAGE
    new = ProfileValue("email", '"lee@mail.example"', "1", Source.PAGE_OF_PERSON)
    assert best_values([old], [new]) == (new,)


values = st.builds(
    ProfileValue,
    st.sampled_from("abcde"),
    st.sampled_from(["1", "2"]),
    st.sampled_from("123"),
    st.sampled_from(Source),
)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@given(given_values=st.lists(values, max_size=12), chance=st.randoms(use_true_random=False))
def test_a_profile_does_not_depend_on_the_order_of_arrival(
    most: int, given_values: list[ProfileValue], chance: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("footfall_identity.identity_record.MAX_PROFILE_KEYS", most)
        expected = best_values(given_values)
        arriving = given_values + chance.sample(given_values, len(given_values) // 2)
        chance.shuffle(arriving)
        profile: tuple[ProfileValue, ...] = ()
        while arriving:
            size = chance.randint(1, 3)
            profile, arriving = best_values(profile, arriving[:size]), arriving[size:]
    assert profile == expected


mentions = st.builds(
    lambda at_ms, said, token, kind: mention(at_ms, said, token if kind is Kind.SIGN_IN else None, kind),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(["email", "phone", "location"]), st.sampled_from(["a@b.de", "030 1", "c@d.de"])),
    st.none() | st.dictionaries(st.sampled_from(["email", "phone_number"]), st.sampled_from(["a@b.de", "030 123456"])),
    st.sampled_from([Kind.USER_INFO, Kind.SIGN_IN]),
)


@given(st.lists(mentions, max_size=6), st.randoms(use_true_random=False))
def test_a_record_does_not_depend_on_the_order_of_arrival(
    arrived: list[IdentityMention], chance: random.Random
) -> None:
    record = ANN
    again = arrived + chance.sample(arrived, len(arrived) // 2)
    chance.shuffle(again)
    for one in again:
        record = with_mentions(record, [one], ())
    expected = of(*arrived)
    assert (record.profile, record.match_keys, record.keys) == (expected.profile, expected.match_keys, expected.keys)


def test_a_status_by_a_revision_that_was_lost_gives_way_to_that_of_the_visit_now() -> None:
    signed_in = with_mentions(ANN, [mention(1, {})], [VisitStatus(VISIT, 5, "ann")])
    signed_out = [VisitStatus(VISIT, 2, "")]
    assert with_mentions(signed_in, [], signed_out) == signed_in
    again = without_lost_revisions(signed_in, {VISIT: 2})
    after = with_mentions(again, [], signed_out)
    assert after.newest
    assert not after.newest.is_signed_in
    assert not after.by_site[0].newest.is_signed_in
    assert without_lost_revisions(after, {VISIT: 2}) == after
    assert without_lost_revisions(signed_in, {VISIT: 5}) == signed_in


def test_attributes_of_no_person_stay_in_the_profile_and_link_no_contact() -> None:
    said = {"email": "test@test.com", "mail": "ann@mail.example", "phone": "+490000000000"}
    ignored = ["email", "phone"]
    record = of(mention(1, said, ignored_keys=ignored))
    assert keys(record) == {Rule.EMAIL_ADDRESS: "email:ann@mail.example"}
    assert profile(record)["email"] == "test@test.com"
    proven = {"email": "test@test.com", "phone_number": "+493012345"}
    assert keys(of(mention(1, BOB, proven, ignored_keys=ignored))) == {Rule.PHONE_NUMBER: "phone:+493012345"}
