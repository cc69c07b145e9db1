"""Turns the token of a SignIn into what it proves: that the website's server says who signed in, here and now.

A token is a JWT signed with one of the site's keys: `sub` the user id, `aud` the site, `visitID` the visit, `iat` and
`exp`. It is judged once, at admission, by the collector's own clock, so reading the log again needs no key.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from footfall_timeline import normalize_uuid

from footfall_collector.identified_user import MAX_USER_ID

Algorithm = Literal["HS256", "EdDSA"]
LEAST_SECRET_BYTES: Final = 32  # as long as HS256's output: RFC 7518, 3.2
LONGEST_CLAIM: Final = 256
"""Characters of a claim about the person; a longer one says nothing."""
_TOKEN_ID_BYTES: Final = 8

_signatures = jwt.PyJWS(algorithms=["HS256", "EdDSA"])


class Verdict(StrEnum):
    """What a token, or its absence, says; the `assurance_reason` of the event. All but VALID prove nothing."""

    VALID = "token_valid"
    MISSING = "token_missing"
    FORGED = "token_forged"
    """It is no token, or none of the site's keys has signed it."""
    INCOMPLETE = "token_incomplete"
    """Signed, but a claim is missing or of the wrong type."""
    OTHER_SITE = "token_other_site"
    OTHER_VISIT = "token_other_visit"
    WRONG_SUBJECT = "token_wrong_subject"
    NOT_YET_VALID = "token_not_yet_valid"
    EXPIRED = "token_expired"
    LONG_LIVED = "token_long_lived"
    """From `iat` to `exp` is longer than a token may be good for."""
    ISSUED_LATER = "token_issued_later"
    """The event happened, by its own time, before the token was made."""


class Proof(NamedTuple):
    """A verdict, and what a VALID token proves: its subject, and more.

    `attributes` is a JSON object of the claims about the person that count. `token_id` stands for the token: whatever
    is changed in a token's text without breaking its signature, it stays the same.
    """

    verdict: Verdict
    user_id: str = ""
    attributes: bytes = b""
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a deployment demands of tokens, in seconds.

    `leeway_s` is how far the clock of the website's server may be off, `longest_life_s` how long a token may be good
    for, and `predating_s` how long before its token was made an event may have happened, by the browser's clock.
    """

    leeway_s: float = 30
    longest_life_s: float = 3_600
    predating_s: float = 300


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key a site signs with. It verifies tokens of its own algorithm alone: no key can be taken for another kind."""

    key_id: str
    algorithm: Algorithm
    material: bytes | Ed25519PublicKey = field(repr=False)

    @classmethod
    def from_secret(cls, key_id: str, secret: str) -> "SigningKey":
        """Return an HS256 key. Raises ValueError when the secret is too short."""
        material = secret.encode()
        if len(material) < LEAST_SECRET_BYTES:
            raise ValueError(f"the secret must have at least {LEAST_SECRET_BYTES} bytes")
        return cls(key_id, "HS256", material)

    @classmethod
    def from_public_key(cls, key_id: str, pem: str) -> "SigningKey":
        """Return an EdDSA key. Raises ValueError when it is no Ed25519 public key in PEM form."""
        try:
            material = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            material = None
        if not isinstance(material, Ed25519PublicKey):
            # Its content is wrong, not its type.
            raise ValueError("the public key must be an Ed25519 public key in PEM form")  # noqa: TRY004
        return cls(key_id, "EdDSA", material)

    def payload_of(self, token: str) -> bytes | None:
        """Return what the token says if this key has signed it."""
        try:
            payload: bytes = _signatures.decode_complete(token, self.material, algorithms=[self.algorithm])["payload"]
        except jwt.PyJWTError:
            return None
        return payload


class _Claims(msgspec.Struct):
    sub: str
    aud: str | list[str]
    visit_id: str = msgspec.field(name="visitID")
    exp: float
    iat: float
    nbf: float | None = None
    # Claims about the person (OpenID Connect Core, 5.1). One of another type than it should be says nothing.
    email: Any = None
    email_verified: Any = None
    phone_number: Any = None
    phone_number_verified: Any = None
    given_name: Any = None
    family_name: Any = None

    def attributes(self) -> dict[str, str]:
        """What the website's server vouches for: not an address that it has not verified, or a number it has not."""
        given = {"given_name": self.given_name, "family_name": self.family_name}
        if self.email_verified is True:
            given["email"] = self.email
        if self.phone_number_verified is not False:  # many servers keep numbers and know nothing of verifying them
            given["phone_number"] = self.phone_number
        return {name: text for name, text in given.items() if isinstance(text, str) and 1 <= len(text) <= LONGEST_CLAIM}


_decode_claims = msgspec.json.Decoder(_Claims).decode


def judge(
    token: object,
    keys: Sequence[SigningKey],
    *,
    site: str,
    visit_id: str,
    user_id: str,
    happened_ms: int,
    now_ms: int,
    rules: TokenRules,
) -> Proof:
    """Judge the token of a SignIn that names `user_id`, or whom its token names if "", in a visit of such a site."""
    if token is None:
        return Proof(Verdict.MISSING)
    payload = _payload(token, keys) if isinstance(token, str) else None
    if payload is None:
        return Proof(Verdict.FORGED)
    try:
        claims = _decode_claims(payload)
    except (ValueError, RecursionError):
        return Proof(Verdict.INCOMPLETE)
    verdict = _mismatch(claims, site, visit_id, user_id) or _wrong_time(
        claims, happened_ms / 1000, now_ms / 1000, rules
    )
    if verdict:
        return Proof(verdict)
    attributes = claims.attributes()
    token_id = hashlib.blake2b(payload, digest_size=_TOKEN_ID_BYTES).hexdigest()
    return Proof(Verdict.VALID, claims.sub, msgspec.json.encode(attributes) if attributes else b"", token_id)


def _mismatch(claims: _Claims, site: str, visit_id: str, user_id: str) -> Verdict | None:
    if site not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        return Verdict.OTHER_SITE
    if not _is_same_visit(claims.visit_id, visit_id):
        return Verdict.OTHER_VISIT
    if not user_id:
        return None if 1 <= len(claims.sub) <= MAX_USER_ID else Verdict.WRONG_SUBJECT
    return Verdict.WRONG_SUBJECT if claims.sub != user_id else None


def _wrong_time(claims: _Claims, happened_s: float, now_s: float, rules: TokenRules) -> Verdict | None:
    if max(claims.iat, claims.nbf or 0) > now_s + rules.leeway_s:
        return Verdict.NOT_YET_VALID
    if now_s >= claims.exp + rules.leeway_s:
        return Verdict.EXPIRED
    if claims.exp - claims.iat > rules.longest_life_s:
        return Verdict.LONG_LIVED
    return Verdict.ISSUED_LATER if happened_s < claims.iat - rules.predating_s else None


def _payload(token: str, keys: Iterable[SigningKey]) -> bytes | None:
    """What the token says, if a key with its key id, or any key when it names none, has signed it."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None
    key_id = header.get("kid")
    candidates = (key for key in keys if key_id in {None, key.key_id})
    return next((payload for key in candidates if (payload := key.payload_of(token)) is not None), None)


def _is_same_visit(claimed: str, visit_id: str) -> bool:
    try:
        return normalize_uuid(claimed) == visit_id
    except ValueError:
        return False
