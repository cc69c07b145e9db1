"""Event resources become events as admission would have logged them, with the transitions that the source explains."""

import json
from pathlib import Path
from typing import Any

import pytest
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.admitted import transition_of
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.site_groups import SiteGroups
from footfall_history.importing.past_events import ExplainedTransition, PastVisit, TimedEvent, decode_event, to_batch
from footfall_timeline import scoped_visit_id

VISIT, EVENT, PAGE = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(3))
GROUPS = SiteGroups({"shop": "shops", "default": "default"})
NAMES = {
    event_pb2.TRANSITION_KIND_UNSPECIFIED: "",
    event_pb2.TRANSITION_KIND_USER_INFO: "UserInfo",
    event_pb2.TRANSITION_KIND_SIGN_IN: "SignIn",
    event_pb2.TRANSITION_KIND_SIGN_OUT: "SignOut",
}


PLAIN = PastVisit(VISIT)
POLICY = IdentityPolicy()

explained = ExplainedTransition.from_resource


def made_of(
    name: str, data: Any, visit: PastVisit = PLAIN, site: str = "default", policy: IdentityPolicy = POLICY, **more: Any
) -> Event:
    resource = {"eventID": EVENT, "visitID": VISIT, "eventName": name, "timestamp": 7, "data": data} | more
    [event] = to_batch(visit, [TimedEvent(decode_event(json.dumps(resource).encode()), 5)], site, GROUPS, policy).events
    transition_of(event)  # fit to be stored
    return event


def of(*identities: str, **explanation: ExplainedTransition) -> PastVisit:
    """A visit that names these identities; with `as_`, from a source that explains it."""
    return PastVisit(
        VISIT, identities=frozenset(identities), transitions={EVENT: explanation["as_"]} if explanation else None
    )


@pytest.mark.parametrize(
    ("name", "data", "visit", "kind", "identity"),
    [
        pytest.param("SignIn", {"userID": "dana"}, of("dana"), "SignIn", "dana", id="by its name, as in the original"),
        pytest.param("UserInfo", {"userID": 42}, of("42"), "UserInfo", "42", id="a number"),
        pytest.param(
            "SignIn", {"login": "dana"}, of("dana"), "SignIn", "dana", id="any key that names an identity of the visit"
        ),
        pytest.param("SignIn", {"userID": "undefined"}, of("dana"), "", "", id="not an identity of the visit"),
        pytest.param("SignIn", {"username": "dana"}, PLAIN, "SignIn", "dana", id="unknown identities: usual keys"),
        pytest.param("SignIn", {"name": "dana"}, PLAIN, "", "", id="unknown identities: no usual key"),
        pytest.param("SignIn", {"userID": True}, PLAIN, "", "", id="no name"),
        pytest.param("SignOut", {}, of("dana"), "SignOut", "", id="sign-out"),
        pytest.param("Click", {"userID": "dana"}, of("dana"), "", "", id="names alone do not identify"),
        pytest.param(
            "SignIn",
            {},
            of("dana", as_=explained("sign_in.opens_session", "dana", "proven", "token_valid")),
            "SignIn",
            "dana",
            id="its token names it",
        ),
        pytest.param(
            "SignIn",
            {"userID": "dana"},
            of("dana", as_=explained("user_info.recognizes", "dana", "claimed", "token_missing")),
            "UserInfo",
            "dana",
            id="without the proof that its site demands",
        ),
        pytest.param(
            "UserInfo",
            {"userID": "ben"},
            of("dana", "ben", as_=explained("user_info.other_identity", "dana", "claimed", "user_info")),
            "UserInfo",
            "ben",
            id="another identity is signed in",
        ),
        pytest.param(
            "SignIn",
            {},
            of("ben", as_=explained("erased", None, "claimed", "no_key")),
            "",
            "",
            id="erased identity",
        ),
        pytest.param(
            "SignIn", {"userID": "dana"}, PastVisit(VISIT, transitions={}), "", "", id="it did not count there"
        ),
    ],
)
def test_a_transition_is_as_the_source_explains_it(
    name: str, data: Any, visit: PastVisit, kind: str, identity: str
) -> None:
    event = made_of(name, data, visit)
    assert (NAMES[event.transition], event.identity_id) == (kind, identity)


def test_assurance_is_that_of_the_source() -> None:
    explanation = of("dana", as_=explained("sign_in.opens_session", "dana", "proven", "token_valid"))
    event = made_of("SignIn", {}, explanation)
    assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_PROVEN, "token_valid")
    event = made_of("SignIn", {"userID": "dana"}, of("dana"))
    assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_CLAIMED, "imported")


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ('{"b": 1.50,"a":"\\u00e9"}', '{"b": 1.50,"a":"\\u00e9"}'),
        ("null", ""),
        ("{}", ""),
        ('["x"]', '{"value":["x"]}'),
    ],
)
def test_data_are_kept_byte_for_byte_and_are_an_object(data: str, kept: str) -> None:
    text = f'{{"eventID":"{EVENT}","visitID":"{VISIT}","timestamp":7,"data":{data}}}'
    [event] = to_batch(PLAIN, [TimedEvent(decode_event(text.encode()), 7)], "default", GROUPS, POLICY).events
    assert event.data_json.decode() == kept


def test_ids_and_times_are_those_of_the_source() -> None:
    event = made_of(
        "PageEntered", {}, eventID=EVENT.replace("-", "").upper(), pageID=PAGE, browserPageID="B", serverTimestamp=9
    )
    assert (event.event_id, event.page_id, event.browser_page_id) == (EVENT, PAGE, "B")
    assert (event.timestamp_ms, event.event_time_ms, event.received_time_ms) == (7, 5, 9)


def test_a_visit_belongs_to_the_group_of_its_site() -> None:
    event = made_of("Click", {}, site="shop")
    assert (event.visit_id, event.browser_visit_id) == (scoped_visit_id(VISIT, "shops"), VISIT)
    assert (made_of("Click", {}).visit_id, made_of("Click", {}).browser_visit_id) == (VISIT, "")


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"visitID":"v","timestamp":1}',
        '{"eventID":"e","visitID":"v","timestamp":"now"}',
        f'{{"eventID":"e","visitID":"v","timestamp":{10**13}}}',
        f'{{"eventID":"e","visitID":"v","timestamp":1,"data":{"[" * 5_000}{"]" * 5_000}}}',
        f'{{"eventID":"e","visitID":"v","timestamp":1,"url":"{"x" * 131_072}"}}',
    ],
    ids=["no object", "no id", "no time", "late", "deep", "large"],
)
def test_malformed_records_are_refused(record: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode_event(record.encode())


@pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
@pytest.mark.parametrize(
    ("data", "visit", "reason"),
    [
        ({"userID": "Undefined"}, PLAIN, event_pb2.IGNORED_REASON_PLACEHOLDER),
        ({"userID": "{{id}}"}, of("{{id}}"), event_pb2.IGNORED_REASON_TEMPLATE),
        ({"userID": "null"}, of("null", as_=explained("sign_in.opens_session", "null", "claimed", "no_key")), 2),
        ({"userID": "gast"}, of("dana", as_=explained("ignored", "dana", None, None)), 2),
    ],
)
def test_a_user_id_that_names_no_person_is_ignored(name: str, data: Any, visit: PastVisit, reason: int) -> None:
    event = made_of(name, data, visit)
    assert (event.ignored_reason, event.transition, event.identity_id, event.assurance) == (reason, 0, "", 0)


@pytest.mark.parametrize("name", ["SignIn", "UserInfo"])
def test_attributes_of_no_person_are_named(name: str) -> None:
    assert [*made_of(name, {"userID": "dana", "mail": "test@test.com"}).ignored_keys] == ["mail"]


def test_the_keys_of_the_policy_name_the_user() -> None:
    policy = IdentityPolicy(user_id_keys=["customerId"])
    assert made_of("SignIn", {"customerId": "dana", "userID": "7"}, policy=policy).identity_id == "dana"


def test_imported_events_of_a_site_of_staff_are_marked(tmp_path: Path) -> None:
    (file := tmp_path / "policy.toml").write_text('version = "1"\n[[site]]\nname = "default"\nstaff = true')
    for name in ("PageEntered", "SignIn"):
        event = made_of(name, {"userID": "dana"}, policy=IdentityPolicy.load(file))
        assert event.staff_reason == event_pb2.STAFF_REASON_SITE
        assert made_of(name, {"userID": "dana"}).staff_reason == event_pb2.STAFF_REASON_UNSPECIFIED
