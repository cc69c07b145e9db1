"""Verification of sign-in tokens."""

import base64
import hashlib
import hmac
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sign_in_token import SigningKey, TokenRules
from footfall_collector.sites import Site, Sites

from tests.tools.batches import batch, context, message, new_uuid

NOW_S = 1_767_606_012
LEEWAY_S = 30
VISIT = "d23f0824-128b-4f33-8c5c-7fd0a6a3a450"
SECRET = "the shop's secret, at least 32 bytes"
OLD_SECRET = "the shop's secret before the last one"
OTHER_SECRET = "another site's secret, at least 32 bytes"
PRIVATE = Ed25519PrivateKey.generate()
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

SHOP = Site(
    "shop",
    keys=(
        SigningKey.from_secret("old", OLD_SECRET),
        SigningKey.from_secret("new", SECRET),
        SigningKey.from_public_key("ed", PUBLIC_PEM),
    ),
)
admission = Admission(
    Sites([SHOP, Site("bank", keys=(SigningKey.from_secret("new", OTHER_SECRET),)), Site("blog")]),
    Redactor(),
    max_event_age_ms=7 * DAY_MS,
    token_rules=TokenRules(leeway_s=LEEWAY_S),
)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a valid token with changes; None removes a claim."""
    good = {"sub": "dana", "aud": "shop", "visitID": VISIT, "iat": NOW_S - 5, "exp": NOW_S + 60}
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid} if kid else None)


def signed_in(
    given: Any,
    user: Any = "dana",
    site: str = "shop",
    name: str = "SignIn",
    *,
    now_s: float = NOW_S,
    happened_s: float | None = None,
    reported_s: float | None = None,
    key: str = "userID",
) -> Event:
    """Return a SignIn with this token after admission; it names the user under `key`.

    It happens at `now_s` unless `happened_s` is given. `reported_s` is the receive time that the caller reports.
    """
    data = {key: user} | ({} if given is None else {"token": given})
    now_ms = int(now_s * 1000)
    happened_ms = now_ms if happened_s is None else int(happened_s * 1000)
    reported_ms = now_ms if reported_s is None else int(reported_s * 1000)
    sent = batch(
        message(name, data, visit_id=VISIT, site=site, timestamp_ms=happened_ms),
        contexts=[context(received_time_ms=reported_ms, sent_time_ms=reported_ms)],
    )
    assert admission.admit(sent, now_ms) == {}
    [event] = sent.events
    assert json.loads(event.data_json) == {key: user}
    return event


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(body).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def hmac_signed(algorithm: str, material: bytes) -> str:
    """Return a valid token signed with any bytes; the library itself rejects some keys."""
    header = {"alg": algorithm, "typ": "JWT"}
    signing_input = unsigned(header, claims()).rpartition(".")[0].encode()
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[algorithm]
    return unsigned(header, claims(), hmac.digest(material, signing_input, digest))


@pytest.mark.parametrize(
    "good",
    [
        pytest.param(token(), id="no key id"),
        pytest.param(token(kid="new"), id="key id"),
        pytest.param(token(OLD_SECRET, kid="old"), id="the key before"),
        pytest.param(token(PRIVATE, "EdDSA"), id="EdDSA"),
        pytest.param(token(PRIVATE, "EdDSA", kid="ed"), id="EdDSA with key id"),
        pytest.param(token(aud=["bank", "shop"]), id="for two sites"),
        pytest.param(token(visitID=VISIT.replace("-", "").upper()), id="the visit in its other form"),
        pytest.param(token(iat=NOW_S + LEEWAY_S), id="issued by a clock that is a little fast"),
        pytest.param(token(exp=NOW_S - LEEWAY_S + 1), id="expired by a clock that is a little slow"),
        pytest.param(token(iat=NOW_S - 100, exp=NOW_S + 3_500), id="good for an hour"),
        pytest.param(token(iat=NOW_S - 0.5, exp=NOW_S + 0.5, nbf=NOW_S), id="fractions of seconds"),
    ],
)
def test_a_signed_token_proves_the_sign_in(good: str) -> None:
    event = signed_in(good)
    assert event.transition == event_pb2.TRANSITION_KIND_SIGN_IN
    assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_PROVEN, "token_valid")
    assert event.identity_id == "dana"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "token_missing"),
        ("", "token_forged"),
        ("a.b.c", "token_forged"),
        (token()[:-4] + "AAAA", "token_forged"),
        (token(OTHER_SECRET), "token_forged"),
        (token(kid="old"), "token_forged"),
        (token(kid="unknown"), "token_forged"),
        (token(Ed25519PrivateKey.generate(), "EdDSA"), "token_forged"),
        (hmac_signed("HS512", SECRET.encode()), "token_forged"),
        (unsigned({"alg": "none"}, claims()), "token_forged"),
        (unsigned({"alg": "None", "typ": "JWT"}, claims()), "token_forged"),
        (unsigned({"alg": ["HS256"]}, claims()), "token_forged"),
        (unsigned({"alg": "HS256", "kid": {"a": 1}}, claims()), "token_forged"),
        (unsigned({"alg": "HS256", "b64": False, "crit": ["b64"]}, {}), "token_forged"),
        (17, "token_forged"),
        ({"alg": "HS256"}, "token_forged"),
        (token(sub=None), "token_incomplete"),
        (token(aud=None), "token_incomplete"),
        (token(visitID=None), "token_incomplete"),
        (token(exp=None), "token_incomplete"),
        (token(iat=None), "token_incomplete"),
        (token(visitID=7), "token_incomplete"),
        (token(aud=[7]), "token_incomplete"),
        (token(aud="bank"), "token_other_site"),
        (token(aud=[]), "token_other_site"),
        (token(aud="shop2"), "token_other_site"),
        (token(visitID=new_uuid()), "token_other_visit"),
        (token(visitID="x"), "token_other_visit"),
        (token(sub="bob"), "token_wrong_subject"),
        (token(sub="Dana"), "token_wrong_subject"),
        (token(sub=""), "token_wrong_subject"),
        (token(exp=NOW_S - LEEWAY_S), "token_expired"),
        (token(iat=0, exp=1), "token_expired"),
        (token(iat=NOW_S + LEEWAY_S + 1), "token_not_yet_valid"),
        (token(nbf=NOW_S + LEEWAY_S + 1), "token_not_yet_valid"),
        (token(iat=NOW_S - 100, exp=NOW_S + 3_501), "token_long_lived"),
        (token(iat=NOW_S, exp=NOW_S + 100 * 365 * 86_400), "token_long_lived"),
        (token(iat=0, exp=NOW_S + 60), "token_long_lived"),
    ],
)
def test_without_a_valid_token_a_sign_in_counts_as_a_user_info(bad: Any, reason: str) -> None:
    event = signed_in(bad)
    assert event.transition == event_pb2.TRANSITION_KIND_USER_INFO
    assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_CLAIMED, reason)
    assert (event.event_name, event.identity_id) == ("SignIn", "dana")
    assert (event.proven_json, event.token_id) == (b"", "")


def test_a_public_key_is_no_secret() -> None:
    raw = PRIVATE.public_key().public_bytes_raw()
    for material in (PUBLIC_PEM.encode(), PUBLIC_PEM.strip().encode(), raw):
        assert signed_in(hmac_signed("HS256", material)).assurance_reason == "token_forged"
    assert signed_in(hmac_signed("HS256", SECRET.encode())).assurance_reason == "token_valid"


@pytest.mark.parametrize("reported_s", [None, NOW_S, NOW_S - 3 * 86_400])
def test_a_token_is_verified_by_the_collectors_clock(reported_s: float | None) -> None:
    good = token()
    assert signed_in(good, now_s=NOW_S + 60 + LEEWAY_S - 1, happened_s=NOW_S).assurance_reason == "token_valid"
    late = signed_in(good, now_s=NOW_S + 60 + LEEWAY_S, happened_s=NOW_S, reported_s=reported_s)
    assert late.assurance_reason == "token_expired"


@pytest.mark.parametrize(
    ("before_issue_s", "reason"),
    [(300, "token_valid"), (301, "token_issued_later"), (6 * 86_400, "token_issued_later")],
)
def test_a_token_does_not_prove_a_sign_in_long_before_its_issue(before_issue_s: int, reason: str) -> None:
    assert signed_in(token(iat=NOW_S), happened_s=NOW_S - before_issue_s).assurance_reason == reason


@pytest.mark.parametrize(
    ("said", "proven"),
    [
        ({}, {}),
        ({"email": "dana@mail.example"}, {}),
        ({"email": "dana@mail.example", "email_verified": False}, {}),
        ({"email": "dana@mail.example", "email_verified": "true"}, {}),
        ({"email": "dana@mail.example", "email_verified": True}, {"email": "dana@mail.example"}),
        ({"phone_number": "+49301234567"}, {"phone_number": "+49301234567"}),
        ({"phone_number": "+49301234567", "phone_number_verified": True}, {"phone_number": "+49301234567"}),
        ({"phone_number": "+49301234567", "phone_number_verified": False}, {}),
        ({"given_name": "Dana", "family_name": "Lee"}, {"given_name": "Dana", "family_name": "Lee"}),
        ({"given_name": 7, "family_name": "", "phone_number": ["1"], "email": {}, "email_verified": True}, {}),
        ({"given_name": "x" * 257, "location": "Berlin", "phone": "+49301234567"}, {}),
    ],
)
def test_a_token_proves_only_its_standard_claims(said: dict[str, Any], proven: dict[str, str]) -> None:
    event = signed_in(token(**said))
    assert event.assurance_reason == "token_valid"
    assert json.loads(event.proven_json or b"{}") == proven
    assert signed_in(token(OTHER_SECRET, **said)).proven_json == b""


def test_the_token_id_does_not_depend_on_the_encoding() -> None:
    good = token(iat=NOW_S)
    known = signed_in(good).token_id
    padded = signed_in(good + "=")
    assert (padded.assurance_reason, padded.token_id) == ("token_valid", known)
    assert re.fullmatch("[0-9a-f]{16}", known)
    assert signed_in(token(iat=NOW_S, jti="another")).token_id != known


def test_a_numeric_user_id_is_signed_as_its_decimal_text() -> None:
    assert signed_in(token(sub="42"), user=42).assurance_reason == "token_valid"


@pytest.mark.parametrize(("key", "said"), [("email", "dana@example.com"), ("username", "root"), ("name", "Dana")])
def test_without_a_user_id_the_subject_of_the_token_counts(key: str, said: str) -> None:
    event = signed_in(token(), said, key=key)
    assert (event.identity_id, event.assurance_reason) == ("dana", "token_valid")
    assert (event.transition, event.assurance) == (event_pb2.TRANSITION_KIND_SIGN_IN, event_pb2.ASSURANCE_PROVEN)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "token_missing"),
        (token(OTHER_SECRET), "token_forged"),
        (token(sub=""), "token_wrong_subject"),
        (token(sub="x" * 513), "token_wrong_subject"),
    ],
)
def test_without_user_id_and_valid_token_nothing_is_proven(bad: Any, reason: str) -> None:
    event = signed_in(bad, "dana@example.com", key="email")
    assert (event.identity_id, event.assurance_reason) == ("dana@example.com", reason)
    assert (event.transition, event.assurance) == (event_pb2.TRANSITION_KIND_USER_INFO, event_pb2.ASSURANCE_CLAIMED)


@pytest.mark.parametrize("key", ["userID", "username"])
def test_a_signed_placeholder_identifies_no_person(key: str) -> None:
    event = signed_in(token(sub="undefined", email="test@test.com", email_verified=True), "undefined", key=key)
    assert event.ignored_reason == event_pb2.IGNORED_REASON_PLACEHOLDER
    assert (event.transition, event.identity_id, event.assurance) == (0, "", 0)
    assert (event.assurance_reason, event.proven_json, event.token_id) == ("", b"", "")


def test_signed_attributes_of_no_person_are_named() -> None:
    event = signed_in(token(email="test@test.com", email_verified=True, phone_number="+49301234567"), "dana")
    assert (event.identity_id, [*event.ignored_keys]) == ("dana", ["email"])


def test_without_a_key_a_sign_in_is_trusted_and_its_token_ignored() -> None:
    for given in (None, token(), "rubbish"):
        event = signed_in(given, site="blog")
        assert event.transition == event_pb2.TRANSITION_KIND_SIGN_IN
        assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_CLAIMED, "no_key")


def test_a_token_does_not_prove_a_user_info() -> None:
    event = signed_in(token(), name="UserInfo")
    assert event.transition == event_pb2.TRANSITION_KIND_USER_INFO
    assert (event.assurance, event.assurance_reason) == (event_pb2.ASSURANCE_CLAIMED, "user_info")


def test_keys_of_one_site_prove_nothing_on_another() -> None:
    assert signed_in(token(aud="bank"), site="bank").assurance_reason == "token_forged"
    assert signed_in(token(OTHER_SECRET, aud="bank"), site="bank").assurance_reason == "token_valid"


def test_the_repr_of_a_site_shows_no_secret() -> None:
    assert SECRET not in repr(SHOP)


def test_a_thousand_bad_tokens_authenticate_no_user() -> None:
    chance = random.Random(7)  # noqa: S311
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

    def forged() -> str:
        good = token(chance.choice([SECRET, OLD_SECRET]))
        place = chance.randrange(len(good) - 1)  # the last character has unused bits
        return good[:place] + chance.choice([c for c in alphabet if c != good[place]]) + good[place + 1 :]

    bad: list[Callable[[], str]] = [
        forged,
        lambda: token(chance.randbytes(32)),
        lambda: token(Ed25519PrivateKey.generate(), "EdDSA", kid="ed"),
        lambda: unsigned({"alg": chance.choice(["none", "NONE", "", "HS256"])}, claims(), chance.randbytes(3)),
        lambda: token(iat=NOW_S - chance.randint(100, 10**6), exp=NOW_S - chance.randint(LEEWAY_S, 99)),
        lambda: token(visitID=new_uuid()),
        lambda: token(aud=chance.choice(["bank", "blog", "SHOP", "shop ", "*"])),
        lambda: token(OTHER_SECRET, aud="bank"),
        lambda: token(sub=chance.choice(["bob", "admin", "dana ", "DANA"])),
        lambda: "".join(chance.choices(alphabet, k=chance.randint(0, 200))),
    ]
    reasons: Counter[str] = Counter()
    for number in range(1_000):
        event = signed_in(bad[number % len(bad)]())
        assert event.transition == event_pb2.TRANSITION_KIND_USER_INFO
        assert event.assurance == event_pb2.ASSURANCE_CLAIMED
        reasons[event.assurance_reason] += 1
    assert set(reasons) == {
        "token_forged",
        "token_expired",
        "token_other_visit",
        "token_other_site",
        "token_wrong_subject",
    }
