"""What a policy decides about a stored event is what the collector would have decided under it."""

from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from footfall.event.v1.event_pb2 import Event
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sign_in_token import SigningKey
from footfall_collector.sites import Site, Sites
from footfall_eventlog.identity_policy import IdentityPolicy, PolicyForm, SiteRules
from footfall_history.policies.decisions import ERASED, REJECTED, Decision, Doubt, JudgedEvent, judge
from footfall_history.storage.documents import Document, erased, event_document
from footfall_timeline import Assurance, Kind
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.batches import batch, context, message

NOW_MS = 1_767_606_012_466
VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
SECRET = "the shop's secret, at least 32 bytes"
SITES = Sites([Site("shop", keys=(SigningKey.from_secret("one", SECRET),)), Site("blog")])
SIGNING = {"shop"}
CARD = "4012888888881881"

POLICIES = [
    IdentityPolicy(),
    IdentityPolicy(PolicyForm(version="more", placeholders=("gast", "ann"), persons=("guest",))),
    IdentityPolicy(PolicyForm(version="swapped", user_id_keys=("email", "userID", "customerId"))),
    IdentityPolicy(
        PolicyForm(
            version="by-site",
            user_id_keys=("customerId", "username"),
            persons=("test@test.com", "0000000000"),
            site=(SiteRules(name="blog", placeholders=("dana", "dana@mail.example")),),
        )
    ),
]


def document_of(event: Event, policy: IdentityPolicy) -> Document | None:
    """The event as history stores it after admission under a policy; None if it is rejected."""
    sent = batch(Event.FromString(event.SerializeToString()), contexts=[context(received_time_ms=NOW_MS)])
    rules = Admission(SITES, Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=policy.of_site)
    return None if rules.admit(sent, NOW_MS) else event_document(sent.events[0], sent.contexts[0])


def judged(document: Mapping[str, Any], policy: IdentityPolicy) -> JudgedEvent:
    return judge(document, policy.of_site, SIGNING)


def token(sub: str, **claims: Any) -> str:
    now_s = NOW_MS // 1000
    fixed = {"sub": sub, "aud": "shop", "visitID": VISIT, "iat": now_s - 5, "exp": now_s + 60}
    return jwt.encode(fixed | claims, SECRET, "HS256")


PEOPLE = ["ann", "dana", "gast", "guest", "undefined", "", " ", "{{id}}", "dana@mail.example", "test@test.com", CARD, 7]
VALUES = st.one_of(st.sampled_from(PEOPLE), st.none(), st.just(True))
DATA = st.dictionaries(st.sampled_from(["userID", "username", "email", "customerId"]), VALUES, min_size=1)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["phone", "firstName", "mail"]), st.sampled_from(["0000000000", "Dana", "null", CARD])
)
TOKENS = st.one_of(
    st.none(),
    st.sampled_from(["ann", "dana", "guest", "7"]).map(
        lambda sub: token(sub, email="test@test.com", email_verified=True)
    ),
    st.just("forged"),
)


@given(
    name=st.sampled_from(["SignIn", "UserInfo", "SignOut"]),
    site=st.sampled_from(["shop", "blog"]),
    data=DATA,
    attributes=ATTRIBUTES,
    given_token=TOKENS,
    policies=st.tuples(st.sampled_from(POLICIES), st.sampled_from(POLICIES)),
)
def test_a_stored_event_is_judged_as_the_collector_would_have(
    name: str,
    site: str,
    data: dict[str, Any],
    *,
    attributes: dict[str, Any],
    given_token: str | None,
    policies: tuple[IdentityPolicy, IdentityPolicy],
) -> None:
    before, after = policies
    sent = data | attributes | ({"token": given_token} if given_token else {})
    event = message(name, sent, visit_id=VISIT, site=site, timestamp_ms=NOW_MS)
    stored, other = document_of(event, before), document_of(event, after)
    if stored is None:
        return
    one = judged(stored, after)
    if one.doubt:
        assert site == "shop" or CARD in data.values()
        return
    if other is None:
        assert one.after == Decision(None, reason=REJECTED)
    else:
        assert one.after == judged(other, after).before
    if before is after:
        assert one.after == one.before


def sign_in(site: str = "blog", **data: Any) -> Event:
    return message("SignIn", data, visit_id=VISIT, site=site, timestamp_ms=NOW_MS)


def test_a_proven_sign_in_keeps_its_proof() -> None:
    stored = document_of(sign_in("shop", customerId="c-7", token=token("dana")), POLICIES[0])
    assert stored is not None
    for policy in POLICIES:
        one = judged(stored, policy)
        assert one.doubt is None
        assert one.after.effect == (Kind.SIGN_IN, "dana", Assurance.PROVEN, stored["token_id"])


def test_a_proven_sign_in_whose_page_names_another_user_is_a_user_info() -> None:
    stored = document_of(sign_in("shop", customerId="c-7", userID="dana", token=token("dana")), POLICIES[0])
    other = document_of(sign_in("shop", customerId="c-7", userID="ann", token=token("dana")), POLICIES[3])
    assert stored is not None
    assert other is not None
    assert judged(stored, POLICIES[3]).after.effect[:3] == (Kind.SIGN_IN, "dana", Assurance.PROVEN)
    one = judged(other, POLICIES[2])
    assert one.after.effect == (Kind.USER_INFO, "ann", Assurance.CLAIMED, "")


def test_an_ignored_sign_in_of_a_signing_site_counts_as_not_proven() -> None:
    stored = document_of(sign_in("shop", userID="guest", token=token("guest")), POLICIES[0])
    assert stored is not None
    one = judged(stored, POLICIES[1])
    assert (one.before.reason, one.after.effect[:3]) == ("placeholder", (Kind.USER_INFO, "guest", Assurance.CLAIMED))
    assert one.doubt is Doubt.TOKEN_NOT_KEPT


@pytest.mark.parametrize("policy", POLICIES[2:])
def test_a_masked_value_is_not_an_identity(policy: IdentityPolicy) -> None:
    stored = document_of(sign_in(customerId=CARD, email="dana@mail.example", userID="ann"), POLICIES[0])
    assert stored is not None
    assert CARD.encode() not in stored["data_json"]
    one = judged(stored, policy)
    if "customerId" in policy.of_site("blog").user_id_keys[:1]:
        assert (one.doubt, one.after) == (Doubt.MASKED, one.before)
    else:
        assert (one.doubt, one.after.identity) == (None, "dana@mail.example")


def test_a_masked_value_that_named_the_identity_still_does() -> None:
    stored = document_of(sign_in(customerId=CARD), POLICIES[3])
    assert stored is not None
    one = judged(stored, POLICIES[3])
    assert (one.doubt, one.after, one.after.identity) == (None, one.before, CARD)


def test_spellings_of_user_id_are_one_key() -> None:
    stored = document_of(sign_in(userId="dana"), POLICIES[0])
    assert stored is not None
    spelled = IdentityPolicy(PolicyForm(version="1", user_id_keys=("userId",)))
    assert judged(stored, spelled).after == judged(stored, spelled).before


def test_erased_and_malformed_events_keep_their_decision() -> None:
    stored = document_of(sign_in(userID="gast"), POLICIES[0])
    assert stored is not None
    one = judged(erased(stored), POLICIES[1])
    assert (one.doubt, one.after, one.before.reason) == (Doubt.ERASED, one.before, ERASED)
    for data in (b"[]", b"\xff", b'{"userID"'):
        one = judged(stored | {"data_json": data}, POLICIES[1])
        assert (one.doubt, one.after, one.before.identity) == (Doubt.MALFORMED, one.before, "gast")


def test_an_imported_event_keeps_whom_its_server_named() -> None:
    stored = document_of(sign_in(login="dana", userID="x"), POLICIES[0])
    assert stored is not None
    imported = stored | {"imported": True, "names_identity_id": "dana", "assurance_reason": "imported"}
    assert judged(imported, POLICIES[2]).after.identity == "dana"
    assert judged(imported, POLICIES[3]).after.reason == "placeholder"
