"""What identities share with others: devices by day, and match keys that are not used."""

import random
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.devices import MAX_COUNTED, MAX_DAYS, DeviceDay, device_day, merged_days, most_devices
from footfall_eventlog.match_keys import MatchKey, MatchKeys, Rule, rule_and_text
from footfall_identity.identity_record import (
    Decision,
    IdentityMention,
    IdentityRecord,
    erased,
    restricted_to_sites,
    with_mentions,
)
from footfall_identity.link_decisions import with_match_result
from footfall_identity.matching import Matches, MatchResult, Sharing, Status, UnusedKey, UnusedReason, match_contact
from footfall_timeline import Assurance
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.tools.identity import ATTRIBUTE_NAMES, DAY_MS, admitted, new_id

AT_MS = 20_000 * DAY_MS + 1
PHONE, EMAIL, NAME = "phone:+49301234567", "email:a@b.de", "name:ann\tlee"
CLAIMED, PROVEN = Assurance.CLAIMED.value, Assurance.PROVEN.value
GENERIC, SHARED = UnusedReason.GENERIC_VALUE, UnusedReason.SHARED_IDENTITY

days = st.lists(
    st.builds(
        lambda day, device: DeviceDay(day, (device,)), st.integers(1, 6), st.integers(0, 9).map(lambda n: f"{n:012x}")
    ),
    max_size=40,
)


@pytest.mark.parametrize(("most_days", "most_devices_kept"), [(2, 3), (3, 1), (MAX_DAYS, MAX_COUNTED)])
@given(seen=days, chance=st.randoms(use_true_random=False))
def test_days_of_devices_do_not_depend_on_order_repetition_and_grouping(
    most_days: int, most_devices_kept: int, *, seen: list[DeviceDay], chance: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("footfall_eventlog.devices.MAX_DAYS", most_days)
        patch.setattr("footfall_eventlog.devices.MAX_COUNTED", most_devices_kept)
        devices = {day: sorted({one.devices[0] for one in seen if one.day == day}) for day in {one.day for one in seen}}
        expected = {day: tuple(devices[day][:most_devices_kept]) for day in sorted(devices)[-most_days:]}
        arriving = seen + chance.sample(seen, len(seen) // 2)
        chance.shuffle(arriving)
        merged: tuple[DeviceDay, ...] = ()
        while arriving:
            size = chance.randint(1, 5)
            merged, arriving = merged_days(merged, merged_days(arriving[:size])), arriving[size:]
    assert {one.day: one.devices for one in merged} == expected


def test_a_record_keeps_a_bounded_number_of_days_and_devices() -> None:
    seen = [DeviceDay(day, (f"{device:012x}",)) for day in range(3 * MAX_DAYS) for device in range(3 * MAX_COUNTED)]
    merged = merged_days(seen)
    assert [one.day for one in merged] == [*range(2 * MAX_DAYS, 3 * MAX_DAYS)]
    assert {len(one.devices) for one in merged} == {MAX_COUNTED} == {most_devices(merged)}
    assert most_devices(merged_days(seen[:2])) == 0, "few devices are not counted"


def test_the_same_device_differs_between_identities_and_shows_nothing_of_itself() -> None:
    device = new_id()
    ann, bob = device_day("ann", device, AT_MS), device_day("bob", device, AT_MS)
    assert ann
    assert bob
    assert ann != bob
    assert ann == device_day("ann", device, AT_MS + 5)
    assert device[:8] not in ann.devices[0]
    assert device_day("ann", "", AT_MS) is None


def mention(at_ms: int, device: str, **data: Any) -> IdentityMention:
    event = admitted("SignIn", new_id(), at_ms, "ann", data=data, global_visit_id=device)
    transition = transition_of(event)
    assert transition
    return IdentityMention.of(event, transition, ATTRIBUTE_NAMES, "DE")


def used_on(count: int, at_ms: int = AT_MS) -> IdentityRecord:
    record = IdentityRecord(identity_id="ann")
    return with_mentions(record, [mention(at_ms + n, new_id(), email="a@b.de") for n in range(count)], ())


def test_an_identity_on_more_devices_than_allowed_on_one_day_is_shared_and_linked_again() -> None:
    record = replace(used_on(20), is_due=False)
    assert not record.is_shared(20)
    again = with_mentions(record, [mention(AT_MS + DAY_MS, new_id(), email="a@b.de")], ())
    assert (again.is_shared(20), again.is_due) == (False, False), "it counts by day"
    more = with_mentions(record, [mention(AT_MS + 99, new_id(), email="a@b.de")], ())
    assert (more.is_shared(20), more.is_due) == (True, True)
    later = [mention(AT_MS + n * DAY_MS, new_id()) for n in range(1, MAX_DAYS + 1)]
    past = with_mentions(replace(more, is_due=False), later, ())
    assert (past.is_shared(20), past.is_due) == (False, True), "its latest days count"


def test_erasing_removes_devices_and_unused_keys() -> None:
    record = with_mentions(used_on(3), [mention(AT_MS + DAY_MS, new_id())], ())
    unused = UnusedKey(Rule.PHONE_NUMBER, GENERIC, MatchKey(CLAIMED, f"{AT_MS:013d}x", new_id(), PHONE))
    of_later = MatchKey(CLAIMED, f"{AT_MS + DAY_MS:013d}x", new_id(), NAME)
    decision = Decision(
        at_ms=1,
        status=Status.LINKED,
        rule=Rule.NAME,
        actor="rule",
        contact_id="c",
        match_key=of_later,
        unused=(unused,),
    )
    after = erased(replace(record, decisions=(decision,)), AT_MS + 10)
    assert [one.day for one in after.devices] == [20_001]
    assert after.device_peak == 0
    assert after.decisions == (replace(decision, unused=()),)
    none = replace(decision, status=Status.UNLINKED, rule=Rule.NONE, contact_id="", match_key=None)
    assert erased(replace(record, decisions=(none,)), AT_MS + 10).decisions == ()


def test_a_site_sees_nothing_that_is_counted_over_all_sites() -> None:
    unused = UnusedKey(Rule.PHONE_NUMBER, GENERIC, MatchKey(CLAIMED, "1", new_id(), PHONE, "default"))
    decision = Decision(at_ms=1, status=Status.UNLINKED, rule=Rule.NONE, actor="rule", unused=(unused,))
    seen = restricted_to_sites(replace(used_on(30), decisions=(decision,)), ["default"])
    assert seen
    assert (seen.devices, seen.device_peak, seen.is_shared(20)) == ((), 0, False)
    assert seen.decisions == (replace(decision, unused=()),)


def key(text: str, assurance: int = CLAIMED) -> MatchKey:
    return MatchKey(assurance, "1", new_id(), text)


def decide(keys: MatchKeys, generic: dict[str, int], *, is_shared: bool = False) -> MatchResult:
    matches = {EMAIL: Matches(("by-email",), 1), PHONE: Matches(("p1", "p2"), 2), NAME: Matches(("by-name",), 1)}
    return match_contact(keys, "", (), {}, matches, sharing=Sharing(generic, is_shared))


ALL = MatchKeys(email=key(EMAIL), phone=key(PHONE), name=key(NAME))


@pytest.mark.parametrize(
    ("generic", "status", "rule", "unused"),
    [
        ({}, Status.LINKED, Rule.EMAIL_ADDRESS, []),
        ({NAME: CLAIMED}, Status.LINKED, Rule.EMAIL_ADDRESS, []),
        ({EMAIL: CLAIMED}, Status.AMBIGUOUS, Rule.PHONE_NUMBER, [Rule.EMAIL_ADDRESS]),
        ({EMAIL: PROVEN, PHONE: CLAIMED}, Status.LINKED, Rule.NAME, [Rule.EMAIL_ADDRESS, Rule.PHONE_NUMBER]),
        (dict.fromkeys((EMAIL, PHONE, NAME), CLAIMED), Status.UNLINKED, Rule.NONE, [*Rule][1:4]),
    ],
)
def test_the_first_rule_whose_value_is_not_generic_decides(
    generic: dict[str, int], status: Status, rule: Rule, unused: list[Rule]
) -> None:
    found = decide(ALL, generic)
    assert (found.status, found.rule) == (status, rule)
    assert [(one.rule, one.reason) for one in found.unused] == [(one, GENERIC) for one in unused]


def test_claims_do_not_make_a_proven_value_generic() -> None:
    proven = MatchKeys(phone=key(PHONE, PROVEN))
    assert decide(proven, {PHONE: CLAIMED}).status is Status.AMBIGUOUS
    assert decide(proven, {PHONE: PROVEN}).status is Status.UNLINKED


def test_a_key_of_an_early_version_without_an_assurance_is_used() -> None:
    assert decide(MatchKeys(name=key(NAME, 0)), {EMAIL: CLAIMED}).contact_id == "by-name"


def test_a_shared_identity_is_linked_by_proven_values_alone() -> None:
    found = decide(ALL, {}, is_shared=True)
    assert (found.status, [one.reason for one in found.unused]) == (Status.UNLINKED, [SHARED] * 3)
    assert decide(MatchKeys(email=key(EMAIL, PROVEN)), {}, is_shared=True).contact_id == "by-email"


def test_a_generic_address_of_a_user_info_names_no_candidate() -> None:
    recognized = MatchKeys(recognized=key(EMAIL))
    assert decide(recognized, {}).candidates == ("by-email",)
    found = decide(recognized, {EMAIL: CLAIMED})
    assert (found.candidates, [one.rule for one in found.unused]) == ((), [Rule.EMAIL_ADDRESS])


def test_values_that_no_contact_has_are_not_mentioned() -> None:
    assert decide(MatchKeys(email=key("email:other@b.de")), {"email:other@b.de": CLAIMED}).unused == ()


def test_what_is_not_used_is_a_decision_of_its_own_once() -> None:
    linked = with_match_result(IdentityRecord(identity_id="ann"), decide(ALL, {}), 1)
    record = with_match_result(linked, decide(ALL, {EMAIL: CLAIMED}), 2)
    newer = replace(ALL, email=replace(key(EMAIL), at="2"))
    assert with_match_result(record, decide(newer, {EMAIL: CLAIMED}), 3) == record
    unlinked = with_match_result(record, decide(ALL, dict.fromkeys((EMAIL, PHONE, NAME), CLAIMED)), 4)
    assert (unlinked.contact_id, [one.rule for one in unlinked.decisions[-1].unused]) == ("", [*Rule][1:4])
    back = with_match_result(unlinked, decide(ALL, {}), 5)
    assert (back.contact_id, len(back.decisions)) == ("by-email", 4)
    blank = with_match_result(IdentityRecord(identity_id="ann"), decide(MatchKeys(), {}), 1)
    assert blank.decisions == ()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_keys_that_are_no_longer_given_are_remembered_until_they_are_counted(order: tuple[int, ...]) -> None:
    phones = ["030 1234567", "030 1234568", "030 1234569"]
    record = IdentityRecord(identity_id="ann")
    for number in order:
        record = with_mentions(record, [mention(AT_MS + number, new_id(), phone=phones[number])], ())
    assert record.keys == ("phone:+49301234569",)
    newest_so_far = {max(order[: place + 1]) for place in range(3)}
    assert {*record.left_keys} == {f"phone:+4930123456{7 + number}" for number in newest_so_far - {2}}
    assert with_match_result(record, decide(MatchKeys(), {}), 1).left_keys == ()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_1000_identities_with_one_number_are_decided_alike_in_100_orders() -> None:
    """The fold of events and the rules alone. With stores and several processes: test_generic_values.py."""
    people = [f"person {number:04}" for number in range(1_000)]
    said = [(person, mention(AT_MS + 1, new_id(), phone="030 1234567")) for person in people]
    said += [(person, mention(AT_MS, new_id(), phone=f"030 2{place:06}")) for place, person in enumerate(people)]
    contacts = {PHONE: Matches(("the office",), 1)}
    chance = random.Random(26)  # noqa: S311 - repeatable, not secret
    for _ in range(100):
        chance.shuffle(said)
        records = {person: IdentityRecord(identity_id=person) for person in people}
        for person, one in said:
            records[person] = with_mentions(records[person], [one], ())
        given = Counter(key for record in records.values() for key in record.keys)
        assert given == {PHONE: 1_000}, "the newest number of each counts"
        for generic, status in (({PHONE: CLAIMED}, Status.UNLINKED), (dict[str, int](), Status.LINKED)):
            found = {
                match_contact(record.match_keys, "", (), {}, contacts, sharing=Sharing(generic)).status
                for record in records.values()
            }
            assert found == {status}, "allowed by hand, links return"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (EMAIL, (Rule.EMAIL_ADDRESS, "a@b.de")),
        (PHONE, (Rule.PHONE_NUMBER, "+49301234567")),
        (NAME, (Rule.NAME, "ann lee")),
        ('email:"a:b"@c.de', (Rule.EMAIL_ADDRESS, '"a:b"@c.de')),
    ],
)
def test_a_key_can_be_read(key: str, expected: tuple[Rule, str]) -> None:
    assert rule_and_text(key) == expected
