"""Admission: event times, identification, site, derived ids and contexts."""

import json
from typing import Any

import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall_collector.admission import DAY_MS, Admission, event_time
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.placeholders import PLACEHOLDERS_VERSION
from footfall_eventlog.staff import StaffRules
from footfall_timeline import page_id, user_agent_id
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.tools.batches import CHROME, batch, context, message

NOW = 1_767_606_012_466
MINUTE_MS = 60_000
VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"

admission = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS)


def admitted(event: Event, **fields: Any) -> Event:
    """Return the event after admission in a request received at NOW."""
    sent = batch(event, contexts=[context(**{"received_time_ms": NOW} | fields)])
    assert admission.admit(sent, NOW) == {}
    return sent.events[0]


def rejected(event: Event, **fields: Any) -> str:
    """Return the reason for which admission rejects it."""
    sent = batch(event, contexts=[context(**{"received_time_ms": NOW} | fields)])
    [rejection] = admission.admit(sent, NOW).values()
    return collector.RejectReason.Name(rejection.reason).removeprefix("REJECT_REASON_").lower()


class TestClock:
    @pytest.mark.parametrize(
        ("timestamp_ago", "sent_ago", "event_ago"),
        [
            pytest.param(5, 0, 5, id="right clock"),
            pytest.param(5_005, 5_000, 5_005, id="clock five seconds slow is believed"),
            pytest.param(-4_995, -5_000, -4_995, id="clock five seconds fast is believed"),
            pytest.param(5_006, 5_001, 5, id="clock more than five seconds slow is corrected"),
            pytest.param(-4_996, -5_001, 5, id="clock more than five seconds fast is corrected"),
            pytest.param(31 * MINUTE_MS, 31 * MINUTE_MS, 0, id="clock half an hour slow is corrected"),
            pytest.param(91 * MINUTE_MS, 31 * MINUTE_MS, 60 * MINUTE_MS, id="an hour's queue, clock half an hour slow"),
            pytest.param(-240 * MINUTE_MS, -300 * MINUTE_MS, 60 * MINUTE_MS, id="an hour's queue, clock hours fast"),
            pytest.param(3 * DAY_MS, 0, 3 * DAY_MS, id="three-day-old queue, right clock"),
            pytest.param(5 * DAY_MS, 2 * DAY_MS, 3 * DAY_MS, id="three-day-old queue, clock two days slow"),
            pytest.param(DAY_MS, -2 * DAY_MS, 3 * DAY_MS, id="three-day-old queue, clock two days fast"),
            pytest.param(NOW - 5_000, NOW - 10_000, 5_000, id="clock in 1970"),
            pytest.param(-27_000 * DAY_MS, -27_000 * DAY_MS - 5_000, 5_000, id="clock in 2100"),
            pytest.param(NOW - 1, None, 0, id="timestamp in 1970, clock unknown"),
            pytest.param(-27_000 * DAY_MS, None, 0, id="timestamp in 2100, clock unknown"),
            pytest.param(DAY_MS, None, DAY_MS, id="a day ago, clock unknown"),
            pytest.param(DAY_MS + 1, None, 0, id="more than a day ago, clock unknown"),
            pytest.param(-DAY_MS, None, -DAY_MS, id="in a day, clock unknown"),
            pytest.param(-DAY_MS, 0, -DAY_MS, id="in a day, right clock"),
            pytest.param(-DAY_MS - 1, 0, 0, id="in more than a day, right clock"),
            pytest.param(-DAY_MS, 2 * DAY_MS, 0, id="in more than a day, corrected clock"),
            pytest.param(7 * DAY_MS, 0, 7 * DAY_MS, id="as old as it may be"),
        ],
    )
    def test_the_time_of_an_event(self, timestamp_ago: int, sent_ago: int | None, event_ago: int) -> None:
        event = message(timestamp_ms=NOW - timestamp_ago)
        event = admitted(event, sent_time_ms=0 if sent_ago is None else NOW - sent_ago)
        assert NOW - event.event_time_ms == event_ago
        assert event.timestamp_ms == NOW - timestamp_ago  # kept as sent

    @pytest.mark.parametrize(
        ("timestamp_ago", "sent_ago"),
        [
            pytest.param(7 * DAY_MS + 1, 0, id="right clock"),
            pytest.param(NOW - 5_000, 0, id="timestamp in 1970, right clock"),
            pytest.param(10 * DAY_MS, 2 * DAY_MS, id="corrected clock"),
            pytest.param(0, -(2**62), id="absurd clock"),
        ],
    )
    def test_events_older_than_the_maximum_age_are_rejected(self, timestamp_ago: int, sent_ago: int) -> None:
        event = message(timestamp_ms=NOW - timestamp_ago)
        assert rejected(event, sent_time_ms=NOW - sent_ago) == "too_old"

    def test_old_events_of_a_trusted_sender_are_accepted(self) -> None:
        event = admitted(message(timestamp_ms=1), keeps_times=True)
        assert event.event_time_ms == 1

    def test_a_request_without_a_receive_time_gets_the_current_time(self) -> None:
        sent = batch(message(timestamp_ms=1), contexts=[context(received_time_ms=0)])
        assert admission.admit(sent, NOW) == {}
        assert sent.contexts[0].received_time_ms == sent.events[0].event_time_ms == NOW

    @pytest.mark.parametrize(
        ("tolerance_ms", "reported_ago", "accepted_ago"),
        [(60_000, 59_000, 59_000), (60_000, 3 * DAY_MS, 60_000), (60_000, -DAY_MS, -60_000), (None, DAY_MS, DAY_MS)],
    )
    def test_a_receive_time_is_limited_to_the_tolerance(
        self, tolerance_ms: int | None, reported_ago: int, accepted_ago: int
    ) -> None:
        reported = context(received_time_ms=NOW - reported_ago, sent_time_ms=NOW - reported_ago)
        sent = batch(message(timestamp_ms=NOW - reported_ago), contexts=[reported])
        rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, received_tolerance_ms=tolerance_ms)
        assert rules.admit(sent, NOW) == {}
        assert NOW - sent.contexts[0].received_time_ms == NOW - sent.events[0].event_time_ms == accepted_ago

    @given(st.integers(1, 253_402_300_799_999), st.integers(-(2**63), 2**63 - 1))
    def test_no_event_time_is_more_than_a_day_in_the_future(self, timestamp_ms: int, sent_ms: int) -> None:
        assert event_time(timestamp_ms, NOW, sent_ms) <= NOW + DAY_MS


class TestIdentification:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [("SignIn", event_pb2.TRANSITION_KIND_SIGN_IN), ("UserInfo", event_pb2.TRANSITION_KIND_USER_INFO)],
    )
    def test_sign_in_and_user_info_name_a_user(self, name: str, kind: event_pb2.TransitionKind.ValueType) -> None:
        event = admitted(message(name, {"userID": "Dana@example.com "}, timestamp_ms=NOW))
        assert (event.transition, event.identity_id) == (kind, "Dana@example.com ")
        assert event.assurance == event_pb2.ASSURANCE_CLAIMED

    @pytest.mark.parametrize("data", [None, {}, {"userID": "dana"}, {"userID": 7.5}])
    def test_the_user_id_of_a_sign_out_is_ignored(self, data: Any) -> None:
        event = admitted(message("SignOut", data, timestamp_ms=NOW))
        assert event.transition == event_pb2.TRANSITION_KIND_SIGN_OUT
        assert (event.identity_id, event.assurance, event.assurance_reason) == ("", 0, "")

    @pytest.mark.parametrize("user_id", ["x" * 513, True, 1.5, [], {}, 10**512, -(10**512)])
    @pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
    def test_a_user_id_is_a_string_of_1_to_512_characters_or_an_integer(self, name: str, user_id: Any) -> None:
        assert rejected(message(name, {"userID": user_id}, timestamp_ms=NOW)) == "invalid_user_id"

    @pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
    def test_a_user_id_is_required(self, name: str) -> None:
        assert rejected(message(name, timestamp_ms=NOW)) == "invalid_user_id"
        assert rejected(message(name, {"name": "Dana"}, timestamp_ms=NOW)) == "invalid_user_id"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            ({"userID": ""}, event_pb2.IGNORED_REASON_BLANK),
            ({"userID": None}, event_pb2.IGNORED_REASON_BLANK),
            ({"userId": "", "email": " \u200b"}, event_pb2.IGNORED_REASON_BLANK),
            ({"userID": 0}, event_pb2.IGNORED_REASON_PLACEHOLDER),
            ({"userID": "Undefined ", "email": "dana@example.com"}, event_pb2.IGNORED_REASON_PLACEHOLDER),
            ({"email": "{{email}}"}, event_pb2.IGNORED_REASON_TEMPLATE),
        ],
    )
    @pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
    def test_a_user_id_that_names_no_person_is_ignored(self, name: str, data: Any, reason: int) -> None:
        event = admitted(message(name, data, timestamp_ms=NOW))
        assert (event.ignored_reason, event.policy_version) == (reason, PLACEHOLDERS_VERSION)
        assert (event.transition, event.identity_id, event.assurance, event.assurance_reason) == (0, "", 0, "")
        assert json.loads(event.data_json) == data

    @pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
    def test_attributes_of_no_person_are_named(self, name: str) -> None:
        data = {"userID": "dana", "mail": "test@test.com", "tel": "000-000 0000", "firstName": "None", "size": "none"}
        event = admitted(message(name, data, timestamp_ms=NOW))
        assert (event.identity_id, [*event.ignored_keys]) == ("dana", ["mail", "tel", "firstName"])

    @pytest.mark.parametrize("user_id", ["x" * 512, "ü/#% \x00", "42"])
    def test_a_user_id_is_kept_as_spelled(self, user_id: str) -> None:
        assert admitted(message("SignIn", {"userID": user_id}, timestamp_ms=NOW)).identity_id == user_id

    @pytest.mark.parametrize("number", [10, 42, -7, 2**70])
    def test_an_integer_is_taken_as_its_decimal_text_and_stays_a_number_in_the_data(self, number: int) -> None:
        event = admitted(message("SignIn", {"userID": number}, timestamp_ms=NOW))
        assert event.identity_id == str(number)
        assert json.loads(event.data_json) == {"userID": number}

    def test_the_alias_of_the_user_id_is_renamed_and_nothing_else_changes(self) -> None:
        sent = b'{"b":[1.50,  {"userId":2}], "us\\u0065rId": "dana", "a":1e2}'
        event = admitted(message("UserInfo", sent, timestamp_ms=NOW))
        assert event.identity_id == "dana"
        assert event.data_json == b'{"b":[1.50,  {"userId":2}],"userID":"dana","a":1e2}'

    def test_of_two_spellings_the_right_one_wins_and_the_data_stays_verbatim(self) -> None:
        sent = b'{ "userId": "bob", "userID": "ann" }'
        event = admitted(message("SignIn", sent, timestamp_ms=NOW))
        assert (event.identity_id, event.data_json) == ("ann", sent)

    @pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
    @pytest.mark.parametrize(
        ("sent", "user_id"),
        [
            ({"userid": "dana"}, "dana"),
            ({"email": "dana@example.com", "username": "dana"}, "dana"),
            ({"email": "dana@example.com"}, "dana@example.com"),
            ({"email": "dana@example.com", "userid": 7}, "7"),
            ({"userID": None, "userId": "", "username": "dana"}, "dana"),
            ({"userID": "ann", "userId": "bob", "username": "dana"}, "ann"),
        ],
    )
    def test_the_first_key_that_is_given_names_the_user(self, name: str, sent: dict[str, Any], user_id: str) -> None:
        event = admitted(message(name, sent, timestamp_ms=NOW))
        assert event.identity_id == user_id

    @pytest.mark.parametrize("key", ["username", "email"])
    def test_another_key_that_names_the_user_stays_as_sent(self, key: str) -> None:
        sent = b'{ "%b" : "dana", "n": 1.50}' % key.encode()
        assert admitted(message("SignIn", sent, timestamp_ms=NOW)).data_json == sent

    @pytest.mark.parametrize("sent", [{"userID": [], "email": "d@b.de"}, {"username": "x" * 513, "email": "d@b.de"}])
    def test_an_invalid_user_id_is_not_replaced_by_another_key(self, sent: dict[str, Any]) -> None:
        assert rejected(message("SignIn", sent, timestamp_ms=NOW)) == "invalid_user_id"

    def test_which_keys_name_users_is_a_setting(self) -> None:
        policy = IdentityPolicy(user_id_keys=["customerId", "login"])
        rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=policy.of_site)
        data = ({"login": "dana"}, {"login": "dana", "customerId": 7}, {"userID": "dana", "email": "d@b.de"})
        sent = batch(*(message("SignIn", each, timestamp_ms=NOW) for each in data))
        [(position, outcome)] = rules.admit(sent, NOW).items()
        assert [event.identity_id for event in sent.events] == ["dana", "7", ""]
        assert (position, outcome.reason) == (2, collector.REJECT_REASON_INVALID_USER_ID)
        assert "customerId, login" in outcome.message

    @pytest.mark.parametrize("name", ["SignIn", "UserInfo", "SignOut"])
    def test_a_sign_in_token_is_always_removed(self, name: str) -> None:
        sent = b'{"userID":"dana","tok\\u0065n":"SECRET","n":1}'
        assert admitted(message(name, sent, timestamp_ms=NOW)).data_json == b'{"userID":"dana","n":1}'

    def test_other_events_keep_their_data(self) -> None:
        sent = b'{"userId" : "dana", "items":[1.50,  "x"]}'
        event = admitted(message("AddToCart", sent, timestamp_ms=NOW))
        assert (event.identity_id, event.transition, event.data_json) == ("", 0, sent)

    @pytest.mark.parametrize("name", ["PageEntered", "SignOut", "UserInfo"])
    def test_forged_values_in_fields_of_admission_are_overwritten(self, name: str) -> None:
        forged: dict[str, Any] = {
            "event_time_ms": 1,
            "page_id": "x",
            "user_agent_id": "x",
            "transition": event_pb2.TRANSITION_KIND_SIGN_IN,
            "identity_id": "admin",
            "assurance": event_pb2.ASSURANCE_PROVEN,
            "assurance_reason": "token_valid",
            "title": "x",
            "assurance_reason_code": event_pb2.ASSURANCE_REASON_TOKEN_VALID,
            "proven_json": b'{"email":"bob@mail.example"}',
            "token_id": "a" * 16,
            "browser_visit_id": "x",
            "ignored_reason": event_pb2.IGNORED_REASON_BLANK,
            "policy_version": "x",
            "ignored_keys": ["email"],
            "received_time_ms": 1,
            "staff_reason": event_pb2.STAFF_REASON_KEY,
        }
        assert forged.keys() == {field.name for field in Event.DESCRIPTOR.fields if field.number >= 20}
        honest = message(name, {"userID": "dana"}, timestamp_ms=NOW)
        sent = Event.FromString(honest.SerializeToString())
        sent.MergeFrom(Event(**forged))
        assert admitted(sent, user_agent="") == admitted(honest, user_agent="")


class TestStaff:
    RULES = StaffRules(["desk"], ["10.20.0.0/16"])

    @pytest.mark.parametrize(
        ("site", "address", "staff", "reason"),
        [
            ("shop", "10.21.0.1", False, event_pb2.STAFF_REASON_UNSPECIFIED),
            ("shop", "10.20.0.1", False, event_pb2.STAFF_REASON_ADDRESS),
            ("desk", "10.21.0.1", False, event_pb2.STAFF_REASON_SITE),
            ("shop", "", True, event_pb2.STAFF_REASON_KEY),
        ],
    )
    @pytest.mark.parametrize("name", ["PageEntered", "SignIn"])
    def test_site_address_or_key_mark_an_event(
        self, name: str, site: str, address: str, staff: bool, reason: int
    ) -> None:
        rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, staff_rules=lambda: self.RULES)
        request = context(received_time_ms=NOW, address=address, staff=staff)
        sent = batch(message(name, {"userID": "dana"}, timestamp_ms=NOW, site=site), contexts=[request])
        assert rules.admit(sent, NOW) == {}
        assert sent.events[0].staff_reason == reason
        assert not sent.contexts[0].staff
        if name == "SignIn":
            assert sent.events[0].identity_id == "dana"


class TestDerivedIds:
    def test_ids_of_page_and_user_agent_are_derived_from_the_visit(self) -> None:
        event = admitted(message(visit_id=VISIT.upper(), browser_page_id="P1", timestamp_ms=NOW))
        assert (event.page_id, event.browser_page_id) == (page_id(VISIT, "P1"), "P1")
        assert event.user_agent_id == user_agent_id(VISIT, CHROME)

    def test_without_page_and_user_agent_the_derived_ids_are_empty(self) -> None:
        event = admitted(message(timestamp_ms=NOW), user_agent="")
        assert (event.page_id, event.user_agent_id) == ("", "")


class TestSite:
    @pytest.mark.parametrize(
        ("of_event", "of_request", "expected"),
        [("", "", "default"), ("", "shop", "shop"), ("blog", "", "blog"), ("blog", "shop", "blog")],
    )
    def test_the_site_of_the_event_precedes_that_of_the_request(
        self, of_event: str, of_request: str, expected: str
    ) -> None:
        event = admitted(message(site=of_event, timestamp_ms=NOW), site=of_request, origin="https://shop.example")
        assert event.site == expected

    @pytest.mark.parametrize("name", ["a b", "x" * 65, "é", "-x", "a/b", "x\n"])
    def test_an_invalid_site_name_is_rejected(self, name: str) -> None:
        assert rejected(message(site=name, timestamp_ms=NOW)) == "unknown_site"


class TestContexts:
    def cut(self, **fields: Any) -> EventContext:
        sent = batch(message(timestamp_ms=NOW), contexts=[context(**{"received_time_ms": NOW} | fields)])
        admission.admit(sent, NOW)
        return sent.contexts[0]

    @pytest.mark.parametrize(
        ("address", "kept"),
        [
            ("203.0.113.77", "203.0.113.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            ("::ffff:203.0.113.77", "203.0.113.0"),
            ("fe80::1%eth0", "fe80::"),
            ("203.0.113.77:8080", ""),
            ("dana's telephone", ""),
            ("", ""),
        ],
    )
    def test_only_the_network_of_an_address_is_kept(self, address: str, kept: str) -> None:
        assert self.cut(address=address).address == kept

    def test_a_long_user_agent_is_truncated(self) -> None:
        assert self.cut(user_agent="ü" * 2_000).user_agent == "ü" * 1_024

    @pytest.mark.parametrize(
        ("user_agent", "bot"),
        [
            (CHROME, False),
            ("", False),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", True),
            ("Mozilla/5.0 (Linux; Android 10; CUBOT ECHO) AppleWebKit/537.36 Chrome/142.0 Mobile Safari/537.36", False),
        ],
    )
    def test_robots_are_labelled_regardless_of_the_sent_label(self, user_agent: str, bot: bool) -> None:
        assert self.cut(user_agent=user_agent, bot=not bot).bot is bot


events = st.builds(
    message,
    st.sampled_from(["PageEntered", "SignIn", "SignOut", "UserInfo", "AddToCart", ""]),
    st.sampled_from([None, b"{}", b"[]", b'{"userId":"dana"}', b'{"userID":7,"token":"t"}', b'{"a":{}}']),
    event_id=st.uuids().map(lambda u: u.hex.upper()) | st.text(max_size=3),
    visit_id=st.uuids().map(str),
    browser_page_id=st.text(max_size=3),
    timestamp_ms=st.integers(NOW - 9 * DAY_MS, NOW + 9 * DAY_MS) | st.integers(-(2**63), 2**63 - 1),
    site=st.sampled_from(["", "shop", "a b"]),
)
contexts = st.builds(
    context,
    received_time_ms=st.sampled_from([0, NOW - 5_000, NOW]),
    sent_time_ms=st.sampled_from([0, NOW, NOW - 3 * DAY_MS]) | st.integers(-(2**63), 2**63 - 1),
    user_agent=st.sampled_from(["", CHROME, "x" * 2_000]),
    address=st.sampled_from(["", "203.0.113.77", "2001:db8:1:2::3", "x"]),
)


def test_a_too_large_event_is_rejected() -> None:
    assert rejected(message(data={"text": "x" * 65_536})) == "too_large"


def test_an_event_whose_admission_fails_is_rejected_alone() -> None:
    def category_of(event: Event) -> str:
        if event.event_name == "Broken":
            raise RecursionError("dana@example.com")
        return "shop"

    rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, category_of=category_of)
    sent = batch(*(message(name, timestamp_ms=NOW) for name in ("First", "Broken", "Broken", "Last")))
    with capture_logs() as lines:
        rejections = rules.admit(sent, NOW)
    assert {position: (outcome.reason, outcome.message) for position, outcome in rejections.items()} == dict.fromkeys(
        [1, 2], (collector.REJECT_REASON_MALFORMED, "the server cannot process this event")
    )
    assert [event.category for event in sent.events] == ["shop", "", "", "shop"]
    event = "an event cannot be processed; it is rejected"
    assert [(line["event"], line["log_level"], line["error"]) for line in lines] == [(event, "error", "RecursionError")]


@given(st.lists(events, min_size=1, max_size=6), contexts)
def test_admission_is_deterministic_and_idempotent(sent: list[Event], of_request: EventContext) -> None:
    first, again = (EventBatch(contexts=[of_request], events=sent) for _ in range(2))
    rejections = admission.admit(first, NOW)
    assert admission.admit(again, NOW) == rejections
    assert all(outcome.reason != collector.REJECT_REASON_MALFORMED for outcome in rejections.values())
    for position in sorted(rejections, reverse=True):
        del first.events[position], again.events[position]
    assert first == again
    assert admission.admit(again, NOW + 1) == {}
    assert first == again
